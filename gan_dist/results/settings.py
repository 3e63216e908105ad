"""The configuration of a run beside that of a preset, and those of several runs beside each other."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gan_dist.config import PRESETS, Config, to_flat
from gan_dist.config.derived import RULES
from gan_dist.config.options import docstrings

# Where a run was made, not what was trained.
PLACES = ("run.dir", "data.root", "data.source", "wandb.mode", "wandb.project", "wandb.name", "run.resume")

# Settings that are None in a preset and are resolved when a run begins -> the usual result, which is no difference.
RESOLVED = {"train.mixed_precision": "no"}


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
    """The preset with the fewest settings that differ from those of a run; the first one of several.

    Runs do not record from which preset they were started. Settings that a preset derives from the data do not count.
    """
    candidates = [(name, _compare([make(), config], derived=True)) for name, make in PRESETS.items()]
    name, differences = min(candidates, key=lambda candidate: len(candidate[1]))
    return NearestPreset(name, differences)


def config_differences(configs: Sequence[Config]) -> list[Difference]:
    """The settings in which runs differ, without those that say where they were made."""
    return _compare(configs)


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


def _compare(configs: Sequence[Config], derived: bool = False) -> list[Difference]:
    """The differences between configurations.

    Args:
        derived: None in the first configuration means that the value is derived from the data.
    """
    explained, flat = _meanings(), [to_flat(config) for config in configs]
    found = []
    for name, first in flat[0].items():
        values = [values.get(name) for values in flat]
        if name in PLACES or all(value == first for value in values):
            continue
        if derived and first is None and (name in RULES or RESOLVED.get(name, ...) == values[-1]):
            continue
        found.append(Difference(name, tuple(map(show, values)), explained.get(name, "")))
    return found
