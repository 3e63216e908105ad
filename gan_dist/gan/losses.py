"""Adversarial losses: pure functions from logits to a scalar. A new loss is two functions and a line in LOSSES."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Scalar = Float[Tensor, ""]
Logits = Float[Tensor, " n"]


def bce_discriminator(real_logits: Logits, fake_logits: Logits) -> Scalar:
    """Binary cross entropy, with target 1 for real and 0 for fake (Goodfellow et al. 2014, arXiv:1406.2661).

    -mean log D(x) - mean log(1 - D(G(z))), with D the sigmoid of the logit.
    """
    return F.binary_cross_entropy_with_logits(
        real_logits, torch.ones_like(real_logits)
    ) + F.binary_cross_entropy_with_logits(fake_logits, torch.zeros_like(fake_logits))


def bce_generator(fake_logits: Logits) -> Scalar:
    """Binary cross entropy of fake with target 1: the non-saturating loss -mean log D(G(z)) (paper, section 3)."""
    return F.binary_cross_entropy_with_logits(fake_logits, torch.ones_like(fake_logits))


def relativistic_discriminator(real_logits: Logits, fake_logits: Logits) -> Scalar:
    """Compares each real image with one fake image: mean softplus(D(G(z_i)) - D(x_i)).

    This is RpGAN (Jolicoeur-Martineau 2018, arXiv:1807.00734) and, with R1 and R2, the loss of R3GAN (Huang et al.
    2024, arXiv:2501.05441). It has no bad local minima with dropped modes (Sun et al. 2020, arXiv:2011.04926), but does
    not always converge without both penalties (R3GAN paper).
    """
    return F.softplus(fake_logits - real_logits).mean()


def relativistic_generator(fake_logits: Logits, real_logits: Logits) -> Scalar:
    """The same with real and fake exchanged: mean softplus(D(x_i) - D(G(z_i)))."""
    return F.softplus(real_logits - fake_logits).mean()


def hinge_discriminator(real_logits: Logits, fake_logits: Logits) -> Scalar:
    """mean max(0, 1 - D(x)) + mean max(0, 1 + D(G(z))) (Lim and Ye 2017, arXiv:1705.02894)."""
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def hinge_generator(fake_logits: Logits) -> Scalar:
    """-mean D(G(z))."""
    return -fake_logits.mean()


def least_squares_discriminator(real_logits: Logits, fake_logits: Logits) -> Scalar:
    """(mean (D(x) - 1)^2 + mean D(G(z))^2) / 2 (LSGAN, Mao et al. 2016, arXiv:1611.04076, equation 9)."""
    return ((real_logits - 1).square().mean() + fake_logits.square().mean()) / 2


def least_squares_generator(fake_logits: Logits) -> Scalar:
    """mean (D(G(z)) - 1)^2 / 2."""
    return (fake_logits - 1).square().mean() / 2


def wasserstein_discriminator(real_logits: Logits, fake_logits: Logits) -> Scalar:
    """mean D(G(z)) - mean D(x) (WGAN, Arjovsky et al. 2017, arXiv:1701.07875).

    D must be 1-Lipschitz, which requires a penalty.
    """
    return fake_logits.mean() - real_logits.mean()


def wasserstein_generator(fake_logits: Logits, real_logits: Logits) -> Scalar:
    """mean D(x) - mean D(G(z)), the estimated distance. Its gradient is that of the paper's -mean D(G(z))."""
    return real_logits.mean() - fake_logits.mean()


@runtime_checkable
class Loss(Protocol):
    """An adversarial loss, for the discriminator and for the generator."""

    @property
    def discriminator(self) -> Callable[[Logits, Logits], Scalar]:
        """(real_logits, fake_logits) -> the discriminator's loss."""

    @property
    def chance(self) -> float | None:
        """The discriminator's loss for random guessing: that of the best constant logit, which is 0.5 for least
        squares and 0 for the others. None: the loss has no scale."""

    def generator_loss(self, fake_logits: Logits, real_logits: Callable[[], Logits]) -> Scalar:
        """The generator's loss.

        Args:
            fake_logits: of the generated images.
            real_logits: computes those of the real images, without a graph; called only by losses that use them.
        """

    def scores(self, real_logits: Logits, fake_logits: Logits) -> tuple[Scalar, Scalar]:
        """score/real and score/fake: the mean probability that D assigns to real and to fake images."""


@dataclass(frozen=True)
class UnpairedLoss:
    """A loss whose generator part depends on the fake logits only. The scores are probabilities of being real."""

    discriminator: Callable[[Logits, Logits], Scalar]
    generator: Callable[[Logits], Scalar]
    """(fake_logits) -> loss."""
    chance: float | None

    def generator_loss(self, fake_logits: Logits, real_logits: Callable[[], Logits]) -> Scalar:
        return self.generator(fake_logits)

    def scores(self, real_logits: Logits, fake_logits: Logits) -> tuple[Scalar, Scalar]:
        return real_logits.sigmoid().mean(), fake_logits.sigmoid().mean()


@dataclass(frozen=True)
class PairedLoss:
    """A loss that depends only on differences between real and fake logits.

    The scores are probabilities of being more real than the other image of the pair. The exact gradient of D's last
    bias is 0; Adam turns its rounding errors into steps, so no figure may depend on this bias.
    """

    discriminator: Callable[[Logits, Logits], Scalar]
    generator: Callable[[Logits, Logits], Scalar]
    """(fake_logits, real_logits) -> loss."""
    chance: float | None

    def generator_loss(self, fake_logits: Logits, real_logits: Callable[[], Logits]) -> Scalar:
        return self.generator(fake_logits, real_logits())

    def scores(self, real_logits: Logits, fake_logits: Logits) -> tuple[Scalar, Scalar]:
        return (real_logits - fake_logits).sigmoid().mean(), (fake_logits - real_logits).sigmoid().mean()


LOSSES: dict[str, Loss] = {
    "bce": UnpairedLoss(bce_discriminator, bce_generator, chance=2 * math.log(2)),
    "relativistic": PairedLoss(relativistic_discriminator, relativistic_generator, chance=math.log(2)),
    "hinge": UnpairedLoss(hinge_discriminator, hinge_generator, chance=2.0),
    "least-squares": UnpairedLoss(least_squares_discriminator, least_squares_generator, chance=0.25),
    "wasserstein": PairedLoss(wasserstein_discriminator, wasserstein_generator, chance=None),
}
