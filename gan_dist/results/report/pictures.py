"""The sample grids of a run as data URIs: recompressed, and thinned out where they would not fit into a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from gan_dist.files import BadFile, first_line, read_file
from gan_dist.outputs.pictures import COLUMNS, GAP, MAX_PICTURE_BYTES
from gan_dist.results.recorded import RecordedRun

MAX_PIXELS = 2**26  # of a grid: 8 x 40 images of 450 x 450
THREADS = 4  # Pillow encodes outside of Python's lock
PROBES = 6  # grids that are encoded first, to estimate the size of all
WANTED = 60  # epochs below which a stronger compression is tried


class Encoding(NamedTuple):
    """A way to compress pictures."""

    description: str
    options: dict[str, Any]
    """Of Pillow's WebP writer."""


# In the order in which they are tried. Photographs compress badly without loss.
ENCODINGS = (
    Encoding("", {"lossless": True, "method": 2}),
    Encoding("compressed with small losses", {"quality": 90, "method": 4}),
    Encoding("compressed with visible losses", {"quality": 70, "method": 4}),
)


class Size(NamedTuple):
    """Pixels."""

    width: int
    height: int


@dataclass(frozen=True)
class Grids:
    """Grids of generated images of one run."""

    epochs: list[int]
    """The epochs that are shown."""
    pictures: list[str]
    """A data URI for each of them."""
    real: str | None
    """Data URI of the grid of real images; None if it is missing or damaged."""
    size: Size
    notes: list[str]
    """What the reader should know, one sentence each: thinned out, compressed, damaged."""


def read_grids(run: RecordedRun, budget: int) -> Grids | None:
    """Read and compress the grids of a run.

    Args:
        run: whose grids are read.
        budget: bytes that the data URIs may have together, approximately.

    Returns:
        None if the run has no readable grids.
    """
    damage: list[str] = []
    read = [_read_or_note(run.folder.epoch_samples(epoch), damage) for epoch in spread(run.epochs, PROBES)]
    probes = [picture for picture in read if picture is not None]
    if not probes:
        return None
    size = Size(*probes[-1].size)
    encoding, count = _fitting(probes, len(run.epochs), budget)
    chosen = spread(run.epochs, count)
    damage.clear()
    encoded = _encode_all([run.folder.epoch_samples(epoch) for epoch in chosen], encoding, size, damage)
    kept = [(epoch, uri) for epoch, uri in zip(chosen, encoded, strict=True) if uri is not None]
    real = _encode_all([run.folder.real_samples], ENCODINGS[0], None, damage)[0]
    notes = [f"{file} was skipped" for file in damage]
    if len(chosen) < len(run.epochs):
        notes.append(
            f"{len(chosen):,} of {len(run.epochs):,} epochs are shown, more of the early ones, to keep the page small"
        )
    if encoding.description:
        notes.append(f"The grids are {encoding.description}; the originals are in {run.folder.samples}")
    return Grids([epoch for epoch, _ in kept], [uri for _, uri in kept], real, size, notes)


class Strip(NamedTuple):
    """Some images of a grid in a row."""

    epoch: int
    uri: str
    size: Size


def read_strips(run: RecordedRun, side: Size, count: int) -> list[Strip]:
    """A strip of single images from some of a run's grids: the first row, or one image of each class.

    Args:
        run: whose grids are read.
        side: width and height of a single image.
        count: how many epochs.

    Returns:
        One of each readable grid.
    """

    def cut(epoch: int) -> Strip | None:
        picture = _read_or_note(run.folder.epoch_samples(epoch), [])
        if picture is None or picture.width < (side.width + GAP) * COLUMNS + GAP:
            return None
        strip = _strip(picture, side, by_class=run.config.model.conditional)
        return Strip(epoch, data_uri(strip, ENCODINGS[0]), Size(*strip.size))

    with ThreadPoolExecutor(THREADS) as pool:
        return [strip for strip in pool.map(cut, spread(run.epochs, count)) if strip is not None]


def spread(values: Sequence[int], count: int) -> list[int]:
    """At most `count` of the values: the first, the last, and others in between, denser at the beginning.

    Generated images change fastest at first.
    """
    if len(values) <= count:
        return list(values)
    last, steps, index, chosen = len(values) - 1, max(count - 1, 1), -1, []
    for i in range(count):
        index = max(index + 1, round(last * (i / steps) ** 1.5))
        chosen.append(values[index])
    return chosen


def read_picture(file: Path) -> Image.Image:
    """Read a grid; grey ones have one channel.

    Raises:
        BadFile: it is not a PNG of reasonable size.
    """
    content = read_file(file, MAX_PICTURE_BYTES)
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise BadFile(f"has {opened.width} x {opened.height} pixels, too many")
            picture = opened.convert("RGB")
    except BadFile:
        raise
    except Exception as error:  # Pillow raises many types for damaged files
        raise BadFile(f"is not a readable PNG ({first_line(error)})") from error
    red, green, blue = picture.split()
    return red if red.tobytes() == green.tobytes() == blue.tobytes() else picture


def data_uri(picture: Image.Image, encoding: Encoding) -> str:
    """A picture as a WebP data URI."""
    stream = io.BytesIO()
    picture.save(stream, "WEBP", **encoding.options)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


def _read_or_note(file: Path, damage: list[str]) -> Image.Image | None:
    try:
        return read_picture(file)
    except BadFile as error:
        damage.append(f"{file.name} {error}")
        return None


def _fitting(probes: Sequence[Image.Image], epochs: int, budget: int) -> tuple[Encoding, int]:
    """The first encoding with which WANTED epochs, or all, fit into the budget; and how many fit."""
    count = 0
    for encoding in ENCODINGS:
        mean = sum(len(data_uri(picture, encoding)) for picture in probes) / len(probes)
        count = max(int(budget / mean), 2)
        if count >= min(epochs, WANTED):
            return encoding, min(count, epochs)
    return ENCODINGS[-1], min(count, epochs)


def _encode_all(files: Sequence[Path], encoding: Encoding, size: Size | None, damage: list[str]) -> list[str | None]:
    """Data URIs of files; None for those that are damaged or have another size."""

    def encode(file: Path) -> str | None:
        picture = _read_or_note(file, damage)
        if picture is None:
            return None
        if size is not None and picture.size != size:
            damage.append(f"{file.name} has another size than the last grid")
            return None
        return data_uri(picture, encoding)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(encode, files))


def _strip(picture: Image.Image, side: Size, by_class: bool) -> Image.Image:
    """The images of the first row in a row; or those of the first column, with one row per class."""
    across, down = side.width + GAP, side.height + GAP
    if not by_class:
        return picture.crop((0, 0, across * COLUMNS + GAP, down + GAP))
    rows = (picture.height - GAP) // down
    strip = Image.new(picture.mode, (rows * across + GAP, down + GAP), picture.getpixel((0, 0)))
    for row in range(rows):
        strip.paste(picture.crop((0, row * down, across + GAP, (row + 1) * down + GAP)), (row * across, 0))
    return strip
