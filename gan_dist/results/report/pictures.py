"""The sample grids of a run as data URIs: recompressed, and thinned out where they would not fit into a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageChops

from gan_dist.files import BadFile, first_line, read_file
from gan_dist.outputs.pictures import COLUMNS, GAP, MAX_PICTURE_BYTES, MAX_ROWS
from gan_dist.results.recorded import MAX_NAMED, RecordedRun

MAX_PIXELS = 89_000_000  # of a grid: 8 x 10 images of 1,024 x 1,024. Pillow warns of larger pictures
SHOWN_SIDE = 4_200  # pixels: 8 images of 512. No screen shows more, and WebP has at most 16,383
THREADS = 4  # Pillow encodes outside of Python's lock
THREADED_PIXELS = 2**26  # in all threads together: about 0.6 GB
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
    probes: list[Image.Image] = []
    size: Size | None = None
    for epoch in spread(run.epochs, PROBES):
        picture = _read_or_note(run.folder.epoch_samples(epoch), [])
        if picture is not None:
            size = Size(*picture.size)
            probes.append(reduced(picture))
    if size is None:
        return None
    encoding, count = _fitting(probes, len(run.epochs), budget)
    chosen = spread(run.epochs, count)
    damage: list[str] = []
    encoded = _encode_all([run.folder.epoch_samples(epoch) for epoch in chosen], encoding, size, damage)
    kept = [(epoch, uri) for epoch, uri in zip(chosen, encoded, strict=True) if uri is not None]
    real = _encode_all([run.folder.real_samples], ENCODINGS[0], None, damage)[0]
    notes = [f"{file} was skipped" for file in sorted(damage)[:MAX_NAMED]]
    if len(damage) > MAX_NAMED:
        notes.append(f"{len(damage) - MAX_NAMED:,} more files were skipped")
    if len(chosen) < len(run.epochs):
        notes.append(
            f"{len(chosen):,} of {len(run.epochs):,} epochs are shown, more of the early ones, to keep the page small"
        )
    if max(size) > SHOWN_SIDE:
        notes.append(f"The grids have {size.width} x {size.height} pixels, and are shown smaller")
    if encoding.description:
        notes.append(f"The grids are {encoding.description}; the originals are in {run.folder.samples}")
    return Grids([epoch for epoch, _ in kept], [uri for _, uri in kept], real, size, notes)


class Strip(NamedTuple):
    """Some images of a grid in a row."""

    epoch: int
    uri: str
    size: Size


def read_strips(run: RecordedRun, side: Size, count: int, budget: int) -> list[Strip]:
    """A strip of single images from some of a run's grids: the first row, or one image of each class.

    Args:
        run: whose grids are read.
        side: width and height of a single image.
        count: how many epochs.
        budget: bytes that the data URIs may have together, approximately.

    Returns:
        One of each readable grid; of fewer epochs if the budget requires it.
    """
    width = (side.width + GAP) * COLUMNS + GAP

    def cut(epoch: int) -> tuple[int, Image.Image] | None:
        picture = _read_or_note(run.folder.epoch_samples(epoch), [])
        if picture is None or picture.width < width:
            return None
        return epoch, reduced(_strip(picture, side, by_class=run.config.model.conditional))

    with ThreadPoolExecutor(_threads(Size(width, width))) as pool:
        strips = dict(found for found in pool.map(cut, spread(run.epochs, count)) if found is not None)
    if not strips:
        return []
    probes = [strips[epoch] for epoch in spread([*strips], PROBES)]
    encoding, count = _fitting(probes, len(strips), budget)
    chosen = spread([*strips], count)
    with ThreadPoolExecutor(THREADS) as pool:
        encoded = pool.map(lambda epoch: data_uri(strips[epoch], encoding), chosen)
        return [Strip(epoch, uri, Size(*strips[epoch].size)) for epoch, uri in zip(chosen, encoded, strict=True)]


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
    # Before Pillow opens the file: the first chunk of a PNG begins with its width and height.
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    if content[12:16] == b"IHDR" and width * height > MAX_PIXELS:
        raise BadFile(f"has {width} x {height} pixels, too many")
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as opened:
            picture = opened.convert("RGB")
    except Exception as error:  # Pillow raises many types for damaged files
        raise BadFile(f"is not a readable PNG ({first_line(error)})") from error
    red, green, blue = picture.split()
    is_coloured = any(ImageChops.difference(red, other).getbbox() for other in (green, blue))
    return picture if is_coloured else red


def reduced(picture: Image.Image) -> Image.Image:
    """A picture, in a smaller size if a side is longer than SHOWN_SIDE."""
    scale = SHOWN_SIDE / max(picture.size)
    if scale >= 1:
        return picture
    return picture.resize((max(round(scale * picture.width), 1), max(round(scale * picture.height), 1)))


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
        return data_uri(reduced(picture), encoding)

    with ThreadPoolExecutor(THREADS if size is None else _threads(size)) as pool:
        return list(pool.map(encode, files))


def _threads(size: Size) -> int:
    """In how many threads pictures of a size are read, so that they fit into the memory."""
    return max(1, min(THREADS, THREADED_PIXELS // (size.width * size.height)))


def _strip(picture: Image.Image, side: Size, by_class: bool) -> Image.Image:
    """The images of the first row in a row; or those of the first column, with one row per class."""
    across, down = side.width + GAP, side.height + GAP
    if not by_class:
        return picture.crop((0, 0, across * COLUMNS + GAP, down + GAP))
    rows = min((picture.height - GAP) // down, MAX_ROWS)
    strip = Image.new(picture.mode, (rows * across + GAP, down + GAP), picture.getpixel((0, 0)))
    for row in range(rows):
        strip.paste(picture.crop((0, row * down, across + GAP, (row + 1) * down + GAP)), (row * across, 0))
    return strip
