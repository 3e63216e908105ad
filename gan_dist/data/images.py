"""What a data set is: images, optional labels, and where they come from."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from gan_dist.config import InputError

MIN_COMPARED = 20  # images; comparisons need at least this many: the kernel distance uses 10 blocks of 2


class NoHeldOut(InputError):
    """There are no held-out images, or too few. Callers may skip what needs them."""


@dataclass(frozen=True)
class Provenance:
    """The entry of environment.json about the data."""

    name: str
    source: str
    """local, download or sample."""
    file: str
    count: int
    sha256: str
    """Of the pixels, image by image."""
    verified: str
    fallback: str | None = None
    """Why a source was used that was not the first choice; None if it was."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class ImageSet:
    """Images on the CPU."""

    images: UInt8[Tensor, "n c h w"]
    """From 0, black, to 255, white."""
    provenance: Provenance
    stack: int = dataclasses.field(default=1, kw_only=True)
    """Number of images that are combined into one as its channels when they are fetched."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image as it is fetched."""
        _, channels, height, width = self.images.shape
        return self.stack * channels, height, width


@dataclass(frozen=True)
class LabelledImages(ImageSet):
    """Images with their classes."""

    labels: Int64[Tensor, " n"]
    """The class of each image, from 0."""


def make_image_set(pixels: UInt8[np.ndarray, "n h w"], provenance: Provenance) -> ImageSet:
    """Make a data set of grey images.

    Args:
        pixels: the images.
        provenance: complete except for the hash.

    Raises:
        InputError: all pixels are equal.
    """
    if pixels.min() == pixels.max():
        raise InputError(f"{provenance.file} holds no images: all pixels are equal; replace it")
    sha256 = hashlib.sha256(pixels.data).hexdigest()
    images = torch.from_numpy(pixels).unsqueeze(1)  # (n, 1, h, w)
    return ImageSet(images, dataclasses.replace(provenance, sha256=sha256))
