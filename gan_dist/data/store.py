"""Where the training images are kept, and how whole batches are fetched: on the device, or from a file."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from gan_dist.data.batch import Batch
from gan_dist.data.images import ImageSet
from gan_dist.data.pixels import mirror, normalize, stack_channels
from gan_dist.data.readahead import Readahead
from gan_dist.memory import free_memory

SHARE = 4  # images are kept on the device if they fit into this part of its free memory


@runtime_checkable
class PendingBatch(Protocol):
    """A batch that may still be on its way."""

    def result(self) -> Batch:
        """Wait for the batch."""


class Store(Dataset[PendingBatch]):
    """The images of a data set, fetched in whole batches.

    An index is that of one image; or of image i mirrored, which is i plus the number of images; or a row of indices,
    whose images become the channels of one image.

    Args:
        images: of the data set.
        device: of the networks.
        mirrored: whether indices of mirrored images occur.
    """

    def __init__(self, images: ImageSet, device: torch.device, mirrored: bool = False) -> None:
        self.device = device
        self.mirrored = mirrored
        self.images = images.images
        # Stacked images have no common class.
        self.labels = None if images.labels is None or images.stack > 1 else images.labels.to(device)

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: Int[Tensor, "b ..."]) -> PendingBatch:
        """Start to fetch a batch. DataLoader calls this method instead of `__getitem__` for each image."""
        raise NotImplementedError

    @property
    def index_device(self) -> torch.device:
        """Where the indices are wanted."""
        return self.images.device

    def _stored(self, indices: Int[Tensor, "b ..."]) -> Int[Tensor, " stored"]:
        """The indices of the stored images."""
        return indices.flatten() % len(self.images) if self.mirrored else indices.flatten()

    def _finish(self, pixels: UInt8[Tensor, "stored c h w"], indices: Int[Tensor, "b ..."]) -> Batch:
        """The batch of these pixels, which are on the device of the networks."""
        images = normalize(stack_channels(pixels, indices.numel() // len(indices)))
        if self.mirrored:
            images = mirror(images, (indices >= len(self.images)).to(self.device, non_blocking=True))
        if self.labels is None:
            return Batch(images, None)
        return Batch(images, self.labels.index_select(0, self._stored(indices).to(self.device, non_blocking=True)))


class DeviceStore(Store):
    """Images on the device: a batch is one gather and one conversion."""

    def __init__(self, images: ImageSet, device: torch.device, mirrored: bool = False) -> None:
        super().__init__(images, device, mirrored)
        self.images = self.images.to(device)

    def __getitems__(self, indices: Int[Tensor, "b ..."]) -> PendingBatch:
        batch = self._finish(self.images.index_select(0, self._stored(indices)), indices)
        return _Pending(lambda: batch)


class FileStore(Store):
    """Images in host memory, usually a memory-mapped file, for networks on the CPU.

    The loader asks for a batch before it yields the previous one. The kernel is told then which parts of the file will
    be needed, and reads those that are not in memory yet. A thread that reads would take a core from the networks.
    """

    def __init__(self, images: ImageSet, device: torch.device, mirrored: bool = False) -> None:
        super().__init__(images, device, mirrored)
        self._ahead = None if images.mapped is None else Readahead(images.mapped)

    def __getitems__(self, indices: Int[Tensor, "b ..."]) -> PendingBatch:
        stored = self._stored(indices)
        if self._ahead is not None:
            self._ahead.request(stored)
        return _Pending(lambda: self._finish(self.images.index_select(0, stored), indices))


class PinnedFileStore(Store):
    """Images in host memory, usually a memory-mapped file, for networks on a GPU.

    A thread copies the next batch to pinned memory. From there it is copied without blocking, as bytes, and converted
    on the device.
    """

    def __init__(self, images: ImageSet, device: torch.device, mirrored: bool = False) -> None:
        super().__init__(images, device, mirrored)
        self._array = self.images.numpy()
        self._thread = ThreadPoolExecutor(1, "read-images")

    def __getitems__(self, indices: Int[Tensor, "b ..."]) -> PendingBatch:
        reading = self._thread.submit(self._read, self._stored(indices))
        return _Pending(lambda: self._finish(reading.result().to(self.device, non_blocking=True), indices))

    def _read(self, stored: Int[Tensor, " stored"]) -> UInt8[Tensor, "stored c h w"]:
        # numpy's take runs on one thread and without Python's lock; torch would start threads beside those of the step.
        pinned = self.device.type == "cuda"
        pixels = torch.empty((len(stored), *self.images.shape[1:]), dtype=torch.uint8, pin_memory=pinned)
        np.take(self._array, stored.numpy(), axis=0, out=pixels.numpy(), mode="clip")  # "raise" would copy once more
        return pixels


class _Pending:
    """A batch that is finished when it is wanted."""

    def __init__(self, finish: Callable[[], Batch]) -> None:
        self._finish = finish

    def result(self) -> Batch:
        return self._finish()


def make_store(
    memory: Literal["auto", "device", "file"], images: ImageSet, device: torch.device, ranks: int, mirrored: bool
) -> Store:
    """The store of a configuration.

    Args:
        memory: data.memory.
        images: the training images.
        device: of the networks.
        ranks: number of ranks that share the device's memory.
        mirrored: data.mirror.
    """
    if keeps_on_device(memory, ranks * images.images.nbytes, free_memory(device)):
        return DeviceStore(images, device, mirrored)
    return (FileStore if device.type == "cpu" else PinnedFileStore)(images, device, mirrored)


def keeps_on_device(memory: Literal["auto", "device", "file"], size: int, free: int | None) -> bool:
    """Whether images are kept on the device.

    Args:
        memory: data.memory.
        size: of the images, in bytes, for all ranks that share the device's memory.
        free: bytes that are free there; None if unknown.
    """
    return memory == "device" or (memory == "auto" and (free is None or size <= free // SHARE))
