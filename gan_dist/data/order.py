"""The order of the training images, as a function of the seed and the step."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Sampler

from gan_dist.data.batch import to_device
from gan_dist.seeding import generator_for

WINDOW = 64  # steps whose indices are computed at once, which takes as long as those of one step


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
        for window in self.windows():
            yield from window.unbind(1)

    def windows(self) -> Iterator[Int[Tensor, "b steps ..."]]:
        """The indices of consecutive steps, in windows of up to `WINDOW` steps and an epoch's images."""
        orders = EpochOrders(self.dataset_size, self.seed, self.stack, self.device)
        length = max(1, min(WINDOW, self.dataset_size // self.batch_size))
        for first in range(self.steps.start, self.steps.stop, length):
            steps = range(first, min(first + length, self.steps.stop))
            indices = orders.between(steps.start * self.batch_size, steps.stop * self.batch_size)
            window = indices.unflatten(0, (len(steps), self.batch_size))
            yield (self._mirror(window, steps) if self.mirrored else window).transpose(0, 1)

    def _mirror(self, window: Int[Tensor, "steps b"], steps: range) -> Int[Tensor, "steps b"]:
        generators = (generator_for(self.seed, "mirror", step) for step in steps)
        flips = torch.stack([torch.randint(2, window.shape[1:], generator=generator) for generator in generators])
        return window + self.dataset_size * to_device(flips, self.device)


class Windows(Sampler[list[int]]):
    """The windows of global batches, as a batch sampler of which Accelerate passes each rank its slice.

    A loader takes as long for a window as for a batch, which on a GPU is longer than a step.

    Args:
        batches: the order of the images.
    """

    # Read by accelerate.BatchSamplerShard, which splits the first dimension among the ranks.
    drop_last = True

    def __init__(self, batches: GlobalBatches) -> None:
        self.batches = batches
        self.batch_size = batches.batch_size

    def __iter__(self) -> Iterator[Tensor]:  # type: ignore[override]
        return self.batches.windows()


class EpochOrders:
    """The permutations of the epochs, one after the other.

    For a device other than the CPU, a thread draws the next one ahead: an epoch of small networks takes a few
    milliseconds there, and drawing its order one or two.

    Args:
        dataset_size, seed, stack, device: as in `GlobalBatches`.
    """

    def __init__(self, dataset_size: int, seed: int, stack: int, device: torch.device) -> None:
        self.dataset_size = dataset_size
        self.device = device
        self._draw = partial(epoch_order, dataset_size, seed, stack=stack)
        self._thread = None if device.type == "cpu" else ThreadPoolExecutor(1, "draw-order")
        self._ahead: dict[int, Future[Tensor]] = {}  # by epoch
        self._current = -1, torch.empty(0)

    def between(self, begin: int, end: int) -> Int[Tensor, "n ..."]:
        """The elements `begin` to `end` - 1 of the stream."""
        parts = []
        while begin < end:
            epoch, first = divmod(begin, self.dataset_size)
            part = self._order(epoch)[first : first + end - begin]
            begin += len(part)
            parts.append(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _order(self, epoch: int) -> Int[Tensor, "n ..."]:
        if self._current[0] != epoch:
            ahead = self._ahead.pop(epoch, None)
            order = self._draw(epoch) if ahead is None else ahead.result()
            self._current = epoch, to_device(order, self.device)
            if self._thread is not None:
                self._ahead[epoch + 1] = self._thread.submit(self._draw, epoch + 1)
        return self._current[1]


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
