"""What a tracker can show besides numbers. All of it is plain data, so it can be sent by another thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np


class Image(NamedTuple):
    """A picture with a caption."""

    png: bytes
    """Content of a PNG file."""
    caption: str


class Histogram(NamedTuple):
    """How often numbers fall between two edges."""

    counts: Sequence[int]
    edges: Sequence[float]
    """One more than counts, ascending."""


class Table(NamedTuple):
    """Rows of text and numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Lines(NamedTuple):
    """Several lines in one chart, over the steps."""

    steps: Sequence[int]
    lines: Mapping[str, Sequence[float]]
    """Name -> one value for each step."""


class Page(NamedTuple):
    """An HTML page."""

    html: str


class Dataset(NamedTuple):
    """What a run was trained on. The images stay where they are."""

    name: str
    description: Mapping[str, Any]
    """What identifies it; equal ones are one data set of all runs."""


class Model(NamedTuple):
    """A file of weights."""

    file: Path
    """Read when it is sent."""
    alias: str
    """What this version is, such as "latest"."""
    metadata: Mapping[str, Any]


Media: TypeAlias = Image | Histogram | Table | Lines | Page | Dataset | Model


def count_values(values: np.ndarray, lowest: float, highest: float, bins: int) -> Histogram:
    """The histogram of numbers, with bins of equal width from `lowest` to `highest`. NaN is not counted."""
    counts, edges = np.histogram(values[np.isfinite(values)], bins, (lowest, highest))
    return Histogram(counts.tolist(), edges.tolist())


def size_of(media: Media) -> int:
    """Bytes that a medium occupies while it waits to be sent; small ones count as 0."""
    return len(media.png) if isinstance(media, Image) else len(media.html) if isinstance(media, Page) else 0
