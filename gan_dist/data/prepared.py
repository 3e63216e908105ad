"""Data sets that were prepared once: the pixels in one file of the user's cache, mapped into memory."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from gan_dist.data.spec import Split, are_classes, is_shape
from gan_dist.files import MAX_JSON_BYTES, BadFile, is_whole, parse_json_object, read_file

FORMAT = 1
PIXELS = "pixels.bin"  # uint8 (n, C, H, W), training images first
LABELS = "labels.bin"  # int64, little-endian, in the same order; absent without classes
DESCRIPTION = "description.json"
MAX_LABELS_BYTES = 2 * 2**30
HASHED_BYTES = 2**24  # at a time
SPLITS: tuple[Split, Split] = ("train", "test")


@dataclass(frozen=True)
class Contents:
    """What was prepared, apart from the pixels."""

    shape: tuple[int, int, int]
    """(C, H, W)."""
    count: int
    """Number of training images."""
    held_out: int
    """Number of held-out images, which follow them."""
    classes: tuple[str, ...] | None
    labels: Int64[np.ndarray, " n"] | None
    """Of all images, in the same order; None if there are no classes."""
    details: dict[str, Any]
    """What else is known of the source, as JSON stores it."""


@dataclass(frozen=True)
class Prepared:
    """A prepared data set. Its folder may be removed while it is used."""

    folder: Path
    contents: Contents
    sha256: Mapping[Split, str]
    """Of the pixels of each split, image by image."""

    def pixels(self, split: Split) -> UInt8[np.ndarray, "n c h w"]:
        """The pixels of a split, mapped into memory; changes stay in this process.

        Raises:
            BadFile: the file was replaced or truncated in the meantime.
        """
        contents = self.contents
        count = contents.count if split == "train" else contents.held_out
        if not count:  # an empty range can't be mapped
            return np.zeros((0, *contents.shape), np.uint8)
        check_size(self.folder / PIXELS, self.size)
        return np.memmap(self.folder / PIXELS, np.uint8, "c", self.offset(split), (count, *contents.shape))

    def labels(self, split: Split) -> Int64[np.ndarray, " n"] | None:
        """The label of each image of a split; None if there are no classes."""
        contents = self.contents
        if contents.labels is None:
            return None
        return contents.labels[: contents.count] if split == "train" else contents.labels[contents.count :]

    @property
    def size(self) -> int:
        """Of the file of pixels, in bytes."""
        return (self.contents.count + self.contents.held_out) * math.prod(self.contents.shape)

    def offset(self, split: Split) -> int:
        """Of the first image of a split in the file of pixels, in bytes."""
        return self.contents.count * math.prod(self.contents.shape) if split == "test" else 0

    def verify(self, split: Split, poll: Callable[[], None]) -> None:
        """Read all pixels of a split.

        Args:
            split: the split.
            poll: called several times per second; what it raises ends the reading.

        Raises:
            BadFile: they are not those that were prepared.
        """
        end = self.offset("test") if split == "train" else self.size
        if hash_pixels(self.folder / PIXELS, self.offset(split), end, poll) != self.sha256[split]:
            raise BadFile(f"has a damaged {PIXELS}: its sha256 is not that of the prepared pixels")


def hash_pixels(file: Path, start: int, end: int, poll: Callable[[], None]) -> str:
    """The sha256 of a range of bytes of a file. `poll` is called regularly."""
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        stream.seek(start)
        while start < end and (chunk := stream.read(min(HASHED_BYTES, end - start))):
            digest.update(chunk)
            start += len(chunk)
            poll()
    return digest.hexdigest()


def check_size(file: Path, size: int) -> None:
    """Check that a file is a regular one of a size in bytes, and not a link.

    Raises:
        BadFile: it is not.
    """
    try:
        status = os.lstat(file)
    except OSError as error:
        raise BadFile(f"has an unreadable {file.name} ({error.strerror})") from error
    if not stat.S_ISREG(status.st_mode) or status.st_size != size:
        raise BadFile(f"has a damaged {file.name}: it is not a regular file of {size:,} bytes")


def write_description(folder: Path, contents: Contents, sha256: Mapping[Split, str]) -> None:
    """Write everything but the pixels.

    Raises:
        OSError: the folder can't be written.
    """
    labels = None
    if contents.labels is not None:
        content = contents.labels.astype("<i8").tobytes()
        (folder / LABELS).write_bytes(content)
        labels = hashlib.sha256(content).hexdigest()
    values = {
        "format": FORMAT,
        "shape": contents.shape,
        "count": contents.count,
        "held_out": contents.held_out,
        "classes": contents.classes,
        "sha256": dict(sha256),
        "labels_sha256": labels,
        "details": contents.details,
    }
    (folder / DESCRIPTION).write_text(json.dumps(values | {"digest": _digest(values)}, indent=1) + "\n")


def open_prepared(folder: Path) -> Prepared | None:
    """Open a prepared data set; None if the folder does not exist.

    Names, types, sizes, and the hashes of the description and the labels are checked; the pixels are not read.

    Raises:
        BadFile: it is damaged.
    """
    if not os.path.lexists(folder):
        return None
    values = parse_json_object(read_file(folder / DESCRIPTION, MAX_JSON_BYTES, follow_links=False))
    _check(values)
    count, held_out = values["count"], values["held_out"]
    classes = None if values["classes"] is None else tuple(values["classes"])
    labels = None if classes is None else _read_labels(folder, count + held_out, len(classes), values["labels_sha256"])
    shape = values["shape"][0], values["shape"][1], values["shape"][2]
    contents = Contents(shape, count, held_out, classes, labels, values["details"])
    prepared = Prepared(folder, contents, {split: values["sha256"][split] for split in SPLITS})
    check_size(folder / PIXELS, prepared.size)
    return prepared


def _check(values: dict[str, Any]) -> None:
    """Check types and ranges of a description. Raises BadFile."""
    names = ("format", "shape", "count", "held_out", "classes", "sha256", "labels_sha256", "details", "digest")
    if values.keys() != {*names} or values["format"] != FORMAT:
        raise BadFile(f"has a {DESCRIPTION} of another format")
    digest = values.pop("digest")
    shape, classes, sha256 = values["shape"], values["classes"], values["sha256"]
    for name, ok in {
        "digest": digest == _digest(values),
        "shape": is_shape(shape),
        "count": is_whole(values["count"]) and values["count"] > 0,
        "held_out": is_whole(values["held_out"]) and values["held_out"] >= 0,
        "classes": classes is None or are_classes(classes),
        "sha256": isinstance(sha256, dict) and sha256.keys() == {*SPLITS} and all(map(_is_sha256, sha256.values())),
        "labels_sha256": _is_sha256(values["labels_sha256"]) != (classes is None),
        "details": isinstance(values["details"], dict),
    }.items():
        if not ok:
            raise BadFile(f"has a {DESCRIPTION} with an invalid {name}")


def _read_labels(folder: Path, count: int, classes: int, sha256: str) -> Int64[np.ndarray, " n"]:
    content = read_file(folder / LABELS, MAX_LABELS_BYTES, follow_links=False)
    if len(content) != 8 * count or hashlib.sha256(content).hexdigest() != sha256:
        raise BadFile(f"has a damaged {LABELS}")
    labels = np.frombuffer(bytearray(content), "<i8").astype(np.int64, copy=False)
    if labels.min() < 0 or labels.max() >= classes:
        raise BadFile(f"has a {LABELS} with labels out of range")
    return labels


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None
