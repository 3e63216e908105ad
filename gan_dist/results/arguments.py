"""Arguments that several commands share. Imports no torch, so --help is answered at once.

A command's dataclass inherits from them. The fields of the base that is named last come first on the command line.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from gan_dist.config import Weights


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
