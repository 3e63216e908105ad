"""Small colour pictures that torchvision knows by name: their files are found or downloaded, and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from gan_dist.config import DataConfig, InputError
from gan_dist.data.readers.download import Downloadable, DownloadError, download
from gan_dist.data.readers.idx import pixels_sha256
from gan_dist.data.readers.location import plain_or_gzipped
from gan_dist.data.readers.reader import MIN_COMPARED, Context, NoHeldOut, Provenance, RawImages, Reader
from gan_dist.data.spec import DataSpec, Features, Split
from gan_dist.files import BadFile, read_file

MAX_BYTES = 2**31  # of a file; those of SVHN have up to 180 MB

Content = tuple[UInt8[np.ndarray, "n 3 h w"], Int64[np.ndarray, " n"]]
"""The images and labels of a file."""


@dataclass(frozen=True)
class Published:
    """What is known of a data set before it is read."""

    torchvision_class: str
    split_argument: str
    """As in `Downloadable`."""
    folder: str
    """Where torchvision puts the files, relative to the root."""
    files: Mapping[Split, Mapping[str, str]]
    """Split -> name of a file -> its md5."""
    counts: Mapping[Split, int]
    """Split -> number of images."""
    classes: tuple[str, ...]
    """Their names."""
    parse: Callable[[bytes], Content]
    """Reads the content of a file; raises BadFile."""


def make_reader(published: Published) -> Reader:
    """The reader of a data set."""
    return Reader(partial(_read, published), partial(_check, published))


def _check(published: Published, config: DataConfig) -> None:
    if config.source == "local":
        _require(published, config)


def _read(published: Published, config: DataConfig, split: Split, context: Context) -> RawImages:
    folder, source = _find(published, config, context)
    images = {which: _read_split(published, config, folder, which, context) for which in published.files}
    found = images[split]
    if found is None:
        names = ", ".join(published.files[split])
        raise NoHeldOut(f"{folder} holds no {names} with {MIN_COMPARED} images or more, which evaluations need")
    pixels, labels, verified = found
    counts = {which: 0 if content is None else len(content[0]) for which, content in images.items()}
    labelled = config.labels == "auto"
    features: Features = "classifier" if labelled else "unlabelled"
    classes = published.classes if labelled else None
    spec = DataSpec(config.name, pixels.shape[1:], classes, counts["train"], counts["test"], features)
    sha256 = pixels_sha256(pixels, folder)
    provenance = Provenance(config.name, source, str(folder), len(pixels), sha256, verified)
    return RawImages(pixels, labels if labelled else None, spec, provenance)


def _read_split(
    published: Published, config: DataConfig, folder: Path, split: Split, context: Context
) -> tuple[UInt8[np.ndarray, "n 3 h w"], Int64[np.ndarray, " n"], str] | None:
    """The images and labels of a split, and what was verified; None if the files of the held-out images are missing, or
    hold too few.

    Raises:
        InputError: a file is damaged, or the images have the published number but other content.
    """
    files = published.files[split]
    if split == "test" and not _holds(folder, files):
        return None
    parts, same = [], True
    for name, md5 in files.items():
        try:
            content = read_file(folder / name, MAX_BYTES)
            same &= hashlib.md5(content, usedforsecurity=False).hexdigest() == md5
            parts.append(published.parse(content))
        except BadFile as error:
            raise InputError(
                f"{folder / name} {error}; replace it, or delete it and use --data.source download"
            ) from error
    pixels, labels = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    if not 0 <= int(labels.min()) <= int(labels.max()) < len(published.classes):
        raise InputError(f"{folder} holds other classes than 0 to {len(published.classes) - 1}; replace it")
    if same:
        return pixels, labels, "shape, count and md5"
    count = published.counts[split]
    if len(pixels) == count:
        raise InputError(f"{folder} is not {config.name}: its md5 differs from the published one; replace it")
    if split == "test" and len(pixels) < MIN_COMPARED:
        return None
    context.announce(
        f"{folder} holds {len(pixels):,} images instead of the {count:,} of {config.name}: treated as a custom data set"
    )
    return pixels, labels, f"shape; {len(pixels):,} images, not the {count:,} published"


def _find(published: Published, config: DataConfig, context: Context) -> tuple[Path, str]:
    """The folder of the files, which are downloaded if they are missing and may be; and the source."""
    if config.source == "local":
        return _require(published, config), "local"
    if folder := _local(published, config):
        return folder, "local"
    where = Downloadable(
        published.torchvision_class,
        Path(published.folder),
        config.root / published.folder,
        next(iter(published.files["train"])),
        published.split_argument,
    )
    try:
        download(config, where, context.stop_requested)
    except DownloadError as error:
        raise InputError(
            f"data.name={config.name} could not be downloaded ({error}); pass --data.root DIR with a copy of it"
        ) from error
    return _require(published, config), "download"


def _require(published: Published, config: DataConfig) -> Path:
    folder = _local(published, config)
    if folder is None:
        first = config.root / published.folder / next(iter(published.files["train"]))
        raise InputError(
            f"data.root={config.root} holds no {config.name}: looked for {first}; pass --data.root DIR with "
            "torchvision's layout, or use --data.source download"
        )
    return folder


def _local(published: Published, config: DataConfig) -> Path | None:
    """The folder that has all files of training images: torchvision's, or the root."""
    folders = (config.root / published.folder, config.root)
    return next((folder for folder in folders if _holds(folder, published.files["train"])), None)


def _holds(folder: Path, names: Mapping[str, str]) -> bool:
    return all(plain_or_gzipped(folder / name) == folder / name for name in names)
