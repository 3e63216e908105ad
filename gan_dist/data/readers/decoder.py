"""The process that decodes pictures. `decoding` starts several, which import neither torch nor each other's state.

It reads lines of JSON from stdin, first a Job, then chunks of files, and answers each with a line on stdout.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gan_dist.data.readers.arrow import ArrowFile, PictureColumn
from gan_dist.data.readers.picture import MAX_FILE_BYTES, Rendering, decode, is_grey, to_channels
from gan_dist.data.readers.zipped import open_zip, read_member, zip_status
from gan_dist.files import BadFile, open_regular_file

READY = "ready"


class Changed(BadFile):
    """A file is not the one that was listed."""


@dataclass(frozen=True)
class Job:
    """What the decoder processes of one preparation have in common."""

    root: str
    is_zip: bool
    prefix: str
    """Of the names of members of a zip file."""
    zip_status: list[int] | None
    """Of the zip file when it was listed, from `zip_status`."""
    output: str
    """File into which the pixels are written, at the place of each picture."""
    shape: tuple[int, int, int]
    """(C, H, W) of the pictures in the output."""
    size: int | None
    background: tuple[int, int, int]
    tables: Mapping[str, Sequence[ArrowFile]] | None = None
    """If the pictures are rows of Arrow files: name of the split -> its files. The name of a picture is then that of
    its split, "/" and the row."""
    column: str = ""
    """Of the pictures in these files."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Job:
        values = json.loads(line)
        return cls(**{**values, "shape": tuple(values["shape"]), "background": tuple(values["background"])})


def main() -> None:
    """Serve until stdin ends."""
    # Signals that end a job may reach all of its processes. The parent kills this one, or its stdin ends.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    job = Job.from_json(sys.stdin.readline())
    output = os.open(job.output, os.O_WRONLY | os.O_CLOEXEC)
    print(json.dumps(READY), flush=True)
    with _reader(job) as read:
        for line in sys.stdin:
            chunk = json.loads(line)
            print(json.dumps(answer(job, output, read, chunk["first"], chunk["files"])), flush=True)


def answer(
    job: Job, output: int, read: Callable[[str, int, int], bytes], first: int, files: Sequence[tuple[str, int, int]]
) -> dict[str, Any]:
    """Decode files, and write their pixels with one call.

    Args:
        job: the job.
        output: descriptor of its output.
        read: returns the content of a file, whose arguments are those of a listing.File.
        first: place of the first of the files in the output.
        files: the listing.File of each.

    Returns:
        "pictures", an object for each; or "errno" if the pixels can't be written.
    """
    pixels = np.zeros((len(files), *job.shape), np.uint8)
    pictures = []
    for file, place in zip(files, pixels, strict=True):
        try:
            pictures.append(_decode(job, read(*file), place))
        except Changed:
            pictures.append({"changed": True})
        except BadFile as error:
            pictures.append({"refused": str(error)})
    try:
        _write(output, pixels.data.cast("B"), first * pixels[0].nbytes)
    except OSError as error:
        return {"errno": error.errno}
    return {"pictures": pictures}


def _decode(job: Job, content: bytes, place: np.ndarray) -> dict[str, Any]:
    """Decode one picture into its place; returns what is known of it."""
    picture = decode(content, Rendering(job.size, job.background))
    found = {"size": [picture.width, picture.height]}
    if picture.pixels.shape[1:] != place.shape[1:]:
        return found | {"other size": True}
    grey = is_grey(picture.pixels)
    place[:] = to_channels(picture.pixels, len(place))
    # A grey picture is the same whether its file has one channel or three.
    digest = hashlib.blake2b(place[:1].tobytes() if grey else place.tobytes(), digest_size=16).hexdigest()
    return found | {"grey": grey, "hash": digest}


def _write(descriptor: int, content: memoryview, offset: int) -> None:
    # Not through a memory map: there, a full disk would end the process by SIGBUS.
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written


@contextlib.contextmanager
def _reader(job: Job) -> Iterator[Callable[[str, int, int], bytes]]:
    """The function that reads a file of the root."""
    if job.tables is not None:
        yield _row_reader(job.tables, job.column)
        return
    if not job.is_zip:
        yield lambda name, size, time: read_file(os.path.join(job.root, name), size, time)
        return
    with open_zip(Path(job.root)) as archive:

        def read(name: str, size: int, crc: int) -> bytes:
            if zip_status(job.root) != job.zip_status:
                raise Changed
            return read_member(archive, job.prefix + name, MAX_FILE_BYTES)

        yield read


def _row_reader(tables: Mapping[str, Sequence[ArrowFile]], column: str) -> Callable[[str, int, int], bytes]:
    """The function that reads a row. The files are mapped when the first of a split is read."""
    opened: dict[str, PictureColumn] = {}

    def read(name: str, size: int, stamp: int) -> bytes:
        split, _, row = name.partition("/")
        files = [ArrowFile(*file) for file in tables[split]]
        if split not in opened:
            if not all(file.is_unchanged() for file in files):
                raise Changed
            opened[split] = PictureColumn(files, column)
        return opened[split].content(int(row))

    return read


def read_file(path: str, size: int, time: int) -> bytes:
    """Read a file that must have this size, in bytes, and time of the last change, in ns, before and after.

    Raises:
        BadFile: it can't be read, or is too large.
        Changed: it is another one.
    """
    try:
        with open_regular_file(Path(path)) as stream:
            _check_unchanged(stream.fileno(), size, time)
            if size > MAX_FILE_BYTES:
                raise BadFile(f"is too large: {size:,} bytes; the maximum is {MAX_FILE_BYTES:,}")
            try:
                content = stream.read(size + 1)
            except OSError as error:
                raise BadFile(f"can't be read ({error.strerror})") from error
            _check_unchanged(stream.fileno(), size, time)
    except BadFile as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise Changed from error
        raise
    return content


def _check_unchanged(descriptor: int, size: int, time: int) -> None:
    status = os.fstat(descriptor)
    if (status.st_size, status.st_mtime_ns) != (size, time):
        raise Changed
