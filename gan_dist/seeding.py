"""Random generators as a function of (seed, purpose, index). The package never uses a global generator."""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float, Int64
from torch import Tensor

LATENT_BLOCK = 256  # latents per generator; another size would change the latents


def seed_for(seed: int, purpose: str, index: int = 0) -> int:
    """A 63-bit hash of (seed, purpose, index), so that neighbouring arguments give unrelated seeds."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator_for(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """A CPU generator with the seed `seed_for(seed, purpose, index)`."""
    return torch.Generator().manual_seed(seed_for(seed, purpose, index))


def sample_latents(count: int, latent_dim: int, seed: int, purpose: str = "sample") -> Float[Tensor, "count latent"]:
    """Standard normal latents, drawn on the CPU. The default purpose is that of samples from a trained generator.

    The first n latents are the same for every count >= n. The numbers of torch.randn depend on the count, so latents
    are drawn in blocks of a fixed size, each from its own generator.
    """
    latents = torch.empty(count, latent_dim)
    for index, block in enumerate(latents.split(LATENT_BLOCK)):
        drawn = torch.randn(LATENT_BLOCK, latent_dim, generator=generator_for(seed, purpose, index))
        block.copy_(drawn[: len(block)])
    return latents


def sample_labels(
    count: int, class_counts: Int64[Tensor, " classes"], seed: int, purpose: str = "sample"
) -> Int64[Tensor, " count"]:
    """Labels for as many latents of `sample_latents`, drawn on the CPU with the frequencies of the classes.

    Args:
        count: number of labels. The first n are the same for every count >= n.
        class_counts: number of training images of each class.
        seed, purpose: as in `sample_latents`.
    """
    labels, shares = torch.empty(count, dtype=torch.int64), class_counts.double()
    for index, block in enumerate(labels.split(LATENT_BLOCK)):
        generator = generator_for(seed, f"{purpose}/labels", index)
        block.copy_(torch.multinomial(shares, LATENT_BLOCK, True, generator=generator)[: len(block)])
    return labels
