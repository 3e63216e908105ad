"""Settings that are derived from the data: pure functions of the configuration, the images' shape and their number."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple

from gan_dist.config.sections import Config

TOTAL_IMAGES = 10_000_000  # of a run
MAX_BATCH = 64


class Derived(NamedTuple):
    """A setting that was derived."""

    field: str
    """Dotted name."""
    value: float
    reason: str
    """The rule, with its numbers."""


class _Data(NamedTuple):
    channels: int
    side: int
    """Pixels of the longer side."""
    images: int
    """Number of training images."""


Rule = Callable[[Config, _Data], tuple[float, str]]
"""Returns the value and the reason. The fields of earlier rules have their values."""


def _batch_size(config: Config, data: _Data) -> tuple[int, str]:
    bound = min(MAX_BATCH, max(1, 4096 // data.side), data.images)
    return 2 ** int(math.log2(bound)), f"power of two up to 4096 / {data.side} pixels, {MAX_BATCH} and the images"


def _channels(config: Config, data: _Data) -> tuple[int, str]:
    return (32, "grey images") if data.channels == 1 else (64, "colour images")


def _hidden_dim(config: Config, data: _Data) -> tuple[int, str]:
    halvings = max(0, math.ceil(math.log2(data.side / 32)))
    return 256 * 2 ** ((halvings + 1) // 2), f"256 at 32 pixels, as the channels of the smallest maps; {data.side} here"


def _learning_rate(config: Config, data: _Data) -> tuple[float, str]:
    size, channels = config.train.batch_size, config.model.channels
    value = _rounded(2e-3 * 32 / channels * math.sqrt(size / MAX_BATCH))
    return value, f"0.002 x 32 / {channels} channels x sqrt(batch size {size} / {MAX_BATCH})"


def _gamma(config: Config, data: _Data) -> tuple[float, str]:
    size = config.train.batch_size
    value = min(_rounded(3 * data.channels * (data.side / 32) ** 2 * MAX_BATCH / size), 1e6)
    return value, f"3 x {data.channels} x (side {data.side} / 32)^2 x {MAX_BATCH} / batch size {size}"


def _half_life(config: Config, data: _Data) -> tuple[float, str]:
    batches, size = config.ema.batches, config.train.batch_size
    assert batches is not None
    return float(batches * size), f"{batches:g} batches of {size}"


def _epochs(config: Config, data: _Data) -> tuple[int, str]:
    return min(math.ceil(TOTAL_IMAGES / data.images), 1_000_000), f"{TOTAL_IMAGES:,} images, {data.images:,} an epoch"


# In the order of the derivation. A new rule is a line here, and the field's type in sections.py.
RULES: dict[str, Rule] = {
    "train.batch_size": _batch_size,
    "model.channels": _channels,
    "model.hidden_dim": _hidden_dim,
    "optimizer.learning_rate": _learning_rate,
    "penalty.r1": _gamma,
    "penalty.r2": _gamma,
    "ema.half_life": _half_life,
    "train.epochs": _epochs,
}
# None in a resolved configuration: there is no average.
OPTIONAL = ("ema.half_life",)


def fields_to_derive(config: Config) -> list[str]:
    """Names of the fields that are None until the data are known."""
    missing = [name for name in RULES if attrgetter(name)(config) is None]
    return [name for name in missing if name not in OPTIONAL or config.ema.batches is not None]


def derive(config: Config, shape: tuple[int, int, int], count: int) -> tuple[Config, list[Derived]]:
    """Derive the fields that are None; fields with a value keep it. A function of its arguments only.

    docs/recipes.md describes the rules and their sources.

    Args:
        config: valid.
        shape: (C, H, W) of an image.
        count: number of training images.

    Returns:
        The resolved configuration, and what was derived, in the order of the derivation.
    """
    data, found = _Data(shape[0], max(shape[1:]), count), []
    for name in fields_to_derive(config):
        value, reason = RULES[name](config, data)
        config = _replaced(config, name, value)
        found.append(Derived(name, value, reason))
    return config, found


def describe_derived(derived: list[Derived]) -> dict[str, str]:
    """Rows of a table: field -> value and reason."""
    return {item.field: f"{item.value:,.10g} ({item.reason})" for item in derived}


def _replaced(config: Config, name: str, value: Any) -> Config:
    section, _, field = name.partition(".")
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **{field: value})})


def _rounded(value: float) -> float:
    """Two significant digits."""
    return float(f"{value:.2g}")
