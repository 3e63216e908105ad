"""What an architecture declares."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from gan_dist.config import ModelConfig

ImageShape = tuple[int, int, int]
"""(C, H, W)."""
Builder = Callable[[ModelConfig, ImageShape, int], nn.Module]
"""(configuration, shape of an image, number of classes) -> network. Without classes, it is 0, and the network is called
without labels."""


class Sides(NamedTuple):
    """The sides of images that an architecture supports."""

    description: str
    """In a message: "sides that are …"."""
    supported: Callable[[int], bool]
    """Whether a side, in pixels, is supported."""


ANY_SIDES = Sides("any", lambda side: True)


def multiples_of(pixels: int) -> Sides:
    """Sides that are multiples of a number of pixels."""
    return Sides(f"multiples of {pixels}", lambda side: side % pixels == 0)


class Architecture(NamedTuple):
    """How a pair of networks is built, and what it requires."""

    generator: Builder
    discriminator: Builder
    size_fields: tuple[str, ...]
    """Fields of ModelConfig that determine the sizes of the networks."""
    sides: Sides = ANY_SIDES
    """Of images, both of them."""
    conditional: bool = False
    """Whether the networks take labels, too: generator(latents, labels) and discriminator(images, labels), with labels
    (n,) of int64."""
    own_initialization: bool = False
    """Whether the networks have initial weights of their own, so that `ModelConfig.initialization` has no effect."""
