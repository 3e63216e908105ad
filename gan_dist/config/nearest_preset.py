"""From which preset a run was started: runs do not record it."""

from __future__ import annotations

from gan_dist.config.derived import RULES
from gan_dist.config.presets import PRESETS
from gan_dist.config.sections import Config
from gan_dist.config.stored import to_flat

# Fields, or whole sections (with a dot), that say where a run was made, not what was trained.
PLACES = ("run.dir", "data.root", "data.source", "tracking.", "wandb.", "run.resume")

# Settings that are None in a preset and are resolved when a run begins -> the usual result, which is no difference.
RESOLVED = {"train.mixed_precision": "no"}


def changed_settings(preset: Config, config: Config) -> list[str]:
    """The dotted names of the settings in which a run differs from a preset.

    Settings that the preset derives from the data do not count, nor those that say where the run was made.
    """
    ours = to_flat(config)
    return [
        name
        for name, value in to_flat(preset).items()
        if ours[name] != value
        and not name.startswith(PLACES)
        and not (value is None and (name in RULES or RESOLVED.get(name, ...) == ours[name]))
    ]


def nearest_preset_name(config: Config) -> str:
    """The preset from which a run differs in the fewest settings; the first one of several."""
    return min(PRESETS, key=lambda name: len(changed_settings(PRESETS[name](), config)))
