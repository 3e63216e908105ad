"""Adversarial losses: pure functions from logits to a scalar. A new one is a pair of functions and a line in LOSSES."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Scalar = Float[Tensor, ""]
Logits = Float[Tensor, " n"]


def bce_discriminator(real_logits: Logits, fake_logits: Logits) -> Scalar:
    """Binary cross entropy of real against 1 plus that of fake against 0 (Goodfellow et al. 2014, arXiv:1406.2661).

    -mean log D(x) - mean log(1 - D(G(z))), with D the sigmoid of the logit.
    """
    return F.binary_cross_entropy_with_logits(
        real_logits, torch.ones_like(real_logits)
    ) + F.binary_cross_entropy_with_logits(fake_logits, torch.zeros_like(fake_logits))


def bce_generator(fake_logits: Logits, real_logits: Logits) -> Scalar:
    """Binary cross entropy of fake against 1: the non-saturating loss -mean log D(G(z)) (section 3 of the paper)."""
    return F.binary_cross_entropy_with_logits(fake_logits, torch.ones_like(fake_logits))


def relativistic_discriminator(real_logits: Logits, fake_logits: Logits) -> Scalar:
    """Each real image shall look more real than the fake one beside it: mean softplus(D(G(z_i)) - D(x_i)).

    RpGAN (Jolicoeur-Martineau 2018, arXiv:1807.00734); with R1 and R2 the loss of R3GAN (Huang et al. 2024,
    arXiv:2501.05441), which shows that it has no bad local minima where modes are dropped (Sun et al. 2020,
    arXiv:2011.04926), and that without both penalties it need not converge.
    """
    return F.softplus(fake_logits - real_logits).mean()


def relativistic_generator(fake_logits: Logits, real_logits: Logits) -> Scalar:
    """The same with the two sides exchanged: mean softplus(D(x_i) - D(G(z_i)))."""
    return F.softplus(real_logits - fake_logits).mean()


def hinge_discriminator(real_logits: Logits, fake_logits: Logits) -> Scalar:
    """mean max(0, 1 - D(x)) + mean max(0, 1 + D(G(z))) (Lim and Ye 2017, arXiv:1705.02894)."""
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def hinge_generator(fake_logits: Logits, real_logits: Logits) -> Scalar:
    """-mean D(G(z))."""
    return -fake_logits.mean()


def least_squares_discriminator(real_logits: Logits, fake_logits: Logits) -> Scalar:
    """(mean (D(x) - 1)^2 + mean D(G(z))^2) / 2 (LSGAN, Mao et al. 2016, arXiv:1611.04076, equation 9)."""
    return ((real_logits - 1).square().mean() + fake_logits.square().mean()) / 2


def least_squares_generator(fake_logits: Logits, real_logits: Logits) -> Scalar:
    """mean (D(G(z)) - 1)^2 / 2."""
    return (fake_logits - 1).square().mean() / 2


def wasserstein_discriminator(real_logits: Logits, fake_logits: Logits) -> Scalar:
    """mean D(G(z)) - mean D(x) (WGAN, Arjovsky et al. 2017, arXiv:1701.07875); D has to be 1-Lipschitz, which a
    penalty sees to."""
    return fake_logits.mean() - real_logits.mean()


def wasserstein_generator(fake_logits: Logits, real_logits: Logits) -> Scalar:
    """mean D(x) - mean D(G(z)), the estimated distance; its gradient is that of the paper's -mean D(G(z))."""
    return real_logits.mean() - fake_logits.mean()


class DiscriminatorLoss(Protocol):
    def __call__(self, real_logits: Logits, fake_logits: Logits) -> Scalar: ...


class GeneratorLoss(Protocol):
    def __call__(self, fake_logits: Logits, real_logits: Logits) -> Scalar: ...


class Loss(NamedTuple):
    discriminator: DiscriminatorLoss
    generator: GeneratorLoss
    paired: bool = False
    """Only differences between real and fake logits count: the generator's loss wants the real ones too. D's last bias
    has no gradient then but rounding, which Adam makes steps of: no figure may depend on it."""

    def scores(self, real_logits: Logits, fake_logits: Logits) -> tuple[Scalar, Scalar]:
        """Means of the probability that D gives to real and to fake images of being real; where only differences
        count, of being more real than the other one beside."""
        if self.paired:
            real_logits, fake_logits = real_logits - fake_logits, fake_logits - real_logits
        return real_logits.sigmoid().mean(), fake_logits.sigmoid().mean()

    def real_logits(self, real: Float[Tensor, "n c h w"], discriminator: Callable[[Tensor], Logits]) -> Logits:
        """The real images' logits for the generator's loss; zeros, which cost no pass, where it doesn't heed them."""
        if not self.paired:
            return real.new_zeros(len(real), dtype=torch.float32)
        with torch.no_grad():  # they don't depend on the generator
            return discriminator(real).float()


LOSSES: dict[str, Loss] = {
    "bce": Loss(bce_discriminator, bce_generator),
    "relativistic": Loss(relativistic_discriminator, relativistic_generator, paired=True),
    "hinge": Loss(hinge_discriminator, hinge_generator),
    "least-squares": Loss(least_squares_discriminator, least_squares_generator),
    "wasserstein": Loss(wasserstein_discriminator, wasserstein_generator, paired=True),
}
