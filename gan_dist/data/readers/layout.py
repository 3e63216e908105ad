"""The pictures of a data set, their splits and their classes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from gan_dist.config import InputError
from gan_dist.data.readers.listing import File
from gan_dist.data.readers.names import quoted
from gan_dist.data.readers.reader import MIN_COMPARED
from gan_dist.data.spec import MAX_CLASSES, MAX_NAME, Split

HELD_OUT_SHARE = 10  # one picture of so many, if the data set does not hold any out

Value: TypeAlias = str | int
"""A class, as a folder or a file names it."""

IGNORE = "pass --data.labels none to ignore labels"


class Entry(NamedTuple):
    """A picture of the data set."""

    file: File
    split: Split
    label: int
    """Index of its class; -1 if there are none."""


@dataclass(frozen=True)
class Layout:
    """The pictures of a data set, and how they were found."""

    entries: list[Entry]
    """Training pictures first, each split sorted by name."""
    classes: tuple[str, ...] | None
    labelled_by: str
    """Where the classes come from, or why there are none."""
    held_out_by: str
    """How the held-out pictures were chosen."""
    remarks: list[str] = field(default_factory=list)
    """Facts that the user may not expect, one line each."""


def hold_out(names: Sequence[str], values: Sequence[Value] | None, by: str = "path") -> tuple[list[Split], str]:
    """Choose held-out pictures.

    Args:
        names: of the pictures. One in HELD_OUT_SHARE is chosen by the hash of its name, if these are at least
            MIN_COMPARED.
        values: their classes, each of which keeps some pictures for training.
        by: what the names are, for the description.

    Returns:
        The split of each, and how they were chosen.
    """
    chosen = [_hash(name) % HELD_OUT_SHARE == 0 for name in names]
    if values is not None:
        kept = {value for value, held_out in zip(values, chosen, strict=True) if not held_out}
        chosen = [held_out and value in kept for value, held_out in zip(values, chosen, strict=True)]
    if sum(chosen) < MIN_COMPARED:
        return ["train"] * len(names), f"none, because a tenth is fewer than {MIN_COMPARED} pictures"
    return ["test" if held_out else "train" for held_out in chosen], f"a tenth, by the hash of each {by}"


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big")


def number_classes(shown: str, splits: Sequence[Split], values: Sequence[Value]) -> tuple[tuple[str, ...], list[int]]:
    """The sorted names of the classes of the training pictures, and the index of each picture's class.

    Args:
        shown: the data set, in messages.
        splits, values: of the pictures.

    Raises:
        InputError: a class has no training pictures, there are too many, or a name is too long.
    """
    names = sorted({value for value, split in zip(values, splits, strict=True) if split == "train"})
    unseen = {*values} - {*names}
    if unseen:
        first = quoted(str(min(map(str, unseen))))
        raise InputError(
            f"{shown} has held-out pictures of {len(unseen):,} classes without training pictures, the first {first}; "
            f"add training pictures, or {IGNORE}"
        )
    if len(names) > MAX_CLASSES:
        raise InputError(f"{shown} has {len(names):,} classes, more than the {MAX_CLASSES:,} supported; {IGNORE}")
    too_long = next((str(name) for name in names if len(str(name)) > MAX_NAME), None)
    if too_long is not None:
        raise InputError(f"{shown} has a class with a name of {len(too_long):,} characters; {IGNORE}")
    index = {name: i for i, name in enumerate(names)}
    return tuple(map(str, names)), [index[value] for value in values]


def printable(name: str) -> str:
    """A name that can be stored as UTF-8, without line breaks."""
    text = name.encode("utf-8", "backslashreplace").decode()
    return text if text.isprintable() else repr(text)[1:-1]
