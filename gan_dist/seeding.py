"""Random generators as a function of (seed, purpose, index). The package never uses a global generator."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

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


def sample_latents(
    count: int, latent_dim: int, seed: int, purpose: str = "sample", start: int = 0
) -> Float[Tensor, "count latent"]:
    """Standard normal latents, drawn on the CPU. The default purpose is that of samples from a trained generator.

    The numbers of torch.randn depend on the count, so latents are drawn in blocks of a fixed size, each from its own
    generator.

    Args:
        count: number of latents.
        latent_dim: size of a latent vector.
        seed, purpose: select an endless sequence of latents.
        start: index in the sequence of the first one that is returned.
    """
    latents = torch.empty(count, latent_dim)
    for index, block, drawn in _blocks(latents, start):
        numbers = torch.randn(LATENT_BLOCK, latent_dim, generator=generator_for(seed, purpose, index))
        block.copy_(numbers[drawn])
    return latents


def sample_labels(
    count: int, class_counts: Int64[Tensor, " classes"], seed: int, start: int = 0
) -> Int64[Tensor, " count"]:
    """Labels for as many latents of `sample_latents`, drawn on the CPU with the frequencies of the classes.

    Args:
        count: number of labels.
        class_counts: number of training images of each class.
        seed, start: as in `sample_latents`.
    """
    labels, shares = torch.empty(count, dtype=torch.int64), class_counts.double()
    for index, block, drawn in _blocks(labels, start):
        generator = generator_for(seed, "sample/labels", index)
        block.copy_(torch.multinomial(shares, LATENT_BLOCK, True, generator=generator)[drawn])
    return labels


def _blocks(rows: Tensor, start: int) -> Iterator[tuple[int, Tensor, slice]]:
    """The blocks of a sequence that rows belong to.

    Args:
        rows: those with the indices `start`, `start` + 1, … of the sequence.

    Returns:
        The number of each block, its part of `rows`, and the place of this part inside the block.
    """
    stop = start + len(rows)
    for index in range(start // LATENT_BLOCK, -(-stop // LATENT_BLOCK)):
        first = index * LATENT_BLOCK
        low, high = max(first, start), min(first + LATENT_BLOCK, stop)
        yield index, rows[low - start : high - start], slice(low - first, high - first)
