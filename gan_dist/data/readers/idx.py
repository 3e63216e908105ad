"""IDX files, the format of MNIST and its relatives (yann.lecun.com/exdb/mnist), plain or gzipped."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from gan_dist.config import InputError
from gan_dist.data.readers.location import CLASSES, IMAGE_SIZE, IMAGES_MAGIC, PUBLISHED, Published
from gan_dist.data.readers.reader import Provenance
from gan_dist.files import BadFile, open_regular_file

# 5 million images of 28x28, 90 times MNIST. They are held in memory, and a few gzipped bytes can claim any size.
MAX_BYTES = 4 * 2**30
_CHUNK = 2**20  # bytes that are decompressed at a time
_GZIP = b"\x1f\x8b"  # the first bytes of a gzip file
_WAY_OUT = "replace it, or delete it and use --data.source download"


def read_images(
    name: str, published: Published, file: Path, source: str, announce: Callable[[str], None]
) -> tuple[UInt8[np.ndarray, "n h w"], Provenance]:
    """Read and verify a file of images.

    Args:
        name: of the data set.
        published: what is known of the file.
        file: its path.
        source: for the provenance.
        announce: called with one line if the number of images is not the published one.

    Raises:
        InputError: the file is damaged, has images of another size or nothing but equal pixels, or has the published
            number of images but other content.
    """
    pixels = read_idx(file, IMAGES_MAGIC, "images")
    if pixels.shape[1:] != IMAGE_SIZE:
        height, width = pixels.shape[1:]
        raise InputError(f"{file} holds images of {height}x{width} instead of 28x28; is it {name}?")
    if len(pixels) != published.count:
        verified = f"shape and range; {len(pixels):,} images, not the {published.count:,} published"
        announce(
            f"{file} holds {len(pixels):,} images instead of the {published.count:,} of {name}: "
            "treated as a custom data set"
        )
    elif published.md5 is None:
        verified = "shape, range and count"
    else:
        md5 = hashlib.md5(usedforsecurity=False)
        md5.update(idx_header(IMAGES_MAGIC, pixels.shape))
        md5.update(pixels.data)
        if md5.hexdigest() != published.md5:
            raise InputError(
                f"{file} is not {name}: its md5 differs from the published one; "
                "replace it, or use --data.name with the name of the data set that it is"
            )
        verified = "shape, range, count and md5"
    return pixels, Provenance(name, source, str(file), len(pixels), pixels_sha256(pixels, file), verified)


def pixels_sha256(pixels: UInt8[np.ndarray, "n ..."], file: Path) -> str:
    """The sha256 of the pixels, image by image.

    Raises:
        InputError: all pixels are equal, so `file`, which holds them, has no images.
    """
    if pixels.min() == pixels.max():
        raise InputError(f"{file} holds no images: all pixels are equal; replace it")
    return hashlib.sha256(pixels.data).hexdigest()


def count_images(file: Path) -> int:
    """The number of images that a file's header declares; 0 if it can't be read, which `read_idx` explains."""
    try:
        with open_regular_file(file) as stream:
            if stream.peek(2)[:2] != _GZIP:
                header = stream.read(8)
            else:
                with gzip.GzipFile(fileobj=stream) as decompressed:
                    header = decompressed.read(8)
    except (BadFile, OSError, EOFError, zlib.error):
        return 0
    return int.from_bytes(header[4:8], "big") if header[:4] == IMAGES_MAGIC.to_bytes(4, "big") else 0


def read_labels(file: Path, published: Published, images: Provenance) -> Int64[np.ndarray, " n"]:
    """Read and verify the labels of images.

    Args:
        file: of the labels.
        published: what is known of it.
        images: of the images, from `read_images`.

    Raises:
        InputError: the file is damaged, has another number of labels than images, or other classes.
    """
    labels = read_idx(file, published.labels_magic, "labels")
    if len(labels) != images.count:
        raise InputError(
            f"{file} holds {len(labels):,} labels for the {images.count:,} images of {images.file}; "
            "replace the wrong one"
        )
    classes = labels.reshape(len(labels), -1)[:, 0].astype(np.int64)
    if not 0 <= int(classes.min()) <= int(classes.max()) < CLASSES:
        raise InputError(f"{file} holds other classes than 0 to {CLASSES - 1}; replace it")
    return classes


def read_idx(file: Path, magic: int, contents: str) -> np.ndarray:
    """Read an IDX file. Needs about as much memory as the file's header declares, whatever follows.

    Args:
        file: its path.
        magic: the expected magic number: IMAGES_MAGIC, LABELS_MAGIC or QMNIST_LABELS_MAGIC.
        contents: "images" or "labels", for the messages.

    Returns:
        uint8 (n, H, W), uint8 (n,) or int32 (n, 8), in the order of the magic numbers above. No dimension is 0.

    Raises:
        InputError: the file can't be read, or is empty, truncated, too long or not such an IDX file.
    """
    try:
        with open_regular_file(file) as stream:
            if stream.peek(2)[:2] != _GZIP:
                return _read(stream, magic, contents)
            with gzip.GzipFile(fileobj=stream) as decompressed:
                return _read(decompressed, magic, contents)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{file} is a damaged gzip file ({error}); {_WAY_OUT}") from error
    except BadFile as error:
        raise InputError(f"{file} {error}; {_WAY_OUT}") from error
    except OSError as error:
        raise InputError(f"{file} can't be read ({error.strerror}); {_WAY_OUT}") from error


def idx_header(magic: int, shape: tuple[int, ...]) -> bytes:
    """The first bytes of an IDX file."""
    return b"".join(number.to_bytes(4, "big") for number in (magic, *shape))


def write_idx_images(root: Path, name: str, images: UInt8[np.ndarray, "n h w"]) -> None:
    """Write images as the IDX file of the data set `name` under `root`, in torchvision's layout."""
    published = PUBLISHED[name]
    file = root / published.torchvision_class / "raw" / published.file
    file.parent.mkdir(parents=True)
    file.write_bytes(idx_header(IMAGES_MAGIC, images.shape) + images.tobytes())


def _read(stream: io.BufferedIOBase, magic: int, contents: str) -> np.ndarray:
    """Read the content of an IDX file. Raises BadFile, and the errors of the stream."""
    kind, dimensions = np.dtype({0x08: "u1", 0x0C: ">i4"}[magic >> 8]), magic & 0xFF
    size = 4 + 4 * dimensions
    header = stream.read(size)
    if not header:
        raise BadFile("is empty")
    if len(header) < size:
        raise BadFile(f"is truncated: {len(header)} bytes, less than an IDX header")
    found, *shape = (int.from_bytes(header[i : i + 4], "big") for i in range(0, size, 4))
    if found != magic:
        raise BadFile(f"is not an IDX file of {contents}: it starts with {found:#010x} instead of {magic:#010x}")
    if 0 in shape:
        raise BadFile(f"holds no {contents}: its header declares {'x'.join(map(str, shape))}")
    expected = kind.itemsize * math.prod(shape)
    if expected > MAX_BYTES:
        raise BadFile(f"is too large: {expected:,} bytes for {shape[0]:,} {contents}; the maximum is {MAX_BYTES:,}")
    content = bytearray()
    # One byte more than declared, because GzipFile verifies the checksum when it reaches the end.
    while chunk := stream.read(min(_CHUNK, expected + 1 - len(content))):
        content += chunk
    if len(content) < expected:
        total, declared = size + len(content), size + expected
        raise BadFile(f"is truncated: {total:,} bytes instead of {declared:,} for {shape[0]:,} {contents}")
    if len(content) > expected:
        raise BadFile(f"is too long: more than the {size + expected:,} bytes of {shape[0]:,} {contents}")
    return np.frombuffer(content, kind).reshape(shape)
