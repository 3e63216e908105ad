"""Penalties on the gradient of D's logit with respect to the image, and how D is asked where one is wanted.

The formulas are pure functions. What judges a batch is an object: plain, or with the penalties of a configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from gan_dist.gan.losses import Logits, Scalar

Images = Float[Tensor, "n c h w"]
Discriminator = Callable[[Images], Logits]


def zero_centered(gradients: Images) -> Scalar:
    """Half the mean squared norm of D's gradient: E ||grad D(x)||^2 / 2.

    At real images it is R1, at fake ones R2 (Mescheder et al. 2018, arXiv:1801.04406, equations 8 and 9, without
    their gamma).
    """
    return gradients.square().flatten(1).sum(1).mean() / 2


def one_centered(gradients: Images) -> Scalar:
    """E (||grad D(x)|| - 1)^2, the penalty of WGAN-GP (Gulrajani et al. 2017, arXiv:1704.00028, equation 3), without
    its lambda."""
    # Not the norm's own derivative, which is NaN at a gradient of zero.
    norms = gradients.square().flatten(1).sum(1).add(1e-12).sqrt()
    return (norms - 1).square().mean()


class CriticOutput(NamedTuple):
    """What D says of a batch."""

    real_logits: Logits
    fake_logits: Logits
    penalty: Scalar | float
    """To be added to the loss, with its graph and its weight."""
    figures: dict[str, Scalar]
    """Name -> the penalty without its weight, detached."""


@runtime_checkable
class Critic(Protocol):
    """Asks D about real and fake images, one beside the other."""

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of the figures that it gives."""

    def draw(self, step: int) -> tuple[Tensor, ...]:
        """What it needs besides the images, a function of the step: of this rank's whole share."""

    def __call__(self, real: Images, fake: Images, *drawn: Tensor) -> CriticOutput: ...


def at_once(discriminator: Discriminator, real: Images, fake: Images) -> tuple[Logits, Logits]:
    """One pass over both halves: the same function as two, for no network here mixes the samples of a batch."""
    real_logits, fake_logits = discriminator(torch.cat([real.to(fake.dtype), fake])).float().chunk(2)
    return real_logits, fake_logits


@dataclass(frozen=True)
class NoPenalty:
    """No penalty.

    Args:
        discriminator: D, in the precision of the passes.
    """

    discriminator: Discriminator
    figures: tuple[str, ...] = ()

    def draw(self, step: int) -> tuple[Tensor, ...]:
        return ()

    def __call__(self, real: Images, fake: Images, *drawn: Tensor) -> CriticOutput:
        real_logits, fake_logits = at_once(self.discriminator, real, fake)
        return CriticOutput(real_logits, fake_logits, 0.0, {})


@dataclass(frozen=True)
class ZeroCenteredPenalty:
    """R1 at the real images, R2 at the fake ones, in every step.

    Args:
        discriminator: D in fp32, for the gradient of a gradient loses what half precision has.
        r1, r2: their gammas, of which one half is the weight; at least one is not 0.
        factor: of both; a tensor, which may be changed in place between two steps.
    """

    discriminator: Discriminator
    r1: float
    r2: float
    factor: Scalar

    @property
    def figures(self) -> tuple[str, ...]:
        return tuple(f"penalty/{name}" for name in ("r1", "r2") if getattr(self, name))

    def draw(self, step: int) -> tuple[Tensor, ...]:
        return ()

    def __call__(self, real: Images, fake: Images, *drawn: Tensor) -> CriticOutput:
        fake = fake.float()
        penalty, figures = real.new_zeros(()), {}
        if self.r1 and self.r2:
            logits, gradients = _with_gradients(self.discriminator, torch.cat([real, fake]))
            (real_logits, fake_logits), (at_real, at_fake) = logits.chunk(2), gradients.chunk(2)
        elif self.r1:  # two passes, of which only one is followed by gradients of gradients
            (real_logits, at_real), fake_logits = _with_gradients(self.discriminator, real), self.discriminator(fake)
        else:
            real_logits, (fake_logits, at_fake) = self.discriminator(real), _with_gradients(self.discriminator, fake)
        if self.r1:
            r1 = zero_centered(at_real)
            penalty, figures["penalty/r1"] = penalty + self.r1 * r1, r1.detach()
        if self.r2:
            r2 = zero_centered(at_fake)
            penalty, figures["penalty/r2"] = penalty + self.r2 * r2, r2.detach()
        return CriticOutput(real_logits, fake_logits, self.factor * penalty, figures)


@dataclass(frozen=True)
class OneCenteredPenalty:
    """WGAN-GP's penalty, at points between real and fake images, in every step.

    Args:
        discriminator: D in fp32.
        weight: its lambda.
        weights: step -> this rank's share of numbers in [0, 1), (n,): where between its two images a point lies.
    """

    discriminator: Discriminator
    weight: float
    weights: Callable[[int], Float[Tensor, " n"]]
    figures: tuple[str, ...] = ("penalty/gradient",)

    def draw(self, step: int) -> tuple[Tensor, ...]:
        return (self.weights(step),)

    def __call__(self, real: Images, fake: Images, *drawn: Tensor) -> CriticOutput:
        fake = fake.float()
        real_logits, fake_logits = at_once(self.discriminator, real, fake)
        between = torch.lerp(fake, real, drawn[0].view(-1, 1, 1, 1))
        _, gradients = _with_gradients(self.discriminator, between)
        penalty = one_centered(gradients)
        return CriticOutput(real_logits, fake_logits, self.weight * penalty, {"penalty/gradient": penalty.detach()})


def _with_gradients(discriminator: Discriminator, images: Images) -> tuple[Logits, Images]:
    """D's logits and their gradients at the images, which keep their graph: one backward takes in loss and penalty.

    A logit depends on its own image alone, so the gradient of their sum is each one's own.
    """
    images = images.detach().requires_grad_()
    logits = discriminator(images)
    (gradients,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return logits, gradients
