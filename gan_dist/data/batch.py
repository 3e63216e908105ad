"""What a step gets: this rank's share of a global batch."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float, Int64
from torch import Tensor

Labels = Int64[Tensor, " n"]
"""The class of each image, from 0."""


class Batch(NamedTuple):
    """Images with their labels, on the device of the networks."""

    images: Float[Tensor, "n c h w"]
    """In [-1, 1]."""
    labels: Labels | None
    """The class of each image, from 0; None if the data set has no classes."""
    augmentation: Float[Tensor, "n transformations 4"] | None = None
    """Random numbers of the augmentation of each image; None: the discriminator sees the images as they are."""
