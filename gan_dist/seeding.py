"""Randomness as a function: (seed, purpose, index) -> generator. Nothing in the package draws from a global one."""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor

LATENT_BLOCK = 256  # latents drawn together; another size would give other latents


def seed_for(seed: int, purpose: str, index: int = 0) -> int:
    """A 63-bit seed of its own for each (seed, purpose, index): a hash, so that neighbours share nothing."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator_for(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """A CPU generator that starts at `seed_for(seed, purpose, index)`."""
    return torch.Generator().manual_seed(seed_for(seed, purpose, index))


def sample_latents(count: int, latent_dim: int, seed: int, purpose: str = "sample") -> Float[Tensor, "count latent"]:
    """Standard normal latents that are drawn once, on the CPU; by default those of a generator in use.

    The first n are the same for every count >= n. torch.randn gives other numbers for another count, so they are drawn
    in blocks of one size, each from a generator of its own.
    """
    latents = torch.empty(count, latent_dim)
    for index, block in enumerate(latents.split(LATENT_BLOCK)):
        drawn = torch.randn(LATENT_BLOCK, latent_dim, generator=generator_for(seed, purpose, index))
        block.copy_(drawn[: len(block)])
    return latents
