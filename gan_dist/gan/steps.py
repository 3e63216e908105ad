"""The two updates of a step. Each changes one network and returns named, detached figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gan_dist.data.batch import Batch
from gan_dist.gan.labels import BatchLabels, Labels
from gan_dist.gan.losses import Logits, Loss
from gan_dist.gan.penalties import Critic
from gan_dist.gan.update import PartStats, Stats, Update


@dataclass(frozen=True)
class Gan:
    """Two networks and what trains them.

    The networks are bare modules in the precision of the passes. Only an update communicates, once.
    """

    generator: nn.Module
    discriminator: nn.Module
    generator_update: Update
    discriminator_update: Update
    loss: Loss
    critic: Critic
    """Computes the discriminator's logits and penalties in its own step."""
    latents: Callable[[int, str], Float[Tensor, "n latent"]]
    """(step, purpose) -> this rank's latent vectors, in the precision of the passes."""
    labels: BatchLabels
    """Chooses the labels that the networks see."""


def discriminator_step(gan: Gan, batch: Batch, step: int) -> Stats:
    """Updates the discriminator only, with new fake images.

    Args:
        gan: the networks.
        batch: this rank's real images.
        step: the step's number, which determines the latents and the labels of the fake images.

    Returns:
        loss/discriminator without the penalties, score/real and score/fake (see `Loss.scores`), and each penalty
        without its weight. One value for each part of this rank's share, computed before the update.
    """
    purpose = "discriminator"
    labels = gan.labels.real(batch), gan.labels.fake(batch, step, purpose)
    inputs = batch.images, gan.latents(step, purpose), *labels, *gan.critic.draw(step)
    return gan.discriminator_update(partial(discriminator_loss, gan), *inputs)


def generator_step(gan: Gan, batch: Batch, step: int) -> Stats:
    """Updates the generator only, with new fake images.

    Args:
        gan: the networks.
        batch: this rank's real images, for paired losses.
        step: the step's number, which determines the latents and the labels of the fake images.

    Returns:
        loss/generator. One value for each part of this rank's share, computed before the update.
    """
    purpose = "generator"
    labels = gan.labels.real(batch), gan.labels.fake(batch, step, purpose)
    return gan.generator_update(partial(generator_loss, gan), batch.images, gan.latents(step, purpose), *labels)


def discriminator_loss(
    gan: Gan,
    real: Float[Tensor, "n c h w"],
    latents: Float[Tensor, "n latent"],
    real_labels: Labels | None,
    fake_labels: Labels | None,
    *drawn: Tensor,
) -> tuple[Float[Tensor, ""], PartStats]:
    """The discriminator's objective, with its graph, and the figures of `discriminator_step`.

    Args:
        gan: the networks.
        real: real images in [-1, 1].
        latents: of the fake images.
        real_labels, fake_labels: None if the networks are unconditional.
        drawn: random inputs of the penalty, from `Critic.draw`.
    """
    with torch.no_grad():  # no gradients for the generator
        fake = gan.generator(latents, fake_labels)
    output = gan.critic(Batch(real, real_labels), Batch(fake, fake_labels), *drawn)
    loss = gan.loss.discriminator(output.real_logits, output.fake_logits)
    real_score, fake_score = gan.loss.scores(output.real_logits.detach(), output.fake_logits.detach())
    return loss + output.penalty, {
        "loss/discriminator": loss.detach(),
        "score/real": real_score,
        "score/fake": fake_score,
        **output.figures,
    }


def generator_loss(
    gan: Gan,
    real: Float[Tensor, "n c h w"],
    latents: Float[Tensor, "n latent"],
    real_labels: Labels | None,
    fake_labels: Labels | None,
) -> tuple[Float[Tensor, ""], PartStats]:
    """The generator's objective, with its graph, and the figure of `generator_step`.

    Args:
        gan: the networks.
        real: real images in [-1, 1], for paired losses.
        latents: of the fake images.
        real_labels, fake_labels: None if the networks are unconditional.
    """
    fake = gan.generator(latents, fake_labels)

    def real_logits() -> Logits:
        with torch.no_grad():  # they do not depend on the generator
            return gan.discriminator(real.to(fake.dtype), real_labels).float()

    loss = gan.loss.generator_loss(gan.discriminator(fake, fake_labels).float(), real_logits)
    return loss, {"loss/generator": loss.detach()}
