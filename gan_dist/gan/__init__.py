"""The science of one training step: losses, penalties, latents, reductions and updates. Plain torch, no launcher."""
