"""What an architecture declares."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from gan_dist.config import ModelConfig

ImageShape = tuple[int, int, int]
"""(C, H, W)."""
Builder = Callable[[ModelConfig, ImageShape], nn.Module]


class Architecture(NamedTuple):
    """How a pair of networks is built, and what it requires."""

    generator: Builder
    discriminator: Builder
    size_fields: tuple[str, ...]
    """Fields of ModelConfig that determine the sizes of the networks."""
    side_multiple: int = 1
    """Both sides of an image must be multiples of it."""
