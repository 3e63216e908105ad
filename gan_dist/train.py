"""The door that `accelerate launch` opens: parse, build, train. Also `python gan_dist/train.py`, and torchrun."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:
    # Run as a script, Python put this folder first on the path, where config.py and data/ look like packages of
    # their own. The package's parent belongs there: this checkout is what runs, whatever else is installed.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from gan_dist.distributed.output_streams import nonblocking_output, occupy_closed_descriptors
from gan_dist.distributed.signals import starting

_process = contextlib.ExitStack()
if __name__ == "__main__":
    occupy_closed_descriptors()  # before anything is opened: it would get the number of a closed stdout
    _process.enter_context(starting())  # before the imports below: they take part of a second

from gan_dist.config import PRESETS, Config, InputError, shortened, validate  # noqa: E402
from gan_dist.config.arguments import read_arguments  # noqa: E402
from gan_dist.config.suggestions import nearest  # noqa: E402
from gan_dist.distributed.exit_codes import exit_code  # noqa: E402
from gan_dist.distributed.openmp import limit_spinning  # noqa: E402
from gan_dist.trainer.early import check_early  # noqa: E402

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


@nonblocking_output()
def main(arguments: Sequence[str] | None = None, prog: str = "gan_dist/train.py") -> int:
    """Train as the command line says.

    Returns:
        The exit code: 0 finished, 75 stopped by a signal (Ctrl-C included) and resumable, 2 bad input, 1 failed.
        Anything else raises. A signal that comes before the processes have met ends this one at once, with 75.
    """
    limit_spinning()

    def work() -> int:
        config = parse(sys.argv[1:] if arguments is None else arguments, prog)
        check_early(config)
        _announce_import()
        from gan_dist.trainer.loop import run_to_end

        return run_to_end(config)

    with starting():
        return exit_code("gan_dist", work)


def _announce_import() -> None:
    """Say on rank 0 what the next 3 to 40 seconds are spent on, unless they were spent already in this process."""
    if "torch" not in sys.modules and os.environ.get("RANK", "0") == "0":
        print("loading PyTorch ...", flush=True)


if __name__ == "__main__":
    with _process:
        code = main()
    sys.exit(code)
