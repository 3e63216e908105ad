"""Randomness as a function: (seed, purpose, index) -> generator. Nothing in the package draws from a global one."""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor


def seed_for(seed: int, purpose: str, index: int = 0) -> int:
    """A 63-bit seed of its own for each (seed, purpose, index): a hash, so that neighbours share nothing."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator_for(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """A CPU generator that starts at `seed_for(seed, purpose, index)`."""
    return torch.Generator().manual_seed(seed_for(seed, purpose, index))


def sample_latents(count: int, latent_dim: int, seed: int, purpose: str = "sample") -> Float[Tensor, "count latent"]:
    """Standard normal latents that are drawn once, on the CPU; by default those of a generator in use."""
    return torch.randn(count, latent_dim, generator=generator_for(seed, purpose))
