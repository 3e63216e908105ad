"""The script that `accelerate launch` and torchrun start: parse, build, train."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:
    # As a script, Python puts this folder first on the path, where config/ and data/ would be top-level packages. The
    # package's parent belongs there: this checkout runs, whatever else is installed.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from gan_dist.distributed.descriptors import occupy_closed_descriptors
from gan_dist.distributed.output_streams import nonblocking_output
from gan_dist.distributed.signals import exit_on_signals

_process = contextlib.ExitStack()
if __name__ == "__main__":
    occupy_closed_descriptors()  # before any file is opened, which would get the descriptor of a closed stdout
    _process.enter_context(exit_on_signals())  # before the imports below, which take a fraction of a second

from gan_dist.config import Config  # noqa: E402
from gan_dist.config.run_arguments import read_run_arguments  # noqa: E402
from gan_dist.distributed.exit_codes import exit_code  # noqa: E402
from gan_dist.distributed.openmp import limit_spinning  # noqa: E402
from gan_dist.trainer.early import check_early  # noqa: E402


def parse(arguments: Sequence[str], prog: str = "gan_dist/train.py") -> Config:
    """Parse [PRESET] and flags into a valid configuration. Imports no torch, so --help and typos are answered at once.

    Raises:
        InputError: an unknown preset or flag, or an invalid value.
        SystemExit: after --help, --help-all or --version.
    """
    return read_run_arguments(
        Config,
        arguments,
        prog,
        "Train a generator and a discriminator. PRESET selects the default values (seed if omitted); each flag "
        "overrides one of them.",
    )


@nonblocking_output()
def main(arguments: Sequence[str] | None = None, prog: str = "gan_dist/train.py") -> int:
    """Train a run.

    Returns:
        The exit code: 0 finished, 75 stopped by a signal (Ctrl-C included) and resumable, 2 bad input, 1 failed. Other
        errors are raised. A signal before the processes have met ends this one immediately, with 75.
    """
    limit_spinning()

    def work() -> int:
        config = parse(sys.argv[1:] if arguments is None else arguments, prog)
        check_early(config)
        _announce_import()
        from gan_dist.trainer.loop import run_to_end

        return run_to_end(config, make_report)

    with exit_on_signals():
        return exit_code("gan_dist", work)


def make_report(run: Path) -> str:
    """The report of a run as HTML, for its trackers.

    It is made of a run folder, by `results`, of which the trainer knows nothing: an entry point brings them together.
    """
    from gan_dist.results.recorded import read_runs
    from gan_dist.results.report.page import make_page

    return make_page(read_runs([run]))


def _announce_import() -> None:
    """Announce on rank 0 what the next 3 to 40 seconds are spent on, unless torch is imported already."""
    if "torch" not in sys.modules and os.environ.get("RANK", "0") == "0":
        print("loading PyTorch ...", flush=True)


if __name__ == "__main__":
    with _process:
        code = main()
    sys.exit(code)
