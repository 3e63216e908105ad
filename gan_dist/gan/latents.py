"""(seed, step, global index) -> latent vector: every number of processes sees the same ones."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gan_dist.seeding import sample_latents, seed_for


class _Shared:
    """Numbers of a whole batch, of which this rank keeps its share: the slice that Accelerate gives it of the images.

    Args:
        seed: the run's seed.
        shape: of the whole batch's numbers; the first is the global batch size, divisible by the number of ranks.
        rank, ranks: which share, of how many.
        device: where they are drawn.
    """

    def __init__(self, seed: int, shape: tuple[int, ...], rank: int, ranks: int, device: torch.device) -> None:
        self.seed = seed
        self.share = slice(rank * shape[0] // ranks, (rank + 1) * shape[0] // ranks)
        self.whole = torch.empty(shape, device=device)
        self._generator = torch.Generator(device)

    def generator_at(self, purpose: str, step: int) -> torch.Generator:
        return self._generator.manual_seed(seed_for(self.seed, purpose, step))


class Latents(_Shared):
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
        super().__init__(seed, (batch_size, latent_dim), rank, ranks, device)
        self.dtype = dtype

    def __call__(self, step: int, purpose: str) -> Float[Tensor, "n latent"]:
        """Standard normal vectors for one use in one step; valid until the next call.

        Args:
            step: the step's number.
            purpose: what they are for, such as "discriminator": other vectors for each.
        """
        return self.whole.normal_(generator=self.generator_at(purpose, step))[self.share].to(self.dtype)


class InterpolationWeights(_Shared):
    """Draws this rank's share of a step's numbers in [0, 1): where between two images a point lies, one for each."""

    def __call__(self, step: int) -> Float[Tensor, " n"]:
        """Valid until the next call."""
        return self.whole.uniform_(generator=self.generator_at("places", step))[self.share]


def fixed_latents(seed: int, count: int, latent_dim: int) -> Float[Tensor, "count latent"]:
    """The latents of the sample grids: the same through a whole run, on every kind of device."""
    return sample_latents(count, latent_dim, seed, "fixed")
