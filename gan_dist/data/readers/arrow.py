"""Reads single rows of Arrow files, as the package `datasets` writes them, in the processes that decode pictures.

A damaged file may end the process, which refuses the picture.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from gan_dist.data.readers.picture import MAX_FILE_BYTES
from gan_dist.files import BadFile, first_line, read_file


class ArrowFile(NamedTuple):
    """A file of rows."""

    path: str
    size: int
    """In bytes."""
    time: int
    """Of the last change, in ns."""

    def is_unchanged(self) -> bool:
        """Whether the file is there, with its size and time."""
        try:
            status = os.stat(self.path)
        except (OSError, ValueError):  # ValueError: a NUL character
            return False
        return (status.st_size, status.st_mtime_ns) == (self.size, self.time)


class PictureColumn:
    """A column of encoded pictures in one or more files."""

    def __init__(self, files: Sequence[ArrowFile], column: str) -> None:
        """Map the files.

        Raises:
            BadFile: a file is damaged, or has no such column.
        """
        import pyarrow as pa

        self.chunks = []
        for file in files:
            try:
                with pa.memory_map(file.path) as mapped, pa.ipc.open_stream(mapped) as reader:
                    table = reader.read_all()
                chunks = table.column(column).chunks
                for chunk in chunks:
                    chunk.validate(full=True)
            except (OSError, KeyError, pa.ArrowException) as error:
                raise BadFile(f"{file.path} is damaged ({first_line(error)})") from error
            self.chunks += [chunk for chunk in chunks if len(chunk)]
        self.ends = list(accumulate(map(len, self.chunks)))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def content(self, row: int) -> bytes:
        """The file of the picture in a row.

        Raises:
            BadFile: there is none, or it can't be read.
        """
        place = bisect_right(self.ends, row)
        if place == len(self.ends):
            raise BadFile("is missing: the files have fewer rows")
        chunk = self.chunks[place]
        return picture_bytes(chunk[row - self.ends[place] + len(chunk)].as_py())


def picture_bytes(value: Any) -> bytes:
    """The encoded picture of a row: bytes, or a dictionary with "bytes", or with the "path" of a local file.

    Raises:
        BadFile: there is none, it can't be read, or is too large.
    """
    content, path = (value.get("bytes"), value.get("path")) if isinstance(value, Mapping) else (value, None)
    if isinstance(content, bytes):
        if len(content) > MAX_FILE_BYTES:
            raise BadFile(f"is too large: {len(content):,} bytes; the maximum is {MAX_FILE_BYTES:,}")
        return content
    if content is not None or not isinstance(path, str):
        raise BadFile("has no picture")
    if not os.path.isabs(path):
        raise BadFile("names a file instead of a picture, without its folder")
    return read_file(Path(path), MAX_FILE_BYTES)
