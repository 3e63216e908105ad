"""Chooses where images and labels come from: local files, torchvision's download, or the sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gan_dist.config import DataConfig, InputError
from gan_dist.data.images import MIN_COMPARED, ImageSet, LabelledImages, NoHeldOut
from gan_dist.data.readers.download import DownloadError, download
from gan_dist.data.readers.idx import read_images, read_labels
from gan_dist.data.readers.location import HELD_OUT, PUBLISHED, find_local, plain_or_gzipped, require_local
from gan_dist.data.readers.sample import load_sample

Split = Literal["train", "test"]


def load_images(
    config: DataConfig, announce: Callable[[str], None], stop_requested: Callable[[], bool] = lambda: False
) -> ImageSet:
    """Load the training images from the first source that has them: local, download, sample.

    Args:
        config: the data set and its sources. If the source is not "auto", only this one is tried. Local files are not
            downloaded again.
        announce: called with one line if a source is used that is not the first choice.
        stop_requested: polled several times per second during a download.

    Raises:
        InputError: no source has the data, or a file is damaged.
        Stopped: `stop_requested` returned True. Nothing of the download was kept.
    """
    found = _find(config, stop_requested)
    if found.file is not None:
        images = read_images(config.name, PUBLISHED[config.name], found.file, found.source, announce)
        return dataclasses.replace(images, stack=config.stack)
    images = dataclasses.replace(load_sample(found.fallback), stack=config.stack)
    if found.fallback is not None:
        announce(
            f"{found.fallback}: using the sample of {len(images.images):,} real digits instead. For the full data set, "
            "pass --data.root DIR with a copy of MNIST, or rerun with --data.source download when there is a network"
        )
    return images


def load_labelled(config: DataConfig, split: Split, announce: Callable[[str], None]) -> LabelledImages:
    """Load training or held-out images with their labels, from the folder of the training images.

    Args:
        config: as in `load_images`.
        split: "train" or "test"; the sample has no "test".
        announce: as in `load_images`.

    Raises:
        NoHeldOut: the files of the split "test" do not exist, or have fewer than MIN_COMPARED images.
        InputError: no source has the data, the training images have no labels, or a file is damaged.
    """
    found = _find(config)
    if found.file is None:
        if split == "test":
            raise NoHeldOut("the sample digits have no held-out images; pass --data.root with a copy of MNIST")
        return load_sample(found.fallback)
    published = (PUBLISHED if split == "train" else HELD_OUT)[config.name]
    refusal = InputError if split == "train" else NoHeldOut
    images_file = _in_same_folder(found.file, published.file, refusal)
    labels_file = _in_same_folder(found.file, published.labels, refusal)
    images = read_images(config.name, published, images_file, found.source, announce)
    labels = read_labels(labels_file, published, images)
    if split == "test" and len(labels) < MIN_COMPARED:
        raise NoHeldOut(f"{images_file} holds {len(labels)} images, too few to compare; use {MIN_COMPARED} or more")
    return LabelledImages(images.images, images.provenance, labels)


def pin_source(config: DataConfig, source: str) -> DataConfig:
    """The configuration that loads the same images again, without a download: downloaded files are local by now.

    Args:
        config: as passed to `load_images`.
        source: of the returned provenance.
    """
    return dataclasses.replace(config, source="sample" if source == "sample" else "local")


@dataclass(frozen=True)
class _Found:
    """The source that has the training images."""

    source: str
    file: Path | None
    """None for the sample."""
    fallback: str | None = None
    """Why the sample is used instead of another source."""


def _find(config: DataConfig, stop_requested: Callable[[], bool] = lambda: False) -> _Found:
    """Find the training images, or download them."""
    if config.source == "sample":
        return _Found("sample", None)
    if config.source == "local":
        return _Found("local", require_local(config))
    file = find_local(config)
    if file is not None:
        return _Found("local", file)
    try:
        return _Found("download", download(config, stop_requested))
    except DownloadError as error:
        if config.source == "download" or config.name != "mnist":
            sample = ", or use --data.source sample" if config.name == "mnist" else ""
            raise InputError(
                f"data.name={config.name} could not be downloaded ({error}); "
                f"pass --data.root DIR with a copy of it{sample}"
            ) from error
        return _Found("sample", None, f"data.root={config.root} holds no mnist, and the download failed ({error})")


def _in_same_folder(images: Path, name: str, refusal: type[InputError]) -> Path:
    """The file `name`, plain or gzipped, in the folder of the training images."""
    file = plain_or_gzipped(images.parent / name)
    if file is None:
        raise refusal(f"{images.parent} holds no {name}[.gz], which evaluations need; put it beside {images.name}")
    return file
