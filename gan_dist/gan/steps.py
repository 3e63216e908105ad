"""The two updates of a step. Each moves one network and returns what happened as named, detached figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gan_dist.gan.losses import Loss
from gan_dist.gan.penalties import Critic
from gan_dist.gan.update import PartStats, Stats, Update


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
    critic: Critic
    """Asks the discriminator about real and fake images in its own step, and adds the penalties."""
    latents: Callable[[int, str], Float[Tensor, "n latent"]]
    """(step, purpose) -> this rank's latent vectors, in the precision of the passes."""


def discriminator_step(gan: Gan, real: Float[Tensor, "n c h w"], step: int) -> Stats:
    """One update of the discriminator alone: real images and fresh fakes, one loss and the penalties.

    Args:
        gan: the networks.
        real: this rank's real images in [-1, 1].
        step: the step's number, which fixes the latents.

    Returns:
        loss/discriminator, without the penalties; score/real and score/fake (`Loss.scores`); each penalty without its
        weight. Of each part of this rank's share, before the update.
    """
    inputs = real, gan.latents(step, "discriminator"), *gan.critic.draw(step)
    return gan.discriminator_update(partial(discriminator_loss, gan), *inputs)


def generator_step(gan: Gan, real: Float[Tensor, "n c h w"], step: int) -> Stats:
    """One update of the generator alone: fresh fakes through D, beside the real images if the loss pairs them.

    Args:
        gan: the networks.
        real: this rank's real images in [-1, 1].
        step: the step's number, which fixes the latents.

    Returns:
        loss/generator of each part of this rank's share, before the update.
    """
    return gan.generator_update(partial(generator_loss, gan), real, gan.latents(step, "generator"))


def discriminator_loss(
    gan: Gan, real: Float[Tensor, "n c h w"], latents: Float[Tensor, "n latent"], *drawn: Tensor
) -> tuple[Float[Tensor, ""], PartStats]:
    """What the discriminator minimizes, with its graph, and its figures.

    Args:
        gan: the networks.
        real: real images in [-1, 1].
        latents: of the fake images.
        drawn: what the penalty needs besides, of `Critic.draw`.
    """
    with torch.no_grad():  # nothing flows back into the generator
        fake = gan.generator(latents)
    judged = gan.critic(real, fake, *drawn)
    loss = gan.loss.discriminator(judged.real_logits, judged.fake_logits)
    real_score, fake_score = gan.loss.scores(judged.real_logits.detach(), judged.fake_logits.detach())
    return loss + judged.penalty, {
        "loss/discriminator": loss.detach(),
        "score/real": real_score,
        "score/fake": fake_score,
        **judged.figures,
    }


def generator_loss(
    gan: Gan, real: Float[Tensor, "n c h w"], latents: Float[Tensor, "n latent"]
) -> tuple[Float[Tensor, ""], PartStats]:
    """What the generator minimizes, with its graph, and its figure.

    Args:
        gan: the networks.
        real: real images in [-1, 1], for losses that pair them with the fake ones.
        latents: of the fake images.
    """
    fake = gan.generator(latents)
    real_logits = gan.loss.real_logits(real, lambda images: gan.discriminator(images.to(fake.dtype)))
    loss = gan.loss.generator(gan.discriminator(fake).float(), real_logits)
    return loss, {"loss/generator": loss.detach()}
