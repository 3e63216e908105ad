"""Images that live on the device as uint8, fetched a whole batch at a time, in an order fixed by the seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from gan_dist.seeding import generator_for


def normalize(pixels: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Pixels 0..255, that is x = pixel/255 in [0, 1], to (x - 0.5) / 0.5 in [-1, 1], where Tanh lives.

    The ends are exact: 0 -> -1 and 255 -> 1.
    """
    return pixels.to(torch.float32).div_(127.5).sub_(1)


def denormalize(images: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Images in [-1, 1] back to [0, 1]: x * 0.5 + 0.5. What lies outside is an error of the caller, and cut off."""
    return images.mul(0.5).add_(0.5).clamp_(0, 1)


def quantize(images: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Images in [-1, 1] as a file of 8 bits a pixel holds them, as the real ones come."""
    return denormalize(images).mul_(255).round_().to(torch.uint8)


class ResidentImages(Dataset[Tensor]):
    """A data set that lies on the device, so that a batch is one gather and one conversion there.

    An index may be one of an image, or a row of them: then these become the channels of one image.

    Args:
        images: uint8 (n, C, H, W), on the device where the networks are.
    """

    def __init__(self, images: UInt8[Tensor, "n c h w"]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Float[Tensor, "c h w"]:
        return normalize(self.images[index])

    def __getitems__(self, indices: Int[Tensor, "b ..."]) -> Float[Tensor, "b channels h w"]:
        """A whole batch: DataLoader calls this instead of `__getitem__` image by image."""
        return normalize(stack_up(self.images.index_select(0, indices.flatten()), indices.numel() // len(indices)))


def stack_up(images: Shaped[Tensor, "n c h w"], stack: int) -> Shaped[Tensor, "fewer channels h w"]:
    """Each `stack` images in a row as the channels of one; a view."""
    return images.view(-1, stack * images.shape[1], *images.shape[2:])


class GlobalBatches(Sampler[list[int]]):
    """The order of the images: one stream that runs through a fresh permutation for every epoch.

    Step s (from 0) takes places s*B .. (s+1)*B - 1 of the stream, wherever an epoch ends in it. So every batch is
    full, every image comes exactly once an epoch, and the order depends on nothing but (seed, step): not on the
    number of processes, and not on where the run was resumed.

    Args:
        dataset_size: images in the data set.
        batch_size: images in a global batch; Accelerate gives each rank its slice.
        seed: the run's seed.
        steps: the steps to yield, as range(first, last + 1) counted from 0.
        device: where the indices are wanted.
        stack: streams beside each other, each with permutations of its own; above 1 an index is a row of as many.
    """

    # Read by accelerate.BatchSamplerShard, which cuts the batches for the ranks.
    drop_last = True

    def __init__(
        self, dataset_size: int, batch_size: int, seed: int, steps: range, device: torch.device, stack: int = 1
    ) -> None:
        assert batch_size <= dataset_size
        self.dataset_size = dataset_size
        self.batch_size = batch_size
        self.seed = seed
        self.steps = steps
        self.device = device
        self.stack = stack

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
            if len(batch) < self.batch_size:  # the batch goes on in the next epoch
                epoch += 1
                order = epoch_order(self.dataset_size, self.seed, epoch, self.stack).to(self.device)
                batch = torch.cat([batch, order[: self.batch_size - len(batch)]])
            yield batch


def epoch_order(dataset_size: int, seed: int, epoch: int, stack: int = 1) -> Int[Tensor, "n ..."]:
    """The order of the images in epoch `epoch` (from 0). Drawn on the CPU: the same for every kind of device.

    Args:
        stack: above 1, (n, stack) come: as many permutations, independent of each other.
    """
    names = ["order", *(f"order/{layer}" for layer in range(1, stack))]
    orders = [torch.randperm(dataset_size, generator=generator_for(seed, name, epoch)) for name in names]
    return torch.stack(orders, 1) if stack > 1 else orders[0]


def make_loader(dataset: ResidentImages, batches: GlobalBatches) -> DataLoader[Tensor]:
    """The loader that `Accelerator.prepare` shards (with split_batches: the batch size is global)."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=_as_it_is,  # __getitems__ made the batch
        generator=torch.Generator(),  # else each iterator draws a seed from the global generator
    )


def _as_it_is(batch: Any) -> Any:
    return batch
