"""Adversarial losses: pure functions from logits to a scalar. A new one is a pair of functions and a line in LOSSES."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Scalar = Float[Tensor, ""]


def bce_discriminator(real_logits: Float[Tensor, " n"], fake_logits: Float[Tensor, " n"]) -> Scalar:
    """Binary cross entropy of real against 1 plus that of fake against 0 (Goodfellow et al. 2014, arXiv:1406.2661).

    -mean log D(x) - mean log(1 - D(G(z))), with D the sigmoid of the logit.
    """
    return F.binary_cross_entropy_with_logits(
        real_logits, torch.ones_like(real_logits)
    ) + F.binary_cross_entropy_with_logits(fake_logits, torch.zeros_like(fake_logits))


def bce_generator(fake_logits: Float[Tensor, " n"]) -> Scalar:
    """Binary cross entropy of fake against 1: the non-saturating loss -mean log D(G(z)) (section 3 of the paper)."""
    return F.binary_cross_entropy_with_logits(fake_logits, torch.ones_like(fake_logits))


class DiscriminatorLoss(Protocol):
    def __call__(self, real_logits: Float[Tensor, " n"], fake_logits: Float[Tensor, " n"]) -> Scalar: ...


class GeneratorLoss(Protocol):
    def __call__(self, fake_logits: Float[Tensor, " n"]) -> Scalar: ...


class Loss(NamedTuple):
    discriminator: DiscriminatorLoss
    generator: GeneratorLoss


LOSSES: dict[str, Loss] = {
    "bce": Loss(bce_discriminator, bce_generator),
}
