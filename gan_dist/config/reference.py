"""Writes docs/configuration.md: python -m gan_dist.config.reference > docs/configuration.md"""

from __future__ import annotations

from gan_dist.config.options import Option, docstrings, options_of
from gan_dist.config.presets import PRESETS
from gan_dist.config.resume import CHANGEABLE_ON_RESUME
from gan_dist.config.sections import Config
from gan_dist.config.stored import to_flat

INTRODUCTION = """# Configuration

Every setting of a run has a flag and is stored in RUN/config.json. `accelerate launch gan_dist/train.py [PRESET]
[FLAGS]` starts from a preset, by default `seed`; each flag overrides one value. Settings marked with * may change when
a run is resumed; all others must stay the same.

This page is written by `python -m gan_dist.config.reference > docs/configuration.md`.
"""


def reference() -> str:
    """The page: the presets and where they differ from `seed`, then a table of flags for each section."""
    explained, default = docstrings(Config), to_flat(Config())
    options = {option.name: option for option in options_of(Config)}
    lines = [INTRODUCTION, "## Presets", "", "| Preset | | Differences from `seed` |", "|---|---|---|"]
    for name, make in PRESETS.items():
        changed = {key: value for key, value in to_flat(make()).items() if value != default[key]}
        values = " ".join(f"`{_words(options[key], value)}`" for key, value in changed.items())
        lines.append(f"| `{name}` | {(make.__doc__ or '').partition(chr(10))[0]} | {values} |")
    section = None
    for option in options.values():
        here = option.name.rpartition(".")[0]
        if here != section:
            section = here
            title = f"`{here}`: {explained[here]}" if here else "Further flags"
            lines += ["", f"## {title}", "", "| Flag | Default | |", "|---|---|---|"]
        mark = " *" if option.name.startswith(CHANGEABLE_ON_RESUME) else ""
        choices = f"One of {', '.join(option.accepted)}. " if option.choices else ""
        lines.append(f"| `{option.flag}`{mark} | {option.default} | {choices}{explained[option.name]} |")
    return "\n".join(lines) + "\n"


def _words(option: Option, value: object) -> str:
    """The words of a command line that set an option."""
    if isinstance(value, bool):
        return option.flag if value else option.off_flag
    return f"{option.flag} {value}"


if __name__ == "__main__":
    print(reference(), end="")
