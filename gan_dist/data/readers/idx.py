"""IDX files, the format of MNIST and its kin (yann.lecun.com/exdb/mnist), plain or gzipped."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from pathlib import Path

import numpy as np

from gan_dist.config import InputError
from gan_dist.files import BadFile, open_regular_file

# 5 million images of 28x28, ninety times MNIST. All of them are held in memory, and few bytes of gzip can promise any
# number.
MAX_BYTES = 4 * 2**30
_PART = 2**20  # bytes that are unpacked at a time
_GZIP = b"\x1f\x8b"  # the first bytes of a gzip file
_WAY_OUT = "replace it, or delete it and use --data.source download"


def read_idx(file: Path, magic: int, holds: str) -> np.ndarray:
    """Read an IDX file. Takes about as much memory as the file's header promises, however much follows.

    Args:
        file: its path.
        magic: the number that it has to begin with: IMAGES_MAGIC, LABELS_MAGIC, QMNIST_LABELS_MAGIC.
        holds: what there is one of for each image, in the plural, for the messages.

    Returns:
        uint8 (n, H, W), uint8 (n,) or int32 (n, 8), in the order of the magic numbers above. No dimension is 0.

    Raises:
        InputError: the file can't be read, or is empty, truncated, too long or no such IDX file.
    """
    try:
        with open_regular_file(file) as stream:
            if stream.peek(2)[:2] != _GZIP:
                return _read(stream, magic, holds)
            with gzip.GzipFile(fileobj=stream) as unpacked:
                return _read(unpacked, magic, holds)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{file} is a damaged gzip file ({error}); {_WAY_OUT}") from error
    except BadFile as error:
        raise InputError(f"{file} {error}; {_WAY_OUT}") from error
    except OSError as error:
        raise InputError(f"{file} can't be read ({error.strerror}); {_WAY_OUT}") from error


def idx_header(magic: int, shape: tuple[int, ...]) -> bytes:
    """The bytes that an IDX file begins with."""
    return b"".join(number.to_bytes(4, "big") for number in (magic, *shape))


def _read(stream: io.BufferedIOBase, magic: int, holds: str) -> np.ndarray:
    """Read the content of an IDX file. Raises BadFile, and what reading the stream raises."""
    kind, dimensions = np.dtype({0x08: "u1", 0x0C: ">i4"}[magic >> 8]), magic & 0xFF
    size = 4 + 4 * dimensions
    header = stream.read(size)
    if not header:
        raise BadFile("is empty")
    if len(header) < size:
        raise BadFile(f"is truncated: {len(header)} bytes, less than an IDX header")
    begins, *shape = (int.from_bytes(header[i : i + 4], "big") for i in range(0, size, 4))
    if begins != magic:
        raise BadFile(f"is no IDX file of {holds}: it begins with {begins:#010x} instead of {magic:#010x}")
    if 0 in shape:
        raise BadFile(f"holds no {holds}: its header says {'x'.join(map(str, shape))}")
    expected = kind.itemsize * math.prod(shape)
    if expected > MAX_BYTES:
        raise BadFile(f"is too large: {expected:,} bytes for {shape[0]:,} {holds}, at most {MAX_BYTES:,} are read")
    content = bytearray()
    # One byte more than promised: at the end of a gzip file this checks its checksum.
    while part := stream.read(min(_PART, expected + 1 - len(content))):
        content += part
    if len(content) < expected:
        whole, promised = size + len(content), size + expected
        raise BadFile(f"is truncated: {whole:,} bytes instead of {promised:,} for {shape[0]:,} {holds}")
    if len(content) > expected:
        raise BadFile(f"is too long: more than the {size + expected:,} bytes of {shape[0]:,} {holds}")
    return np.frombuffer(content, kind).reshape(shape)
