"""The configuration of a run beside that of a preset, and those of several runs beside each other."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gan_dist.config import PRESETS, Config, to_flat
from gan_dist.config.nearest_preset import PLACES, changed_settings, nearest_preset_name
from gan_dist.config.options import docstrings


@dataclass(frozen=True)
class Difference:
    """A setting with other values."""

    name: str
    """Dotted name."""
    values: tuple[str, ...]
    """Of the preset and of the run, or of each run."""
    meaning: str
    """Docstring of the field."""


@dataclass(frozen=True)
class NearestPreset:
    """The preset from which a run differs least."""

    name: str
    differences: list[Difference]
    """Values of the preset, and of the run."""


def nearest_preset(config: Config) -> NearestPreset:
    """The preset with the fewest settings that differ from those of a run; the first one of several."""
    name = nearest_preset_name(config)
    flat = [to_flat(PRESETS[name]()), to_flat(config)]
    return NearestPreset(name, [_difference(field, flat) for field in changed_settings(PRESETS[name](), config)])


def config_differences(configs: Sequence[Config]) -> list[Difference]:
    """The settings in which runs differ, without those that say where they were made."""
    flat = [to_flat(config) for config in configs]
    differ = [name for name, first in flat[0].items() if any(values.get(name) != first for values in flat)]
    return [_difference(name, flat) for name in differ if not name.startswith(PLACES)]


def all_settings(config: Config) -> list[Difference]:
    """All settings of a run."""
    explained = _meanings()
    return [Difference(name, (show(value),), explained.get(name, "")) for name, value in to_flat(config).items()]


def show(value: Any) -> str:
    """A value as the command line accepts it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


@functools.cache
def _meanings() -> dict[str, str]:
    """Docstring of each field. Cached, since it parses the source."""
    return docstrings(Config)


def _difference(name: str, flat: Sequence[Mapping[str, Any]]) -> Difference:
    """The values of a field in flat configurations."""
    return Difference(name, tuple(show(values.get(name)) for values in flat), _meanings().get(name, ""))
