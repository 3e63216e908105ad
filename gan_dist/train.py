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

from gan_dist.arguments import exit_code, flag, read_arguments
from gan_dist.config import PRESETS, STOPPED_EXIT_CODE, Config, InputError, to_flat, validate
from gan_dist.output_streams import nonblocking_output
from gan_dist.signals import END_OF_JOB, heard_by


def parse(arguments: Sequence[str], prog: str = "gan_dist/train.py") -> Config:
    """[PRESET] and flags to a valid configuration. Imports no torch: --help and a typing error answer at once.

    Raises:
        InputError: an unknown preset or flag, or a value that can't be used.
        SystemExit: --help was asked for and printed.
    """
    preset, rest = "seed", list(arguments)
    if rest and not rest[0].startswith("-"):
        preset, *rest = rest
    if preset not in PRESETS:
        raise InputError(f"there is no preset {preset!r}; choose from {', '.join(PRESETS)}")
    config = read_arguments(
        Config,
        rest,
        prog=f"{prog} [PRESET]",
        description=(
            "Train a generator and a discriminator. PRESET names the values to start from "
            f"({', '.join(PRESETS)}; without one: seed); each flag overrides one of them."
        ),
        flags=[flag(name) for name in to_flat(Config())],
        default=PRESETS[preset](),
    )
    validate(config)
    return config


@nonblocking_output()
def main(arguments: Sequence[str] | None = None, prog: str = "gan_dist/train.py") -> int:
    """Train as the command line says.

    Returns:
        The exit code: 0 finished, 75 stopped by a signal and resumable, 2 bad input, 1 failed. Anything else raises.
    """

    def work() -> int:
        config = parse(sys.argv[1:] if arguments is None else arguments, prog)
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
