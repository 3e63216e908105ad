"""The `gan-dist` command: train without a launcher, and everything that is done with a run afterwards."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from gan_dist import train
from gan_dist.config import (
    EVALUATED,
    SEEDS,
    DataConfig,
    DataName,
    DataSource,
    InputError,
    Range,
    Weights,
    package_version,
    shortened,
)
from gan_dist.config.arguments import VERSION, read_arguments
from gan_dist.config.helptext import show
from gan_dist.config.mistakes import HELP, HELP_ALL
from gan_dist.config.suggestions import nearest
from gan_dist.distributed.exit_codes import exit_code
from gan_dist.distributed.openmp import limit_spinning
from gan_dist.distributed.output_streams import nonblocking_output
from gan_dist.memory import available_memory

SAMPLES = Range(1, 1_000_000, "all images are kept in memory")
IN_A_PICTURE = Range(1, 10_000, "a larger grid is unreadable; use .npz")
PROCESSES = Range(1, 1_024, "no machine has more cores or GPUs")
PROCESS_BYTES = 300_000_000  # of one that has imported torch, without what it shares with the others


@dataclass(frozen=True)
class SampleArguments:
    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run folder, or one of its .safetensors files."""
    count: Annotated[int, SAMPLES] = 64
    """Number of images, at most 10,000 in a .png."""
    output: Path = Path("samples.png")
    """Output file: a grid (.png), or an array "images" of uint8 (n, C, H, W) (.npz)."""
    seed: Annotated[int, SEEDS] = 0
    """Random seed of the latents."""
    weights: Weights = "average"
    """Which generator of the run. average: the exponential moving average if the run keeps one, else the trained
    generator. live: the trained generator. best: as average, at the best evaluation."""


def sample(arguments: Sequence[str]) -> int:
    """Generate images from a run."""
    asked = read_arguments(
        SampleArguments,
        arguments,
        prog="gan-dist sample",
        description="Generate images from a run's generator.",
    )
    if asked.output.suffix not in (".png", ".npz"):
        raise InputError(f"output={asked.output} must end in .png (a grid) or .npz (an array)")
    if asked.output.suffix == ".png":
        IN_A_PICTURE.check("count", asked.count)
    from gan_dist.results.generate import generate_pixels, load_generator, save_pixels

    save_pixels(generate_pixels(load_generator(asked.run, asked.weights), asked.count, asked.seed), asked.output)
    print(f"{asked.count} images in {asked.output}")
    return 0


@dataclass(frozen=True)
class EvaluateData:
    name: DataName = "mnist"
    """Data set of the classifier, with --train-classifier. A run knows its own."""
    root: Path | None = None
    """Folder of the data set. None: as in the run."""
    source: DataSource | None = None
    """Where the images come from. None: as in the run, or local if root is given."""


@dataclass(frozen=True)
class EvaluateArguments:
    run: Annotated[Positional[Path | None], arg(metavar="[RUN]")] = None
    """Run folder, or one of its .safetensors files: figures of NAME.safetensors are written to NAME-evaluation.json
    beside it."""
    count: Annotated[int, EVALUATED] = 10_000
    """Number of images to generate."""
    seed: Annotated[int, SEEDS] = 0
    """Random seed of the latents."""
    weights: Weights = "average"
    """Which generator of the run. average: the exponential moving average if the run keeps one, else the trained
    generator. live: the trained generator. best: as average, at the best evaluation."""
    data: EvaluateData = field(default_factory=EvaluateData)
    """The real images."""
    train_classifier: Path | None = None
    """For maintainers: train the classifier of a data set and write it to this file. Takes no RUN."""


def evaluate(arguments: Sequence[str]) -> int:
    """Say how good a run's generator is."""
    asked = read_arguments(
        EvaluateArguments,
        arguments,
        prog="gan-dist evaluate",
        description="Compare what a run's generator makes with real images, here and in RUN/evaluation.json.",
    )
    if (asked.run is None) == (asked.train_classifier is None):
        raise InputError("give either a RUN to evaluate, or --train-classifier FILE")
    from gan_dist.results.evaluate import evaluate_run, make_shipped_classifier

    if asked.run is not None:
        evaluate_run(asked.run, print, asked.count, asked.seed, asked.data.root, asked.data.source, asked.weights)
        return 0
    assert asked.train_classifier is not None
    data = DataConfig(asked.data.name, asked.data.root or DataConfig.root, asked.data.source or DataConfig.source)
    trained = make_shipped_classifier(data, asked.train_classifier, print)
    print(
        f"classifier {trained.id} in {asked.train_classifier}: {100 * trained.accuracy:.2f} % of held-out images right"
    )
    return 0


@dataclass(frozen=True)
class DoctorArguments:
    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run folder; the run may still be training."""


def doctor(arguments: Sequence[str]) -> int:
    """Say what is wrong with a run.

    Returns:
        0 if nothing is wrong; 1 if something is; 3 if nothing wrong was found, but it takes more steps or an evaluation
        to judge the run.
    """
    asked = read_arguments(
        DoctorArguments,
        arguments,
        prog="gan-dist doctor",
        description=(
            "Say what the figures of a run show to be wrong with it, and what to try. Exit code: 0 nothing is wrong, "
            "1 something is, 3 it is too early to tell."
        ),
    )
    from gan_dist.evaluation.doctor import Verdict
    from gan_dist.results.examine import examine_run, report

    examination = examine_run(asked.run)
    report(examination)
    return {Verdict.NOTHING_WRONG: 0, Verdict.SOMETHING_WRONG: 1, Verdict.TOO_EARLY: 3}[examination.diagnosis.verdict]


@dataclass(frozen=True)
class DiffArguments:
    runs: Annotated[Positional[tuple[Path, Path]], arg(metavar="RUN RUN")]
    """Folders of two runs that were trained with --train.log-hashes."""


def diff(arguments: Sequence[str]) -> int:
    """Say where two runs part; 1 if they do."""
    asked = read_arguments(
        DiffArguments,
        arguments,
        prog="gan-dist diff",
        description="Find the first step, and the tensors, where two runs part.",
    )
    from gan_dist.results.diff import compare_hashes

    comparison = compare_hashes(*asked.runs)
    print(comparison.describe())
    return 0 if comparison.parted_at is None else 1


@dataclass(frozen=True)
class CheckArguments:
    processes: Annotated[int, PROCESSES] | None = None
    """Number of processes to start on this machine; not under a launcher. None: one per GPU, or two without a GPU."""
    folder: Path = Path("runs")
    """Where runs will be stored; its disk is checked too."""


def check(arguments: Sequence[str]) -> int:
    """Check that this machine, or the launcher that started this, can carry a run; 1 if not."""
    asked = read_arguments(
        CheckArguments,
        arguments,
        prog="gan-dist check",
        description="Check in under a minute that processes, network and disk can carry a run that stops and goes on.",
    )
    available = available_memory()
    if asked.processes is not None and available is not None and asked.processes * PROCESS_BYTES > available:
        raise InputError(
            f"processes={asked.processes} can't be used: they take at least "
            f"{asked.processes * PROCESS_BYTES / 1e9:,.1f} GB of memory, and {available / 1e9:,.1f} GB are available"
        )
    if {"WORLD_SIZE", "ACCELERATE_MIXED_PRECISION"} & os.environ.keys():  # of torchrun and others; of accelerate launch
        if asked.processes is not None:
            raise InputError("processes can't be given here: the launcher has started them already; leave it out")
        return _preflight(asked.folder)
    from gan_dist.distributed.launcher import launch_here

    return launch_here(_preflight, asked.folder, asked.processes)


@nonblocking_output()  # here too: check starts processes for it
def _preflight(folder: Path) -> int:
    from gan_dist.trainer.preflight import preflight

    return exit_code("gan-dist", lambda: preflight(folder))


COMMANDS: dict[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    "train": (
        "train a run in this process, without a launcher",
        lambda arguments: train.main(arguments, prog="gan-dist train"),
    ),
    "sample": ("generate images from a run", sample),
    "evaluate": ("say how good a run's generator is", evaluate),
    "doctor": ("say what is wrong with a run, and what to try", doctor),
    "diff": ("find the first step where two runs part", diff),
    "check": ("check that this machine or cluster can carry a run", check),
}


@nonblocking_output()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of COMMANDS.

    Returns:
        The exit code: 0 done, 2 bad input; 75 a training stopped by a signal, resumable; 1 runs that differ, a check
        that failed, a run that is ill; 3 a run that the doctor can't judge yet.
    """
    limit_spinning()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == [VERSION]:
        show(f"gan_dist {package_version()}\n")
        return 0
    if not words or words[0] in (*HELP, HELP_ALL):
        lines = [f"  {name:8} {summary}" for name, (summary, _) in COMMANDS.items()]
        show("\n".join(["usage: gan-dist COMMAND ...", "", *lines, "", "gan-dist COMMAND --help says more.", ""]))
        return 0 if words else 2

    def work() -> int:
        if words[0] not in COMMANDS:
            raise InputError(f"there is no command {shortened(words[0])}; {nearest(words[0], COMMANDS)}")
        return COMMANDS[words[0]][1](words[1:])

    return exit_code("gan-dist", work)


if __name__ == "__main__":
    sys.exit(main())
