"""What a step gets: this rank's share of a global batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
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


def pinned_for(device: torch.device, tensor: Tensor) -> Tensor:
    """The tensor, in memory from which a copy to the device does not make the host wait: CUDA wants it pinned."""
    return tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; the host does not wait for the copy."""
    return pinned_for(device, tensor).to(device, non_blocking=True)
