"""The order of the training images, as a function of the seed and the step."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Sampler

from gan_dist.seeding import generator_for


class GlobalBatches(Sampler[list[int]]):
    """The indices of global batches: one stream that consists of a new permutation for every epoch.

    Step s (from 0) yields the elements s*B to (s+1)*B - 1 of the stream, even if an epoch ends between them. So every
    batch is full, every epoch contains every image exactly once, and the order depends only on (seed, step), not on the
    number of processes or on resumes.

    Args:
        dataset_size: number of images in the data set.
        batch_size: number of images in a global batch. Accelerate passes each rank its slice.
        seed: the run's seed.
        steps: the steps to yield, as range(first, last + 1), from 0.
        device: of the indices.
        stack: number of parallel streams with independent permutations. If it is above 1, indices are (B, stack).
        mirrored: add `dataset_size` to each index with probability 1/2, which means the mirrored image. Only if `stack`
            is 1.
    """

    # Read by accelerate.BatchSamplerShard, which splits the batches among the ranks.
    drop_last = True

    def __init__(
        self,
        dataset_size: int,
        batch_size: int,
        seed: int,
        steps: range,
        device: torch.device,
        stack: int = 1,
        mirrored: bool = False,
    ) -> None:
        assert batch_size <= dataset_size
        self.dataset_size = dataset_size
        self.batch_size = batch_size
        self.seed = seed
        self.steps = steps
        self.device = device
        self.stack = stack
        self.mirrored = mirrored

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Tensor]:  # type: ignore[override]  # a batch's indices are a tensor, on the device
        epoch = -1
        order = torch.empty(0)
        for step in self.steps:
            begin = step * self.batch_size
            if begin // self.dataset_size != epoch:
                epoch = begin // self.dataset_size
                order = epoch_order(self.dataset_size, self.seed, epoch, self.stack).to(self.device)
            begin -= epoch * self.dataset_size
            batch = order[begin : begin + self.batch_size]
            if len(batch) < self.batch_size:  # the batch continues in the next epoch
                epoch += 1
                order = epoch_order(self.dataset_size, self.seed, epoch, self.stack).to(self.device)
                batch = torch.cat([batch, order[: self.batch_size - len(batch)]])
            yield self._mirror(batch, step) if self.mirrored else batch

    def _mirror(self, batch: Int[Tensor, " b"], step: int) -> Int[Tensor, " b"]:
        flips = torch.randint(2, batch.shape, generator=generator_for(self.seed, "mirror", step))
        return batch + self.dataset_size * flips.to(self.device)


def epoch_order(dataset_size: int, seed: int, epoch: int, stack: int = 1) -> Int[Tensor, "n ..."]:
    """The order of the images in epoch `epoch` (from 0). Drawn on the CPU, so identical for every kind of device.

    Args:
        dataset_size: number of images.
        seed: the run's seed.
        epoch: its number.
        stack: number of independent permutations. If it is above 1, the result is (n, stack).
    """
    names = ["order", *(f"order/{layer}" for layer in range(1, stack))]
    orders = [torch.randperm(dataset_size, generator=generator_for(seed, name, epoch)) for name in names]
    return torch.stack(orders, 1) if stack > 1 else orders[0]
