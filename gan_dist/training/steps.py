"""The seed's two updates. Each moves one network and returns what happened as named, detached scalars."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from gan_dist.training.losses import Loss

Stats = dict[str, Float[Tensor, ""]]


@dataclass(frozen=True)
class Gan:
    """Two networks and what trains them.

    `discriminator` and `generator` are the networks as Accelerate prepared them: with several ranks, calling one
    and going backward adds its gradients over the ranks. The bare modules under them do no communication.
    """

    generator: nn.Module
    discriminator: nn.Module
    bare_generator: nn.Module
    bare_discriminator: nn.Module
    generator_optimizer: Optimizer
    discriminator_optimizer: Optimizer
    loss: Loss
    latents: Callable[[int, str], Float[Tensor, "n latent"]]
    """(step, purpose) -> this rank's latent vectors."""
    backward: Callable[[Tensor], None]
    """Loss -> gradients; Accelerator.backward, which knows of loss scaling."""


def discriminator_step(gan: Gan, real: Float[Tensor, "n c h w"], step: int) -> Stats:
    """One update of the discriminator alone: real images against 1, fresh fakes against 0, the two losses added.

    Args:
        gan: the networks.
        real: this rank's real images in [-1, 1].
        step: the step's number, which fixes the latents.

    Returns:
        This rank's loss/discriminator, and score/real and score/fake: the mean of D's probability for the real and
        for the fake images, before the update.
    """
    with torch.no_grad():  # nothing flows back into the generator
        fake = gan.bare_generator(gan.latents(step, "discriminator"))
    # One pass over both halves is the same function as two, for no network here mixes the samples of a batch.
    real_logits, fake_logits = gan.discriminator(torch.cat([real, fake])).chunk(2)
    loss = gan.loss.discriminator(real_logits, fake_logits)
    gan.discriminator_optimizer.zero_grad()
    gan.backward(loss)
    gan.discriminator_optimizer.step()
    return {
        "loss/discriminator": loss.detach(),
        "score/real": real_logits.detach().sigmoid().mean(),
        "score/fake": fake_logits.detach().sigmoid().mean(),
    }


def generator_step(gan: Gan, step: int) -> Stats:
    """One update of the generator alone: fresh fakes through D against 1.

    Args:
        gan: the networks.
        step: the step's number, which fixes the latents.

    Returns:
        This rank's loss/generator, before the update.
    """
    # Frozen and bare, D lets the gradient through without computing or communicating any of its own.
    gan.bare_discriminator.requires_grad_(False)
    fake_logits = gan.bare_discriminator(gan.generator(gan.latents(step, "generator")))
    loss = gan.loss.generator(fake_logits)
    gan.generator_optimizer.zero_grad()
    gan.backward(loss)
    gan.generator_optimizer.step()
    gan.bare_discriminator.requires_grad_(True)
    return {"loss/generator": loss.detach()}
