"""One training step of a GAN: losses, penalties, latents, gradient reduction and updates, in plain torch."""
