"""What the figures are made of: images as the classifier sees them, and the real ones to compare them with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from gan_dist.data.pixels import normalize
from gan_dist.evaluation.classifier import Classifier
from gan_dist.seeding import generator_for

CHUNK = 500  # images in one forward pass: the fastest on a CPU
RESAMPLES = 30  # sets drawn for the interval of a figure


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval: another set of as many images would give one within it about 95 times in 100."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Observed:
    """A set of images as the figures need it, all on one device."""

    features: Float[Tensor, "n 128"]
    logits: Float[Tensor, "n classes"]
    pixels: UInt8[Tensor, "n c h w"]
    stack: int = 1
    """So many of them in a row were the channels of one image."""


@dataclass(frozen=True)
class Reference:
    """The real images of a data set, seen by one classifier, all on one device."""

    classifier: str
    """Its id."""
    features: Float[Tensor, "n 128"]
    """Of all training images."""
    pixels: UInt8[Tensor, "n c h w"]
    held_out_features: Float[Tensor, "m 128"] | None = None
    """None where the data set has no held-out images; so the next two."""
    held_out_nearest: Float[Tensor, " classes"] | None = None
    """How far held-out images are from the nearest training image, the median of each class."""
    held_out: UInt8[Tensor, "m c h w"] | None = None
    """Their pixels."""
    floor: dict[str, Estimate] = field(default_factory=dict)
    """The figures of real images: of the held-out ones against the training ones, else of one half of the training
    images against the other. As near as a generator can be expected to come."""

    def to(self, device: torch.device) -> Reference:
        """The same on another device."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one CPU thread for the time of the block: each number of threads adds in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def observe(network: Classifier, pixels: UInt8[Tensor, "n c h w"]) -> Observed:
    """Show images to a classifier, on the device where it is. It sees each channel as an image of its own."""
    stack = pixels.shape[1]
    pixels = pixels.to(network.head.weight.device).flatten(0, 1).unsqueeze(1)
    with torch.no_grad():
        features = torch.cat([network.features(normalize(chunk)) for chunk in pixels.split(CHUNK)])
        return Observed(features, network.head(features), pixels, stack)


def choose(count: int, most: int, purpose: str, device: torch.device | None = None) -> Int64[Tensor, " chosen"]:
    """At most `most` of `count` rows, drawn without replacement, always the same: data sets may be sorted."""
    return torch.randperm(count, generator=generator_for(0, f"evaluation/{purpose}"))[:most].to(device)


def resample(count: int, device: torch.device) -> Int64[Tensor, "resamples count"]:
    """Rows of the bootstrap's sets: each as large as the set that they are drawn from, with replacement."""
    return torch.randint(count, (RESAMPLES, count), generator=generator_for(0, "evaluation/bootstrap")).to(device)


def deviation(resampled: Sequence[float]) -> float:
    """The standard deviation of a figure, from what it is for resampled sets (Efron & Tibshirani 1993, chapter 6).

    Not their quantiles: 30 sets are too few for these, and too many equal images in each raise a distance.
    """
    return torch.tensor(resampled, dtype=torch.float64).std().item()


def interval(value: float, deviation: float, least: float = 0.0, most: float = float("inf")) -> Estimate:
    """The interval of a figure, ±1.96 standard deviations, cut where its range [least, most] ends."""
    return Estimate(value, max(value - 1.96 * deviation, least), min(value + 1.96 * deviation, most))


def share(members: Bool[Tensor, " n"]) -> Estimate:
    """The share of True, with the interval that the bootstrap of a mean converges to."""
    value = members.double().mean().item()
    return interval(value, (value * (1 - value) / len(members)) ** 0.5, most=1.0)
