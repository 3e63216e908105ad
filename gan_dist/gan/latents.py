"""Random inputs of a step as functions of (seed, step, global index), identical for every number of processes."""

from __future__ import annotations

from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from gan_dist.seeding import sample_latents, seed_for

# Numbers per call on a GPU. A T4 executes 40,960 threads at once, a seventh of an H100 32,768, larger GPUs more.
BLOCK = 2**15

Kind = TypeVar("Kind", bound="RandomBatch")


def has_one_generator(device: torch.device) -> bool:
    """Whether all random numbers of a step come from one generator, one purpose after the other."""
    return device.type != "cpu"


class Draws:
    """The source of a step's random numbers for the images of a global batch.

    They are a function of (seed, step, purpose): `begin` must be called before the first draw of each step.

    On the CPU, each purpose has a generator of its own. Elsewhere all draws of a step come from one generator, in the
    order of the step: for each generator that a CUDA graph contains, two more operations precede each replay.

    Args:
        seed: the run's seed.
        batch_size: global batch size, divisible by the number of ranks.
        rank, ranks: this rank and the number of ranks.
        device: where the numbers are drawn.
    """

    def __init__(self, seed: int, batch_size: int, rank: int, ranks: int, device: torch.device) -> None:
        self.seed = seed
        self.batch_size = batch_size
        self.rank = rank
        self.ranks = ranks
        self.device = device
        self.one_generator = has_one_generator(device)
        self.generator = torch.Generator(device)
        """All numbers come from it. A CUDA graph that contains draws needs it."""
        self._step = 0

    def begin(self, step: int) -> None:
        """Begin a step. On the host: not part of a CUDA graph.

        Args:
            step: its number.
        """
        self._step = step
        if self.one_generator:
            self.generator.manual_seed(seed_for(self.seed, "step", step))

    def generator_for(self, purpose: str) -> torch.Generator:
        """The generator of the next numbers.

        Args:
            purpose: such as "discriminator"; each purpose has its own numbers.
        """
        if not self.one_generator:
            self.generator.manual_seed(seed_for(self.seed, purpose, self._step))
        return self.generator

    def make(self, kind: type[Kind], *shape: int) -> Kind:
        """Random numbers of this shape for each image."""
        return kind(self, *shape)


class RandomBatch:
    """Random numbers for the global batch, of which each rank uses a slice: that of Accelerate's split of the images.

    Every rank draws the numbers of the global batch. That is one short call for any number of processes, and needs no
    state but the step.

    CUDA's generator gives each thread of a kernel its own sequence, and a kernel has at most as many threads as the GPU
    executes at once. Larger draws therefore differ between GPU models (pytorch/pytorch#196613). So GPUs draw in blocks
    of BLOCK numbers, for which every one with at least as many threads starts one thread per number. All of them then
    advance the generator by the same amount, too.

    Args:
        draws: the source of the numbers.
        shape: of the numbers for each image.
    """

    def __init__(self, draws: Draws, *shape: int) -> None:
        size = draws.batch_size
        self.draws = draws
        self.share = slice(draws.rank * size // draws.ranks, (draws.rank + 1) * size // draws.ranks)
        self.global_batch = torch.empty(size, *shape, device=draws.device)
        numbers = self.global_batch.view(-1)
        self._blocks = numbers.split(len(numbers) if draws.device.type == "cpu" else BLOCK)

    def normal(self, purpose: str) -> Tensor:
        """This rank's share of the step's standard normal numbers, valid until the next call."""
        generator = self.draws.generator_for(purpose)
        for block in self._blocks:
            block.normal_(generator=generator)
        return self.global_batch[self.share]

    def uniform(self, purpose: str) -> Tensor:
        """This rank's share of the step's uniform numbers in [0, 1), valid until the next call."""
        generator = self.draws.generator_for(purpose)
        for block in self._blocks:
            block.uniform_(generator=generator)
        return self.global_batch[self.share]


class Latents(RandomBatch):
    """Draws this rank's share of a step's latent vectors.

    Args:
        draws: the source of the numbers.
        latent_dim: size of a latent vector.
        dtype: of the result. The vectors are always drawn in fp32, then converted.
    """

    def __init__(self, draws: Draws, latent_dim: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(draws, latent_dim)
        self.dtype = dtype

    def __call__(self, purpose: str) -> Float[Tensor, "n latent"]:
        """Returns standard normal vectors, valid until the next call.

        Args:
            purpose: such as "discriminator"; each purpose has its own vectors.
        """
        return self.normal(purpose).to(self.dtype)


class InterpolationWeights(RandomBatch):
    """Draws this rank's share of a step's interpolation weights, in [0, 1): one for each pair of images."""

    def __call__(self) -> Float[Tensor, " n"]:
        """Returns the weights, valid until the next call."""
        return self.uniform("places")


def fixed_latents(seed: int, count: int, latent_dim: int) -> Float[Tensor, "count latent"]:
    """The latents of the sample grids: constant during a run and identical on every kind of device."""
    return sample_latents(count, latent_dim, seed, "fixed")
