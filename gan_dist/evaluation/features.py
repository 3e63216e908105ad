"""The inputs of the figures: a set of images with the classifier's features, and the real images of a data set."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from gan_dist.data.pixels import normalize
from gan_dist.evaluation.classifier import Classifier
from gan_dist.evaluation.estimates import Figures

MAX_REFERENCE = 60_000  # training images whose features are computed, evenly spaced
CHUNK = 500  # images per forward pass: the fastest on a CPU


@dataclass(frozen=True)
class ImageFeatures:
    """A set of images with the classifier's features and logits, all on one device."""

    features: Float[Tensor, "n 128"]
    logits: Float[Tensor, "n classes"]
    """One class if the classifier was trained without labels: then no figure of classes is computed."""
    pixels: UInt8[Tensor, "n c h w"]
    stack: int = 1
    """Number of consecutive images that were the channels of one image."""
    labels: Int64[Tensor, " n"] | None = None
    """The class that a conditional generator was asked for, or that of a real image; None if there are none."""


@dataclass(frozen=True)
class Reference:
    """The real images of a data set with the features of one classifier, all on one device."""

    classifier_id: str
    features: Float[Tensor, "n 128"]
    """Of the training images, at most MAX_REFERENCE of them."""
    pixels: UInt8[Tensor, "k c h w"]
    """Of all training images. They stay where they are, on the CPU: there may be many."""
    held_out_features: Float[Tensor, "m 128"] | None = None
    """None if the data set has no held-out images, as the next two fields."""
    held_out_distances: Float[Tensor, " classes"] | None = None
    """Median distance of held-out images to the nearest training image, per class."""
    held_out_pixels: UInt8[Tensor, "m c h w"] | None = None
    labels: Int64[Tensor, " n"] | None = None
    """The classes of the rows of `features`; None if the images have none."""
    held_out_labels: Int64[Tensor, " m"] | None = None
    """The classes of the held-out images."""
    floor: Figures = field(default_factory=dict)
    """The figures of real images: the held-out images against the training images, else one half of the training
    images against the other. A generator can't be expected to be better."""

    def to(self, device: torch.device) -> Reference:
        """A copy with the features on another device."""
        moved: dict[str, Any] = {
            name: value.to(device)
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and name not in ("pixels", "held_out_pixels", "held_out_labels")
        }
        return replace(self, **moved)


@contextlib.contextmanager
def single_thread() -> Iterator[None]:
    """Compute on one CPU thread inside the block. The number of threads changes the order of sums."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def extract_features(
    network: Classifier,
    pixels: UInt8[Tensor, "n c h w"],
    labelled: bool = True,
    labels: Int64[Tensor, " n"] | None = None,
) -> ImageFeatures:
    """Apply a classifier to images, on its device.

    Args:
        network: the classifier.
        pixels: if they have several times as many channels as it takes, each group of channels is a separate image.
        labelled: whether it was trained to tell classes apart.
        labels: as in `ImageFeatures`.
    """
    channels, device = network.shape[0], network.head.weight.device
    stack = pixels.shape[1] // channels
    pixels = pixels.view(-1, channels, *pixels.shape[2:])
    with torch.no_grad():
        features = torch.cat([network.features(normalize(chunk.to(device))) for chunk in pixels.split(CHUNK)])
        logits = network.head(features) if labelled else features.new_zeros(len(features), 1)
        return ImageFeatures(features, logits, pixels, stack, None if labels is None else labels.to(device))
