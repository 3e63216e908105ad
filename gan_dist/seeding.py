"""Randomness as a function: (seed, purpose, index) -> generator. Nothing in the package draws from a global one."""

from __future__ import annotations

import hashlib

import torch


def seed_for(seed: int, purpose: str, index: int = 0) -> int:
    """A 63-bit seed of its own for each (seed, purpose, index): a hash, so that neighbours share nothing."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator_for(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """A CPU generator that starts at `seed_for(seed, purpose, index)`."""
    return torch.Generator().manual_seed(seed_for(seed, purpose, index))
