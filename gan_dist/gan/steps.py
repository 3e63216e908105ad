"""The two updates of a step. Each changes one network and returns named, detached figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gan_dist.data.batch import Batch, Labels
from gan_dist.gan.augmentation import NO_AUGMENTATION, Augmentation, AugmentationNumbers, Numbers
from gan_dist.gan.labels import BatchLabels
from gan_dist.gan.latents import Draws
from gan_dist.gan.losses import Logits, Loss
from gan_dist.gan.penalties import Critic, augmented
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
    draws: Draws
    """The source of all random numbers."""
    latents: Callable[[str], Float[Tensor, "n latent"]]
    """Purpose -> this rank's latent vectors, in the precision of the passes."""
    labels: BatchLabels
    """Chooses the labels that the networks see."""
    augmentation: Augmentation = NO_AUGMENTATION
    """Of the images that the discriminator sees, in both steps; the critic has the same."""

    def begin(self, step: int) -> None:
        """Must be called before the two updates of a step.

        Args:
            step: its number, which determines the latents and labels of the fake images, and all other random numbers.
        """
        self.draws.begin(step)


def discriminator_step(gan: Gan, batch: Batch) -> Stats:
    """Updates the discriminator only, with new fake images.

    Args:
        gan: the networks, after `Gan.begin`.
        batch: this rank's real images.

    Returns:
        loss/discriminator without the penalties, score/real and score/fake (see `Loss.scores`), each penalty without
        its weight, and the figures of the augmentation. One value for each part of this rank's share, computed before
        the update.
    """
    inputs = step_inputs(gan, batch, "discriminator")
    return gan.discriminator_update(partial(discriminator_loss, gan), *inputs, *gan.critic.draw())


def generator_step(gan: Gan, batch: Batch) -> Stats:
    """Updates the generator only, with new fake images.

    Args:
        gan: the networks, after the discriminator's step.
        batch: this rank's real images, for paired losses.

    Returns:
        loss/generator. One value for each part of this rank's share, computed before the update.
    """
    return gan.generator_update(partial(generator_loss, gan), *step_inputs(gan, batch, "generator"))


def step_inputs(gan: Gan, batch: Batch, purpose: str) -> tuple[Tensor | None, ...]:
    """The inputs that both losses have, for this rank's whole share, in the order of their arguments.

    Args:
        gan: the networks.
        batch: this rank's real images.
        purpose: discriminator or generator; each has its own random numbers, valid until the next call.
    """
    labels = gan.labels.real(batch), gan.labels.fake(batch, purpose)
    return batch.images, gan.latents(purpose), *labels, gan.augmentation.draw(purpose)


def discriminator_loss(
    gan: Gan,
    real: Float[Tensor, "n c h w"],
    latents: Float[Tensor, "n latent"],
    real_labels: Labels | None,
    fake_labels: Labels | None,
    augmentation: AugmentationNumbers | None,
    *drawn: Tensor,
) -> tuple[Float[Tensor, ""], PartStats]:
    """The discriminator's objective, with its graph, and the figures of `discriminator_step`.

    Args:
        gan: the networks.
        real: real images in [-1, 1].
        latents: of the fake images.
        real_labels, fake_labels: None if the networks are unconditional.
        augmentation: from `Augmentation.draw`.
        drawn: random inputs of the penalty, from `Critic.draw`.
    """
    of_real, of_fake = _of_real_and_fake(augmentation)
    with torch.no_grad():  # no gradients for the generator
        fake = gan.generator(latents, fake_labels)
    output = gan.critic(Batch(real, real_labels, of_real), Batch(fake, fake_labels, of_fake), *drawn)
    loss = gan.loss.discriminator(output.real_logits, output.fake_logits)
    detached = output.real_logits.detach(), output.fake_logits.detach()
    real_score, fake_score = gan.loss.scores(*detached)
    return loss + output.penalty, {
        "loss/discriminator": loss.detach(),
        "score/real": real_score,
        "score/fake": fake_score,
        **output.figures,
        **gan.augmentation.statistics(*detached),
    }


def generator_loss(
    gan: Gan,
    real: Float[Tensor, "n c h w"],
    latents: Float[Tensor, "n latent"],
    real_labels: Labels | None,
    fake_labels: Labels | None,
    augmentation: AugmentationNumbers | None,
) -> tuple[Float[Tensor, ""], PartStats]:
    """The generator's objective, with its graph, and the figure of `generator_step`.

    Args:
        gan: the networks.
        real: real images in [-1, 1], for paired losses.
        latents: of the fake images.
        real_labels, fake_labels: None if the networks are unconditional.
        augmentation: from `Augmentation.draw`.
    """
    of_real, of_fake = _of_real_and_fake(augmentation)
    logits_of = augmented(gan.discriminator, gan.augmentation)
    fake = gan.generator(latents, fake_labels)

    def real_logits() -> Logits:
        with torch.no_grad():  # they do not depend on the generator
            return logits_of(Batch(real.to(fake.dtype), real_labels, of_real)).float()

    loss = gan.loss.generator_loss(logits_of(Batch(fake, fake_labels, of_fake)).float(), real_logits)
    return loss, {"loss/generator": loss.detach()}


def _of_real_and_fake(augmentation: AugmentationNumbers | None) -> tuple[Numbers | None, Numbers | None]:
    return (None, None) if augmentation is None else (augmentation[:, 0], augmentation[:, 1])
