"""Penalties on the gradient of D's logit with respect to the image.

The formulas are pure functions. A `Critic` computes the logits and the penalties of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from gan_dist.data.batch import Batch, Labels
from gan_dist.gan.augmentation import NO_AUGMENTATION, Augmentation
from gan_dist.gan.losses import Logits, Scalar

Images = Float[Tensor, "n c h w"]
Discriminator = Callable[[Images, Labels | None], Logits]
"""(images, their labels or None) -> logits."""


def zero_centered(gradients: Images) -> Scalar:
    """Half the mean squared norm of D's gradient: E ||grad D(x)||^2 / 2.

    At real images this is R1, at fake images R2 (Mescheder et al. 2018, arXiv:1801.04406, equations 8 and 9, without
    gamma).
    """
    return gradients.square().flatten(1).sum(1).mean() / 2


def one_centered(gradients: Images) -> Scalar:
    """E (||grad D(x)|| - 1)^2, the penalty of WGAN-GP (Gulrajani et al. 2017, arXiv:1704.00028, equation 3, without
    lambda)."""
    # The derivative of the plain norm is NaN for a gradient of zero.
    norms = gradients.square().flatten(1).sum(1).add(1e-12).sqrt()
    return (norms - 1).square().mean()


class CriticOutput(NamedTuple):
    """The discriminator's output for a batch."""

    real_logits: Logits
    fake_logits: Logits
    penalty: Scalar | float
    """Weighted, with its graph; to be added to the loss."""
    figures: dict[str, Scalar]
    """Name -> penalty without its weight, detached."""


@runtime_checkable
class Critic(Protocol):
    """Computes D's logits of a batch of real and fake images, and the penalties."""

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of the figures in its output."""

    def draw(self) -> tuple[Tensor, ...]:
        """Random inputs besides the images, for this rank's whole share of the step."""

    def __call__(self, real: Batch, fake: Batch, *drawn: Tensor) -> CriticOutput: ...


def joined(real: Batch, fake: Batch) -> Batch:
    """Both batches in one, in the precision of the fake images."""
    images = torch.cat([real.images.to(fake.images.dtype), fake.images])
    labels = None if real.labels is None or fake.labels is None else torch.cat([real.labels, fake.labels])
    if real.augmentation is None or fake.augmentation is None:
        return Batch(images, labels)
    return Batch(images, labels, torch.cat([real.augmentation, fake.augmentation]))


def augmented(discriminator: Discriminator, augmentation: Augmentation) -> Callable[[Batch], Logits]:
    """D's logits of the images as it sees them.

    Penalties are on their gradients with respect to the images before the augmentation, as in the code of StyleGAN2-ADA
    and R3GAN.
    """

    def logits(batch: Batch) -> Logits:
        return discriminator(augmentation(batch.images, batch.augmentation), batch.labels)

    return logits


def joint_logits(logits_of: Callable[[Batch], Logits], real: Batch, fake: Batch) -> tuple[Logits, Logits]:
    """Logits of both batches, in one pass. Equal to two passes, because no network mixes the samples of a batch."""
    real_logits, fake_logits = logits_of(joined(real, fake)).float().chunk(2)
    return real_logits, fake_logits


@dataclass(frozen=True)
class NoPenalty:
    """No penalty.

    Args:
        discriminator: D, in the precision of the passes.
        augmentation: of the images that D sees.
    """

    discriminator: Discriminator
    augmentation: Augmentation = NO_AUGMENTATION
    figures: tuple[str, ...] = ()

    def draw(self) -> tuple[Tensor, ...]:
        return ()

    def __call__(self, real: Batch, fake: Batch, *drawn: Tensor) -> CriticOutput:
        logits_of = augmented(self.discriminator, self.augmentation)
        real_logits, fake_logits = joint_logits(logits_of, real, fake)
        return CriticOutput(real_logits, fake_logits, 0.0, {})


def zero_centered_figures(r1: float, r2: float) -> tuple[str, ...]:
    """The names of the penalties whose gamma is not 0."""
    return tuple(name for name, gamma in (("penalty/r1", r1), ("penalty/r2", r2)) if gamma)


@dataclass(frozen=True)
class ZeroCenteredPenalty:
    """R1 at the real images and R2 at the fake images, in every step.

    Args:
        discriminator: D in fp32; half precision is too coarse for gradients of gradients.
        r1, r2: gammas; the weights are gamma / 2. At least one is not 0.
        factor: multiplies both; a tensor that may be changed in place between steps.
        augmentation: of the images that D sees.
    """

    discriminator: Discriminator
    r1: float
    r2: float
    factor: Scalar
    augmentation: Augmentation = NO_AUGMENTATION

    @property
    def figures(self) -> tuple[str, ...]:
        return zero_centered_figures(self.r1, self.r2)

    def draw(self) -> tuple[Tensor, ...]:
        return ()

    def __call__(self, real: Batch, fake: Batch, *drawn: Tensor) -> CriticOutput:
        fake = fake._replace(images=fake.images.float())
        logits_of = augmented(self.discriminator, self.augmentation)
        penalty, figures = real.images.new_zeros(()), {}
        if self.r1 and self.r2:
            logits, gradients = _logits_and_gradients(logits_of, joined(real, fake))
            (real_logits, fake_logits), (at_real, at_fake) = logits.chunk(2), gradients.chunk(2)
        elif self.r1:  # two passes: only one needs gradients of gradients
            (real_logits, at_real), fake_logits = _logits_and_gradients(logits_of, real), logits_of(fake)
        else:
            real_logits, (fake_logits, at_fake) = logits_of(real), _logits_and_gradients(logits_of, fake)
        if self.r1:
            r1 = zero_centered(at_real)
            penalty, figures["penalty/r1"] = penalty + self.r1 * r1, r1.detach()
        if self.r2:
            r2 = zero_centered(at_fake)
            penalty, figures["penalty/r2"] = penalty + self.r2 * r2, r2.detach()
        return CriticOutput(real_logits, fake_logits, self.factor * penalty, figures)


@dataclass(frozen=True)
class OneCenteredPenalty:
    """WGAN-GP's penalty at interpolations of real and fake images, in every step.

    With labels, both images of a pair have the same one. An interpolation is augmented as its real image is.

    Args:
        discriminator: D in fp32.
        weight: lambda.
        interpolation_weights: () -> this rank's share of the step's numbers in [0, 1), (n,).
        augmentation: of the images that D sees.
    """

    discriminator: Discriminator
    weight: float
    interpolation_weights: Callable[[], Float[Tensor, " n"]]
    augmentation: Augmentation = NO_AUGMENTATION
    figures: tuple[str, ...] = ("penalty/gradient",)

    def draw(self) -> tuple[Tensor, ...]:
        return (self.interpolation_weights(),)

    def __call__(self, real: Batch, fake: Batch, *drawn: Tensor) -> CriticOutput:
        fake = fake._replace(images=fake.images.float())
        logits_of = augmented(self.discriminator, self.augmentation)
        real_logits, fake_logits = joint_logits(logits_of, real, fake)
        interpolated = torch.lerp(fake.images, real.images, drawn[0].view(-1, 1, 1, 1))
        _, gradients = _logits_and_gradients(logits_of, real._replace(images=interpolated))
        penalty = one_centered(gradients)
        return CriticOutput(real_logits, fake_logits, self.weight * penalty, {"penalty/gradient": penalty.detach()})


def _logits_and_gradients(logits_of: Callable[[Batch], Logits], batch: Batch) -> tuple[Logits, Images]:
    """D's logits and their gradients with respect to the images, with the graph for one backward of loss and penalty.

    A logit depends on its own image only, so the gradient of the sum contains the gradient of each logit.
    """
    images = batch.images.detach().requires_grad_()
    logits = logits_of(batch._replace(images=images))
    (gradients,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return logits, gradients
