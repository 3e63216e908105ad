"""Prepares encoded pictures: decodes all, leaves out what is unusable, and finds out whether all are grey."""

from __future__ import annotations

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from gan_dist.config import DataConfig, InputError
from gan_dist.data.cache import cache_file, write_cached
from gan_dist.data.preparation import Advance
from gan_dist.data.prepared import Contents
from gan_dist.data.readers.decoder import Job
from gan_dist.data.readers.decoding import decode_all
from gan_dist.data.readers.layout import Layout
from gan_dist.data.readers.names import ACCEPTED, quoted
from gan_dist.data.readers.reader import Context

MIN_TRAINING = 2  # pictures
UNUSABLE_SHARE = 10  # one in so many files may be unusable
SIZES_KEPT = 20  # the most frequent sizes, in the description
_BLOCK = 1_024  # pictures that are moved at a time


@dataclass(frozen=True)
class PictureBuild:
    """The preparation of one data set."""

    name: str
    """In messages, such as "data.root=pictures"."""
    root: Path
    """To which the names of the pictures are relative, in messages."""
    config: DataConfig
    layout: Layout
    left_out: Sequence[tuple[str, str]]
    """Names that can't be used, with the reason."""
    sized_by: str
    """Name of the picture that gave the size in the job's shape, without data.size."""
    job: Job
    """Without an output. With channels "auto", C of its shape is 3, and becomes 1 if all pictures are grey."""
    context: Context

    def __call__(self, output: Path, advance: Advance) -> Contents:
        """Write the pixels of the usable pictures; as `preparation.Source.build`."""
        entries, shape = self.layout.entries, self.job.shape
        pictures = self._decode(output, advance)
        refused = {i: picture["refused"] for i, picture in enumerate(pictures) if "refused" in picture}
        unusable = [*self.left_out, *((entries[i].file.name, reason) for i, reason in refused.items())]
        self._check_share(unusable)
        kept = [i for i in range(len(entries)) if i not in refused]
        trained = {entries[i].label for i in kept if entries[i].split == "train"}
        for i in [i for i in kept if entries[i].label not in trained]:
            unusable.append((entries[i].file.name, "is of a class without usable training pictures"))
        kept = [i for i in kept if entries[i].label in trained]
        count = sum(entries[i].split == "train" for i in kept)
        check_count(self.name, count, unusable)
        grey = all(pictures[i]["grey"] for i in kept)
        channels = 1 if self.config.channels == "auto" and grey else shape[0]
        compact(output, (len(entries), *shape), kept, channels)
        classes, labels = self._labels(kept)
        details = self._details([pictures[i] for i in kept], count, unusable)
        return Contents((channels, *shape[1:]), count, len(kept) - count, classes, labels, details)

    def _decode(self, output: Path, advance: Advance) -> list[dict[str, Any]]:
        """Decode all pictures; returns what `decoder.answer` says of each."""
        files = [entry.file for entry in self.layout.entries]
        with open(output, "wb") as stream:
            stream.truncate(len(files) * math.prod(self.job.shape))
        job = dataclasses.replace(self.job, output=str(output.absolute()))
        found: list[dict[str, Any]] = [{}] * len(files)
        for first, pictures in decode_all(job, files, self.context.stop_requested):
            for place, picture in enumerate(pictures, first):
                self._check(files[place].name, picture)
                found[place] = picture
            advance(len(pictures))
        return found

    def _check(self, name: str, picture: dict[str, Any]) -> None:
        if "changed" in picture:
            what = self.root if self.job.is_zip else self.root / name
            raise InputError(f"{quoted(what)} changed while it was read; rerun when nothing writes to it any more")
        if "other size" in picture:
            width, height = picture["size"]
            raise InputError(
                f"{self.name} has pictures of different sizes: {quoted(self.sized_by)} has "
                f"{self.job.shape[2]}x{self.job.shape[1]} pixels, {quoted(name)} {width}x{height}; "
                "pass --data.size N to resize them to NxN"
            )

    def _check_share(self, unusable: Sequence[tuple[str, str]]) -> None:
        """Refuse a data set of which too many pictures are unusable."""
        total = len(self.layout.entries) + len(self.left_out)
        if len(unusable) * UNUSABLE_SHARE <= total:
            return
        file = cache_file("unusable-pictures.txt")
        lines = [f"{quoted(self.root / name)}: {reason}\n" for name, reason in unusable]
        write_cached(file, "".join(lines).encode(), self.context.announce)
        name, reason = unusable[0]
        raise InputError(
            f"{self.name} has {len(unusable):,} unusable pictures among {total:,}, "
            f"more than a tenth, the first {quoted(name)}: {reason}; all are listed in {file}; remove or replace them"
        )

    def _labels(self, kept: Sequence[int]) -> tuple[tuple[str, ...] | None, Int64[np.ndarray, " n"] | None]:
        """The classes with pictures, and the label of each."""
        names = self.layout.classes
        if names is None:
            return None, None
        labels = np.array([self.layout.entries[i].label for i in kept], np.int64)
        used, labels = np.unique(labels, return_inverse=True)
        if len(used) < 2:
            return None, None
        return tuple(names[i] for i in used), labels.astype(np.int64)

    def _details(
        self, pictures: Sequence[dict[str, Any]], count: int, unusable: Sequence[tuple[str, str]]
    ) -> dict[str, Any]:
        sizes = Counter("x".join(map(str, picture["size"])) for picture in pictures)
        trained = {picture["hash"] for picture in pictures[:count]}
        size = self.config.size or 0
        return {
            "labelled_by": self.layout.labelled_by,
            "held_out_by": self.layout.held_out_by,
            "remarks": self.layout.remarks,
            "files": len(self.layout.entries) + len(self.left_out),
            "unusable": unusable,
            "sizes": dict(sizes.most_common(SIZES_KEPT)),
            "distinct_sizes": len(sizes),
            "enlarged": sum(min(picture["size"]) < size for picture in pictures),
            "held_out_copies": sum(picture["hash"] in trained for picture in pictures[count:]),
        }


def check_count(name: str, count: int, unusable: Sequence[tuple[str, str]]) -> None:
    """Check the number of usable training pictures of a data set. Raises InputError."""
    if count >= MIN_TRAINING:
        return
    first = ""
    if unusable:
        first = f"; {len(unusable):,} are unusable, the first {quoted(unusable[0][0])}: {unusable[0][1]}"
    raise InputError(
        f"{name} holds {count} usable training pictures ({ACCEPTED}), but at least {MIN_TRAINING} are needed{first}"
    )


def compact(file: Path, shape: tuple[int, int, int, int], kept: Sequence[int], channels: int) -> None:
    """Keep some pictures of a file, and their first channels, in place.

    Args:
        file: uint8 of `shape`.
        shape: (n, C, H, W).
        kept: ascending indices of the pictures that are kept.
        channels: number of channels that are kept.

    Raises:
        OSError: the file can't be written.
    """
    if len(kept) == shape[0] and channels == shape[1]:
        return
    pixels = np.memmap(file, np.uint8, "r", 0, shape)
    place = 0
    with open(file, "r+b", buffering=0) as stream:
        for start in range(0, len(kept), _BLOCK):
            # A copy. What is written ends before the pictures that are read next.
            content = memoryview(pixels[kept[start : start + _BLOCK], :channels].tobytes())
            while content:
                written = os.pwrite(stream.fileno(), content, place)
                content, place = content[written:], place + written
        del pixels
        stream.truncate(place)
