"""Arguments that several commands share, and their checks. Imports no torch, so --help is answered at once.

A command's dataclass inherits from them. The fields of the base that is named last come first on the command line.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from gan_dist.config import InputError, Range, Weights
from gan_dist.distributed.environment import read_environment
from gan_dist.memory import available_memory

PROCESSES = Range(1, 1_024, "no machine has more cores or GPUs")
PROCESS_BYTES = 300_000_000  # of a process that has imported torch, without the memory that it shares with others
SAMPLES = Range(1, 1_000_000_000, "these take days")
THRESHOLDS = Range(0.01, 10, "no latent is as large", whole=False)


@dataclass(frozen=True)
class WeightsArgument:
    """Which generator of a run a command uses."""

    weights: Weights = "average"
    """Which generator of the run. average: the exponential moving average if the run keeps one, else the trained
    generator. live: the trained generator. best: as average, at the best evaluation."""


@dataclass(frozen=True)
class RunArgument:
    """The run, or the file, whose generator a command uses."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run folder, one of its .safetensors files, or hf://USER/NAME. The run may still be training."""


@dataclass(frozen=True)
class RunsArgument:
    """The runs that a command reads."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN")]
    """Run folders; the runs may still be training."""


@dataclass(frozen=True)
class OutputArguments:
    """What a command writes. Subclasses declare `output` again, with its default and formats."""

    output: Path | None = None
    """Output file."""
    force: bool = False
    """Replace an existing output."""


def check_processes(processes: int | None) -> None:
    """Check that processes fit into the memory.

    Args:
        processes: their number; None: not known yet.

    Raises:
        InputError: they do not.
    """
    available = available_memory()
    if processes is not None and processes > 1 and available is not None and processes * PROCESS_BYTES > available:
        raise InputError(
            f"processes={processes} is not supported: these take at least {processes * PROCESS_BYTES / 1e9:,.1f} GB of "
            f"memory, and {available / 1e9:,.1f} GB are available; use fewer"
        )


def check_not_launched(instead: str = "") -> None:
    """Check that a command that writes one output does not run in several processes of a launcher.

    Args:
        instead: what the user may do, for the message.

    Raises:
        InputError: it does.
    """
    if (ranks := read_environment().ranks) > 1:
        raise InputError(f"a launcher started {ranks} processes of a command that needs one; omit it{instead}")


def check_one_of_labels(label: str | None, labels: str | None) -> None:
    """Check that classes are given by at most one of these arguments.

    Raises:
        InputError: by both.
    """
    if label is not None and labels is not None:
        raise InputError("label and labels exclude each other; omit one of them")
