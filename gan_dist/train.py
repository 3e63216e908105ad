"""The door that `accelerate launch` opens: parse, build, train. Also `python gan_dist/train.py`, and torchrun."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if not __package__:
    # Run as a script, Python put this folder first on the path, where config.py and data/ look like packages of
    # their own. The package's parent belongs there: this checkout is what runs, whatever else is installed.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from collections.abc import Sequence

from gan_dist.arguments import exit_code, read_arguments
from gan_dist.config import PRESETS, STOPPED_EXIT_CODE, Config, InputError, shortened, validate
from gan_dist.run.early import check_early
from gan_dist.signals import END_OF_JOB, heard_by
from gan_dist.suggestions import nearest

# What --help shows; --help-all shows all.
FIRST_FLAGS = (
    *("data.name", "data.root", "data.source"),
    *("train.epochs", "train.steps", "train.batch_size", "train.seed", "train.loss", "train.mixed_precision"),
    *("train.exact_shards", "checkpoint.every_steps", "wandb.mode", "run.dir", "run.resume"),
)


def parse(arguments: Sequence[str], prog: str = "gan_dist/train.py") -> Config:
    """[PRESET] and flags to a valid configuration. Imports no torch: --help and a typing error answer at once.

    Raises:
        InputError: an unknown preset or flag, or a value that can't be used.
        SystemExit: --help, --help-all or --version was asked for and printed.
    """
    preset, rest = "seed", list(arguments)
    if rest and not rest[0].startswith("-") and "=" not in rest[0]:
        preset, *rest = rest
    if preset not in PRESETS:
        raise InputError(f"there is no preset {shortened(preset)}; {nearest(preset, PRESETS)}")
    config = read_arguments(
        Config,
        rest,
        prog=prog,
        description=(
            "Train a generator and a discriminator. PRESET names the values to start from, without one those of seed; "
            "each flag overrides one of them."
        ),
        default=PRESETS[preset](),
        presets={name: (make.__doc__ or "").partition("\n")[0] for name, make in PRESETS.items()},
        short=FIRST_FLAGS,
    )
    validate(config)
    return config


def main(arguments: Sequence[str] | None = None, prog: str = "gan_dist/train.py") -> int:
    """Train as the command line says.

    Returns:
        The exit code: 0 finished, 75 stopped by a signal and resumable, 2 bad input, 1 failed. Anything else raises.
    """

    def work() -> int:
        config = parse(sys.argv[1:] if arguments is None else arguments, prog)
        check_early(config)
        from gan_dist.training.engine import run_to_end

        return run_to_end(config)

    try:
        # The seconds until a run listens itself are spent on imports: who is stopped there has nothing to save.
        with heard_by(lambda *_: os._exit(STOPPED_EXIT_CODE), *END_OF_JOB):
            return exit_code("gan_dist", work)
    except KeyboardInterrupt:  # before there was anything to save
        return 130


if __name__ == "__main__":
    sys.exit(main())
