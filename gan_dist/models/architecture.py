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


class Architecture(NamedTuple):
    """How a pair of networks is built, and what it requires."""

    generator: Builder
    discriminator: Builder
    size_fields: tuple[str, ...]
    """Fields of ModelConfig that determine the sizes of the networks."""
    side_multiple: int = 1
    """Both sides of an image must be multiples of it."""
    conditional: bool = False
    """Whether the networks take labels, too: generator(latents, labels) and discriminator(images, labels), with labels
    (n,) of int64."""
