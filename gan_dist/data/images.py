"""The images of one split of a data set, as tensors."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from gan_dist.data.cache import cache_file
from gan_dist.data.readers.reader import Provenance, RawImages
from gan_dist.data.spec import DataSpec


@dataclass(frozen=True)
class MappedFile:
    """A file whose pixels are mapped into memory, so that the processes of a host share them."""

    path: Path
    offset: int
    """Of the first image, in bytes."""
    shape: tuple[int, ...]
    """(n, C, H, W)."""
    identity: tuple[int, ...]
    """Device, inode and size."""

    @classmethod
    def of(cls, pixels: np.ndarray) -> MappedFile | None:
        """The file of an array; None if it is not a memory map."""
        if not isinstance(pixels, np.memmap) or pixels.filename is None:
            return None
        path = Path(pixels.filename)
        return cls(path, pixels.offset, pixels.shape, _identity(path))

    @property
    def image_bytes(self) -> int:
        """Size of an image."""
        return math.prod(self.shape[1:])

    def is_file(self, file: Path | int) -> bool:
        """Whether a path or an open descriptor is this file."""
        return _identity(file) == self.identity

    def open(self, mode: Literal["c", "r+"] = "c") -> UInt8[Tensor, "n c h w"] | None:
        """Map the file; None if this process does not see the same one.

        Args:
            mode: "c": changes stay in this process; "r+": they are written to the file.
        """
        try:
            if not self.is_file(self.path):
                return None
            return torch.from_numpy(np.memmap(self.path, np.uint8, mode, self.offset, self.shape))
        except (OSError, ValueError):
            return None


def create_mapped(shape: tuple[int, ...]) -> MappedFile:
    """A new file in the cache for pixels (n, C, H, W), with a name of its own, to be filled by its creator.

    Raises:
        OSError: the cache is not writable, or has no space.
    """
    folder = cache_file("received")
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=folder)
    try:
        os.posix_fallocate(descriptor, 0, math.prod(shape))
    except OSError:
        os.unlink(name)
        raise
    finally:
        os.close(descriptor)
    return MappedFile(Path(name), 0, shape, _identity(Path(name)))


def _identity(file: Path | int) -> tuple[int, ...]:
    status = os.stat(file)
    return status.st_dev, status.st_ino, status.st_size


@dataclass(frozen=True)
class ImageSet:
    """Images on the CPU."""

    images: UInt8[Tensor, "n c h w"]
    """From 0, black, to 255, white. May be a memory map of a file, which must not be changed."""
    labels: Int64[Tensor, " n"] | None
    """The class of each stored image, from 0; None if there are none."""
    spec: DataSpec
    """Of the whole data set."""
    provenance: Provenance
    """Of this split."""
    stack: int = 1
    """Number of stored images that are combined into one as its channels when they are fetched."""
    mapped: MappedFile | None = None
    """The file that `images` maps; None if they are in private memory."""
    notes: tuple[str, ...] = ()
    """As in `RawImages`."""

    @cached_property
    def labels_sha256(self) -> str | None:
        """Hash of the labels and the names of the classes; None if the images have none."""
        if self.labels is None:
            return None
        names = json.dumps(self.spec.classes).encode()
        return hashlib.sha256(names + self.labels.numpy().astype("<i8").tobytes()).hexdigest()

    @cached_property
    def class_counts(self) -> Int64[Tensor, " classes"] | None:
        """Number of images of each class; None if the images, as they are fetched, have no classes."""
        if self.labels is None or self.spec.classes is None:
            return None
        return torch.bincount(self.labels, minlength=len(self.spec.classes))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image as it is fetched."""
        return self.spec.shape


def to_image_set(raw: RawImages) -> ImageSet:
    """The tensors of what a reader returned, without a copy."""
    labels = None if raw.labels is None else torch.from_numpy(raw.labels)
    mapped = MappedFile.of(raw.pixels)
    return ImageSet(torch.from_numpy(raw.pixels), labels, raw.spec, raw.provenance, raw.stack, mapped, raw.notes)
