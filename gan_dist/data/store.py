"""Where the training images are kept, and how whole batches are fetched: on the device, or from a file."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from gan_dist.data.batch import Batch, pinned_for, to_device
from gan_dist.data.images import ImageSet
from gan_dist.data.pixels import mirror, normalize, stack_channels
from gan_dist.data.readahead import Readahead
from gan_dist.memory import free_memory

SHARE = 4  # images are kept on the device if they fit into this part of its free memory


class PendingBatch:
    """A batch whose pixels may still be on their way.

    Args:
        store: the store that was asked for it.
        inputs: waits for what `Store.finish` needs.
    """

    def __init__(self, store: Store, inputs: Callable[[], tuple[Tensor, ...]]) -> None:
        self._store = store
        self.inputs = inputs
        """Waits for the arguments of `Store.finish`. They have the same shapes in each step."""

    def result(self) -> Batch:
        """Wait for the batch."""
        return self._store.finish(*self.inputs())


class Store:
    """The images of a data set, fetched in whole batches: `__getitems__` asks for one, `finish` makes it.

    `finish` consists of operations of the device of the networks, so that a CUDA graph can contain it.

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
        self.stack = images.stack
        # Stacked images have no common class.
        self.labels = None if images.labels is None or images.stack > 1 else images.labels.to(device)

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: Int[Tensor, "b ..."]) -> PendingBatch:
        """Start to fetch a batch."""
        return PendingBatch(self, lambda: (indices,))

    def finish(self, *inputs: Tensor) -> Batch:
        """The batch of these `PendingBatch.inputs`."""
        (indices,) = inputs
        return self._batch(self.images.index_select(0, self._stored(indices)), indices)

    def _batch(self, pixels: UInt8[Tensor, "stored c h w"], indices: Int[Tensor, "b ..."] | None) -> Batch:
        """The batch of these pixels. The indices are wanted for mirrored images and labels only."""
        images, labels = normalize(stack_channels(pixels, self.stack)), None
        if self.mirrored:
            assert indices is not None
            images = mirror(images, indices >= len(self.images))
        if self.labels is not None:
            assert indices is not None
            labels = self.labels.index_select(0, self._stored(indices))
        return Batch(images, labels)

    @property
    def index_device(self) -> torch.device:
        """Where the indices are wanted."""
        return self.images.device

    def _stored(self, indices: Int[Tensor, "b ..."]) -> Int[Tensor, " stored"]:
        """The indices of the stored images."""
        return indices.flatten() % len(self.images) if self.mirrored else indices.flatten()


class DeviceStore(Store):
    """Images on the device: a batch is one gather and one conversion."""

    def __init__(self, images: ImageSet, device: torch.device, mirrored: bool = False) -> None:
        super().__init__(images, device, mirrored)
        self.images = self.images.to(device)


class FileStore(Store):
    """Images in host memory, usually a memory-mapped file, for networks on the CPU.

    The loader asks for a batch before it yields the previous one. The kernel is told then which parts of the file will
    be needed, and reads those that are not in memory yet. A thread that reads would take a core from the networks.
    """

    def __init__(self, images: ImageSet, device: torch.device, mirrored: bool = False) -> None:
        super().__init__(images, device, mirrored)
        self._ahead = None if images.mapped is None else Readahead(images.mapped)

    def __getitems__(self, indices: Int[Tensor, "b ..."]) -> PendingBatch:
        if self._ahead is not None:
            self._ahead.request(self._stored(indices))
        return super().__getitems__(indices)


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
        return PendingBatch(self, self._thread.submit(self._read, indices).result)

    def finish(self, *inputs: Tensor) -> Batch:
        pixels, *indices = (to_device(tensor, self.device) for tensor in inputs)
        return self._batch(pixels, indices[0] if indices else None)

    def _read(self, indices: Int[Tensor, "b ..."]) -> tuple[Tensor, ...]:
        """The pixels of stored images, and the indices if they are wanted."""
        # numpy's take runs on one thread and without Python's lock; torch would start threads beside those of the step.
        stored, pinned = self._stored(indices), self.device.type == "cuda"
        pixels = torch.empty((len(stored), *self.images.shape[1:]), dtype=torch.uint8, pin_memory=pinned)
        np.take(self._array, stored.numpy(), axis=0, out=pixels.numpy(), mode="clip")  # "raise" would copy once more
        if not self.mirrored and self.labels is None:
            return (pixels,)
        return pixels, pinned_for(self.device, indices)


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
