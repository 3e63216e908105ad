"""The `gan-dist` command: train without a launcher, check a machine, and use a run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from gan_dist import train
from gan_dist.config import Config, InputError, package_version, shortened
from gan_dist.config.arguments import VERSION, read_arguments
from gan_dist.config.helptext import show
from gan_dist.config.mistakes import HELP, HELP_ALL
from gan_dist.config.run_arguments import read_run_arguments
from gan_dist.config.suggestions import nearest
from gan_dist.data.readers import reader_for
from gan_dist.distributed.exit_codes import exit_code
from gan_dist.distributed.openmp import limit_spinning
from gan_dist.distributed.output_streams import nonblocking_output
from gan_dist.results.arguments import PROCESSES, check_processes
from gan_dist.results.commands import data, diff, doctor, evaluate
from gan_dist.results.export.command import export
from gan_dist.results.report_commands import compare, report, watch
from gan_dist.results.sample_command import sample
from gan_dist.results.walk_command import walk


@dataclass(frozen=True)
class CheckArguments:
    processes: Annotated[int, PROCESSES] | None = None
    """Number of processes to start on this machine; not under a launcher. None: one per GPU, or two without a GPU."""
    folder: Path = Path("runs")
    """Where runs will be stored; its disk is checked too."""


def check(arguments: Sequence[str]) -> int:
    """Check this machine, or the processes of the launcher that started this one; return 1 if a check fails.

    With a preset or flags of a training: forecast that run; return 1 if it does not fit.
    """
    if describes_a_run(arguments):
        return _forecast(arguments)
    parsed = read_arguments(
        CheckArguments,
        arguments,
        prog="gan-dist check",
        description=(
            "Check in under a minute that processes, network and disk support a run that stops and resumes. With "
            "PRESET and flags of a training: forecast its memory, speed, duration and disk."
        ),
    )
    check_processes(parsed.processes)
    if {"WORLD_SIZE", "ACCELERATE_MIXED_PRECISION"} & os.environ.keys():  # of torchrun and others; of accelerate launch
        if parsed.processes is not None:
            raise InputError("processes is not supported under a launcher, which has started them already; omit it")
        return _preflight(parsed.folder)
    from gan_dist.distributed.launcher import launch_here

    return launch_here(_preflight, parsed.folder, parsed.processes)


def describes_a_run(arguments: Sequence[str]) -> bool:
    """Whether the words begin with a preset, or contain a flag of a training, whose name has a dot."""
    names = [word.partition("=")[0] for word in arguments if word.startswith("--")]
    return any("." in name for name in names) or not (arguments[:1] or ["-"])[0].startswith("-")


def _forecast(arguments: Sequence[str]) -> int:
    config = read_run_arguments(
        Config,
        arguments,
        prog="gan-dist check",
        description=(
            "Forecast a run in one process on this machine: memory, speed, duration, disk, and the largest batch that "
            "fits. Takes the flags of a training. Exit code: 0 the run fits, 1 it does not."
        ),
    )
    reader_for(config.data.name).check(config.data)
    from gan_dist.trainer.forecast import forecast

    return forecast(config)


@nonblocking_output()  # it also runs in the processes that check starts
def _preflight(folder: Path) -> int:
    from gan_dist.trainer.preflight import preflight

    return exit_code("gan-dist", lambda: preflight(folder))


# Name -> summary, and the function that gets the words after the name and returns the exit code.
COMMANDS: dict[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    "train": (
        "train a run in this process, without a launcher",
        lambda arguments: train.main(arguments, prog="gan-dist train"),
    ),
    "data": ("read and prepare a data set, and show what it is", data),
    "sample": ("generate images with a run's generator", sample),
    "walk": ("write an animation: a walk through latents or classes, or the samples over the epochs", walk),
    "evaluate": ("compare images of a run's generator with real ones", evaluate),
    "doctor": ("find the problems of a run, with advice", doctor),
    "diff": ("find the first step in which two runs differ", diff),
    "watch": ("show a run in the terminal while it trains: curves, figures, findings, images", watch),
    "report": ("write a run, or several beside each other, as one HTML page", report),
    "compare": ("print the evaluations of runs beside each other, with what does not differ", compare),
    "export": ("write a run's generator as a web page, an ONNX model, or to the hub", export),
    "check": ("check that this machine or cluster supports a run, or forecast one", check),
}


@nonblocking_output()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of COMMANDS.

    Returns:
        The exit code: 0 done; 2 bad input; 75 a training stopped by a signal, resumable; 1 different runs, a failed
        check, or a run with problems; 3 a run for which the doctor needs more steps or an evaluation.
    """
    limit_spinning()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == [VERSION]:
        show(f"gan_dist {package_version()}\n")
        return 0
    if not words or words[0] in (*HELP, HELP_ALL):
        lines = [f"  {name:8} {summary}" for name, (summary, _) in COMMANDS.items()]
        lines = ["usage: gan-dist COMMAND ...", "", *lines, "", "See gan-dist COMMAND --help for its arguments.", ""]
        show("\n".join(lines))
        return 0 if words else 2

    def work() -> int:
        if words[0] not in COMMANDS:
            raise InputError(f"there is no command {shortened(words[0])}; {nearest(words[0], COMMANDS)}")
        return COMMANDS[words[0]][1](words[1:])

    return exit_code("gan-dist", work)


if __name__ == "__main__":
    sys.exit(main())
