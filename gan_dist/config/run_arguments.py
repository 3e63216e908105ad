"""The command lines that configure a run: [PRESET] and flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

from gan_dist.config.arguments import read_arguments
from gan_dist.config.errors import InputError
from gan_dist.config.presets import PRESETS
from gan_dist.config.rules import validate
from gan_dist.config.sections import Config
from gan_dist.config.suggestions import nearest
from gan_dist.config.text import shortened

C = TypeVar("C", bound=Config)

# The flags in --help; --help-all shows all.
FIRST_FLAGS = (
    *("data.name", "data.root", "data.source", "data.size"),
    *("train.epochs", "train.steps", "train.batch_size", "train.seed", "train.loss", "train.mixed_precision"),
    *("train.exact_shards", "checkpoint.every_steps", "wandb.mode", "run.dir", "run.resume"),
)


def read_run_arguments(cls: type[C], arguments: Sequence[str], prog: str, description: str) -> C:
    """Parse [PRESET] and flags into a valid configuration.

    Args:
        cls: Config, or a subclass with further fields, which are flags of their own.
        arguments: the words after the command.
        prog: the command, for the help text.
        description: of the command, for the help text.

    Raises:
        InputError: an unknown preset or flag, or an invalid value.
        SystemExit: after --help, --help-all or --version.
    """
    preset, rest = "seed", list(arguments)
    if rest and not rest[0].startswith("-") and "=" not in rest[0]:
        preset, *rest = rest
    if preset not in PRESETS:
        raise InputError(f"there is no preset {shortened(preset)}; {nearest(preset, PRESETS)}")
    sections = {field.name: getattr(PRESETS[preset](), field.name) for field in dataclasses.fields(Config)}
    own = [field.name for field in dataclasses.fields(cls) if field.name not in sections]
    config = read_arguments(
        cls,
        rest,
        prog=prog,
        description=description,
        default=cls(**sections),
        presets={name: (make.__doc__ or "").partition("\n")[0] for name, make in PRESETS.items()},
        short=(*own, *FIRST_FLAGS),
    )
    validate(config)
    return config
