"""Tells the kernel which parts of a file will be read soon."""

from __future__ import annotations

import os
import weakref

from jaxtyping import Int
from torch import Tensor

from gan_dist.data.images import MappedFile


class Readahead:
    """Has the images of a mapped file read into memory by the kernel, without waiting.

    An image that is in memory already costs half a microsecond. Where the system call or the file is missing, images
    are read when they are used.

    Args:
        mapped: the file.
    """

    def __init__(self, mapped: MappedFile) -> None:
        self._descriptor = _open(mapped)
        self._offset, self._image_bytes = mapped.offset, mapped.image_bytes
        if self._descriptor is not None:
            weakref.finalize(self, os.close, self._descriptor)

    def request(self, images: Int[Tensor, " n"]) -> None:
        """Start to read images.

        Args:
            images: their indices.
        """
        if self._descriptor is None:
            return
        for index in images.tolist():
            begin = self._offset + index * self._image_bytes
            os.posix_fadvise(self._descriptor, begin, self._image_bytes, os.POSIX_FADV_WILLNEED)


def _open(mapped: MappedFile) -> int | None:
    if not hasattr(os, "posix_fadvise"):  # macOS
        return None
    try:
        descriptor = os.open(mapped.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:  # a file that was received from another rank has no name any more, and is in memory
        return None
    if mapped.is_file(descriptor):
        return descriptor
    os.close(descriptor)
    return None
