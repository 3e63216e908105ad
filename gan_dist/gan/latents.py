"""Random inputs of a step as functions of (seed, step, global index), identical for every number of processes."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from gan_dist.seeding import sample_latents, seed_for

# Numbers per call on a GPU. A T4 executes 40,960 threads at once, a seventh of an H100 32,768, larger GPUs more.
BLOCK = 2**15


class RandomBatch:
    """Random numbers for the global batch, of which each rank uses a slice: that of Accelerate's split of the images.

    Every rank draws the numbers of the global batch. That is one short call for any number of processes, and needs no
    state but the step.

    CUDA's generator gives each thread of a kernel its own sequence, and a kernel has at most as many threads as the GPU
    executes at once. Larger draws therefore differ between GPU models (pytorch/pytorch#196613). So GPUs draw in blocks
    of BLOCK numbers, for which every one with at least as many threads starts one thread per number.

    Args:
        seed: the run's seed.
        shape: of the numbers; the first dimension is the global batch size, divisible by the number of ranks.
        rank, ranks: this rank and the number of ranks.
        device: where the numbers are drawn.
    """

    def __init__(self, seed: int, shape: tuple[int, ...], rank: int, ranks: int, device: torch.device) -> None:
        self.seed = seed
        self.share = slice(rank * shape[0] // ranks, (rank + 1) * shape[0] // ranks)
        self.global_batch = torch.empty(shape, device=device)
        numbers = self.global_batch.view(-1)
        self._blocks = numbers.split(len(numbers) if device.type == "cpu" else BLOCK)
        self._generator = torch.Generator(device)

    def normal(self, purpose: str, step: int) -> Tensor:
        """This rank's share of a step's standard normal numbers, valid until the next call."""
        generator = self._generator_at(purpose, step)
        for block in self._blocks:
            block.normal_(generator=generator)
        return self.global_batch[self.share]

    def uniform(self, purpose: str, step: int) -> Tensor:
        """This rank's share of a step's uniform numbers in [0, 1), valid until the next call."""
        generator = self._generator_at(purpose, step)
        for block in self._blocks:
            block.uniform_(generator=generator)
        return self.global_batch[self.share]

    def _generator_at(self, purpose: str, step: int) -> torch.Generator:
        return self._generator.manual_seed(seed_for(self.seed, purpose, step))


Kind = TypeVar("Kind", bound=RandomBatch)


class Draws(NamedTuple):
    """Makes random numbers for the images of a global batch. The fields are as in `RandomBatch`."""

    seed: int
    batch_size: int
    rank: int
    ranks: int
    device: torch.device

    def make(self, kind: type[Kind], *shape: int) -> Kind:
        """Random numbers of this shape for each image."""
        return kind(self.seed, (self.batch_size, *shape), self.rank, self.ranks, self.device)


class Latents(RandomBatch):
    """Draws this rank's share of a step's latent vectors.

    Args:
        seed: the run's seed.
        latent_dim: size of a latent vector.
        batch_size: global batch size, divisible by the number of ranks.
        rank, ranks: this rank and the number of ranks.
        device: where the vectors are drawn.
        dtype: of the result. The vectors are always drawn in fp32, then converted.
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
        """Returns standard normal vectors, valid until the next call.

        Args:
            step: the step's number.
            purpose: such as "discriminator"; each purpose has its own vectors.
        """
        return self.normal(purpose, step).to(self.dtype)


class InterpolationWeights(RandomBatch):
    """Draws this rank's share of a step's interpolation weights, in [0, 1): one for each pair of images."""

    def __call__(self, step: int) -> Float[Tensor, " n"]:
        """Returns the weights, valid until the next call."""
        return self.uniform("places", step)


def fixed_latents(seed: int, count: int, latent_dim: int) -> Float[Tensor, "count latent"]:
    """The latents of the sample grids: constant during a run and identical on every kind of device."""
    return sample_latents(count, latent_dim, seed, "fixed")
