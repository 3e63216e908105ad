"""(seed, step, global index) -> latent vector: every number of processes sees the same ones."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gan_dist.seeding import seed_for


class Latents:
    """Draws this rank's share of a step's latent vectors.

    Every rank draws the vectors of the whole batch and keeps its slice, the same slice that Accelerate gives it of
    the images. That is one short call whatever the number of processes, and needs no state but the step.

    Args:
        seed: the run's seed.
        latent_dim: numbers in a latent vector.
        batch_size: global batch size, divisible by the number of ranks.
        rank, ranks: which share, of how many.
        device: where they are drawn.
        dtype: of what comes out; drawn are the same numbers for every one.
    """

    def __init__(
        self,
        seed: int,
        latent_dim: int,
        batch_size: int,
        rank: int,
        ranks: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.seed = seed
        self.share = slice(rank * batch_size // ranks, (rank + 1) * batch_size // ranks)
        self.dtype = dtype
        self.whole = torch.empty(batch_size, latent_dim, device=device)
        self.generator = torch.Generator(device)

    def __call__(self, step: int, purpose: str) -> Float[Tensor, "n latent"]:
        """Standard normal vectors for one use in one step; valid until the next call.

        Args:
            step: the step's number.
            purpose: what they are for, such as "discriminator": other vectors for each.
        """
        self.generator.manual_seed(seed_for(self.seed, purpose, step))
        return self.whole.normal_(generator=self.generator)[self.share].to(self.dtype)


class Places:
    """Draws this rank's share of a step's numbers in [0, 1): where between two images a point lies.

    Args:
        seed: the run's seed.
        batch_size: global batch size, divisible by the number of ranks.
        rank, ranks: which share, of how many.
        device: where they are drawn.
    """

    def __init__(self, seed: int, batch_size: int, rank: int, ranks: int, device: torch.device) -> None:
        self.seed = seed
        self.share = slice(rank * batch_size // ranks, (rank + 1) * batch_size // ranks)
        self.whole = torch.empty(batch_size, device=device)
        self.generator = torch.Generator(device)

    def __call__(self, step: int) -> Float[Tensor, " n"]:
        """Valid until the next call."""
        self.generator.manual_seed(seed_for(self.seed, "places", step))
        return self.whole.uniform_(generator=self.generator)[self.share]


def fixed_latents(seed: int, count: int, latent_dim: int) -> Float[Tensor, "count latent"]:
    """The latents of the sample grids: the same through a whole run, on every kind of device."""
    generator = torch.Generator().manual_seed(seed_for(seed, "fixed"))
    return torch.randn(count, latent_dim, generator=generator)
