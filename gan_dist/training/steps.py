"""The seed's two updates. Each moves one network and returns what happened as named, detached figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gan_dist.training.losses import Loss
from gan_dist.training.update import PartStats, Stats, Update


@dataclass(frozen=True)
class Gan:
    """Two networks and what trains them.

    The networks are bare modules, in the precision of the passes: a forward pass does no communication, an update does
    it once.
    """

    generator: nn.Module
    discriminator: nn.Module
    generator_update: Update
    discriminator_update: Update
    loss: Loss
    latents: Callable[[int, str], Float[Tensor, "n latent"]]
    """(step, purpose) -> this rank's latent vectors, in the precision of the passes."""


def discriminator_step(gan: Gan, real: Float[Tensor, "n c h w"], step: int) -> Stats:
    """One update of the discriminator alone: real images against 1, fresh fakes against 0, the two losses added.

    Args:
        gan: the networks.
        real: this rank's real images in [-1, 1].
        step: the step's number, which fixes the latents.

    Returns:
        loss/discriminator, and score/real and score/fake: the mean of D's probability for the real and for the
        fake images; of each part of this rank's share, before the update.
    """

    def loss_of(real: Tensor, latents: Tensor) -> tuple[Tensor, PartStats]:
        with torch.no_grad():  # nothing flows back into the generator
            fake = gan.generator(latents)
        # One pass over both halves is the same function as two: no network here mixes the samples of a batch.
        images = torch.cat([real.to(fake.dtype), fake])
        real_logits, fake_logits = gan.discriminator(images).float().chunk(2)
        loss = gan.loss.discriminator(real_logits, fake_logits)
        return loss, {
            "loss/discriminator": loss.detach(),
            "score/real": real_logits.detach().sigmoid().mean(),
            "score/fake": fake_logits.detach().sigmoid().mean(),
        }

    return gan.discriminator_update(loss_of, real, gan.latents(step, "discriminator"))


def generator_step(gan: Gan, step: int) -> Stats:
    """One update of the generator alone: fresh fakes through D against 1.

    Args:
        gan: the networks.
        step: the step's number, which fixes the latents.

    Returns:
        loss/generator of each part of this rank's share, before the update.
    """

    def loss_of(latents: Tensor) -> tuple[Tensor, PartStats]:
        loss = gan.loss.generator(gan.discriminator(gan.generator(latents)).float())
        return loss, {"loss/generator": loss.detach()}

    return gan.generator_update(loss_of, gan.latents(step, "generator"))
