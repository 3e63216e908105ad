"""Arrays of pixels in a .npy or .npz file of numpy, with labels if there are any: uint8 (n, H, W), (n, H, W, C), or
(n, C, H, W) as `gan-dist sample` writes them."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Int64, UInt8

from gan_dist.config import DataConfig, InputError
from gan_dist.data.preparation import Advance, Source, prepare, write_blocks
from gan_dist.data.prepared import Contents
from gan_dist.data.readers.names import quoted
from gan_dist.data.readers.picture import resize_square, to_channels
from gan_dist.data.readers.reader import MIN_COMPARED, Context, NoHeldOut, Provenance, RawImages, Reader
from gan_dist.data.spec import MAX_CLASSES, MAX_SIDE, DataSpec, Features, Split
from gan_dist.files import BadFile, first_line, open_regular_file
from gan_dist.memory import available_memory

VERSION = 1  # of the pixels that are made of the same file and settings
# Names in a .npz file: those of Keras's files, and common ones.
TRAIN_NAMES, TEST_NAMES = ("x_train", "images", "train_images", "x", "arr_0"), ("x_test", "test_images")
LABEL_NAMES = {
    **dict.fromkeys(("x_train", "train_images"), ("y_train", "train_labels")),
    **dict.fromkeys(("images", "x", "arr_0"), ("labels", "y", "arr_1")),
    **dict.fromkeys(TEST_NAMES, ("y_test", "test_labels")),
}
HELD_OUT_SHARE = 10  # without test images, every tenth is held out
MIN_IMAGES = 2
_GREY_BLOCK = 1_000  # images compared at a time

Images = UInt8[np.ndarray, "n h w *c"]


@dataclass(frozen=True)
class Arrays:
    """The content of a file."""

    train: Images
    test: UInt8[np.ndarray, "m h w *c"] | None
    labels: Int64[np.ndarray, " all"] | None
    """Of the training images, followed by those of the test images."""


def read(config: DataConfig, split: Split, context: Context) -> RawImages:
    """Read one split, and prepare the file first if it is not yet. As `Reader.read`."""
    root = config.root
    try:
        with open_regular_file(root) as stream:
            arrays = read_arrays(root, stream, config.labels == "auto")
            verify = split if config.verify else None
            prepared = prepare(_source(config, arrays), context.announce, context.stop_requested, verify)
    except BadFile as error:
        raise InputError(f"data.root={quoted(root)} {error}; pass another --data.root") from error
    contents = prepared.contents
    count = contents.count if split == "train" else contents.held_out
    if split == "test" and count < MIN_COMPARED:
        raise NoHeldOut(
            f"data.root={quoted(root)} has {count} held-out images; evaluations need {MIN_COMPARED} or more"
        )
    features: Features = "unlabelled" if contents.classes is None else "classifier"
    spec = DataSpec(root.stem, contents.shape, contents.classes, contents.count, contents.held_out, features)
    provenance = Provenance(root.stem, "local", str(root), count, prepared.sha256[split], "size and time of the file")
    notes = (f"held out: {contents.details['held_out_by']}",)
    return RawImages(prepared.pixels(split), prepared.labels(split), spec, provenance, notes=notes)


def check(config: DataConfig) -> None:
    """As `Reader.check`."""
    try:
        open_regular_file(config.root).close()
    except BadFile as error:
        raise InputError(f"data.root={quoted(config.root)} {error}; pass --data.root FILE.npz or FILE.npy") from error


READER = Reader(read, check)


def read_arrays(root: Path, stream: IO[bytes], use_labels: bool) -> Arrays:
    """Read and check the arrays of a file. Images of a .npy file are mapped, not read.

    Raises:
        BadFile: it is damaged, holds no images, or its arrays do not belong together.
    """
    try:
        if root.suffix == ".npy":
            found: dict[str, np.ndarray] = {"images": np.lib.format.open_memmap(root, mode="r")}
        else:
            found = _read_npz(stream)
    except BadFile:
        raise
    except Exception as error:  # numpy and zipfile raise many kinds of errors for damaged files
        raise BadFile(f"is not a .npz or .npy file, or is damaged ({first_line(error)})") from error
    train = next((name for name in TRAIN_NAMES if name in found), None)
    if train is None:
        raise BadFile(f"holds no array of images under {', '.join(TRAIN_NAMES)}")
    test = next((name for name in TEST_NAMES if name in found), None)
    for name in (train, test):
        if name is not None:
            found[name] = _channels_last(found[name])
            _check_images(name, found[name])
    if test is not None and found[test].shape[1:] != found[train].shape[1:]:
        raise BadFile(f"holds images of another shape in {test} than in {train}")
    labels = _labels(found, [name for name in (train, test) if name is not None]) if use_labels else None
    return Arrays(found[train], None if test is None else found[test], labels)


def _read_npz(stream: IO[bytes]) -> dict[str, np.ndarray]:
    """The arrays of a .npz file that may be images or labels, if they fit into the memory."""
    with zipfile.ZipFile(stream) as archive:
        size, available = sum(member.file_size for member in archive.infolist()), available_memory()
        if available is not None and size > available // 2:
            raise BadFile(f"holds {size / 1e9:,.1f} GB of arrays, too much for the memory; save the images as .npy")
    stream.seek(0)
    wanted = {*TRAIN_NAMES, *TEST_NAMES} | {name for names in LABEL_NAMES.values() for name in names}
    with np.load(stream, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files if name in wanted}


def _channels_last(images: np.ndarray) -> np.ndarray:
    """A view as (n, H, W, C) of images (n, C, H, W); other arrays unchanged."""
    channels_first = images.ndim == 4 and images.shape[3] not in (1, 3) and images.shape[1] in (1, 3)
    return images.transpose(0, 2, 3, 1) if channels_first else images


def _check_images(name: str, images: np.ndarray) -> None:
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        shape = "x".join(map(str, images.shape))
        raise BadFile(f"holds {name} of {images.dtype}, {shape}; images are uint8 of (n, H, W) or (n, H, W, C)")
    if images.ndim == 4 and images.shape[3] not in (1, 3):
        raise BadFile(f"holds {name} with {images.shape[3]} channels in the last dimension; use 1 or 3")
    if 0 in images.shape or max(images.shape[1:3]) > MAX_SIDE:
        raise BadFile(f"holds {name} with sides of {images.shape[1:3]}; use 1 to {MAX_SIDE}")


def _labels(found: Mapping[str, np.ndarray], images: list[str]) -> Int64[np.ndarray, " n"] | None:
    parts = []
    for name in images:
        own = next((label for label in LABEL_NAMES[name] if label in found), None)
        if own is None:
            return None
        labels = found[own].reshape(-1)
        if labels.dtype.kind not in "iu" or len(labels) != len(found[name]):
            raise BadFile(f"holds {own}, which is not one whole number for each image of {name}")
        if not 0 <= int(labels.min()) <= int(labels.max()) < MAX_CLASSES:
            raise BadFile(f"holds {own} outside of 0 to {MAX_CLASSES - 1}")
        parts.append(labels.astype(np.int64))
    return np.concatenate(parts)


def _source(config: DataConfig, arrays: Arrays) -> Source:
    status = config.root.stat()
    height, width = (config.size, config.size) if config.size else arrays.train.shape[1:3]
    count = len(arrays.train) + (0 if arrays.test is None else len(arrays.test))
    settings = [config.size, config.channels, config.labels]
    return Source(
        f"data.root={quoted(config.root)}",
        {"reader": "arrays", "version": VERSION, "root": str(config.root.resolve()), "settings": settings},
        f"{status.st_size} {status.st_mtime_ns} {status.st_ino}",
        count,
        count * (3 * height * width + 8),
        lambda file, advance: _build(config, arrays, (height, width), file, advance),
    )


def _build(config: DataConfig, arrays: Arrays, sides: tuple[int, int], file: Path, advance: Advance) -> Contents:
    """Write the images, the held-out ones last."""
    total, labels = len(arrays.train), arrays.labels
    if arrays.test is None:
        places = np.arange(total)
        held_out = places % HELD_OUT_SHARE == HELD_OUT_SHARE - 1
        held_out &= held_out.sum() >= MIN_COMPARED
        order, count, why = np.concatenate([places[~held_out], places[held_out]]), int((~held_out).sum()), "every tenth"
        images: list[Images] = [arrays.train]
    else:
        order, count, why = np.arange(total + len(arrays.test)), total, "the arrays of test images"
        images = [arrays.train, arrays.test]
    if count < MIN_IMAGES:
        raise InputError(f"data.root={quoted(config.root)} holds {count} training image(s); use {MIN_IMAGES} or more")
    channels = int(config.channels) if config.channels != "auto" else 1 if all(map(_all_grey, images)) else 3

    def fill(start: int, stop: int, block: UInt8[np.ndarray, "n c h w"]) -> None:
        for place, index in enumerate(order[start:stop]):
            pixels = images[0][index] if index < total else images[1][index - total]
            pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
            if pixels.shape[1:] != sides:
                pixels = resize_square(pixels, sides[0])
            block[place] = to_channels(pixels, channels)

    write_blocks(file, (len(order), channels, *sides), fill, advance)
    classes = None if labels is None else tuple(str(number) for number in range(int(labels.max()) + 1))
    if classes is not None and len(classes) < 2:
        classes = labels = None
    ordered = None if labels is None else labels[order]
    shape = (channels, *sides)
    assert math.prod(shape)
    return Contents(shape, count, len(order) - count, classes, ordered, {"held_out_by": why})


def _all_grey(images: Images) -> bool:
    if images.ndim == 3 or images.shape[3] == 1:
        return True
    blocks = (images[start : start + _GREY_BLOCK] for start in range(0, len(images), _GREY_BLOCK))
    return all(np.array_equal(block[..., 0], block[..., i]) for block in blocks for i in (1, 2))
