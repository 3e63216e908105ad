"""The commands that show and compare runs. Imports no torch, so --help is answered at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from gan_dist.config import InputError, Range
from gan_dist.config.arguments import read_arguments
from gan_dist.config.suggestions import nearest
from gan_dist.results.arguments import OutputArguments, RunsArgument

MAX_RUNS = 100  # in one page or table
ALL = "all"
INTERVALS = Range(0.1, 3_600, "as good as no live view", whole=False)


@dataclass(frozen=True)
class ReportArguments(OutputArguments, RunsArgument):
    output: Path | None = None
    """HTML file to write. None: report.html in the run's folder; of several runs, comparison.html here."""
    interactive: bool = False
    """Add a section in which the generator runs, as in `gan-dist export --format html`. Of one run."""


def report(arguments: Sequence[str]) -> int:
    """Write a run, or a comparison of runs, as one HTML page."""
    parsed = read_arguments(
        ReportArguments,
        arguments,
        prog="gan-dist report",
        description="Write a run, or a comparison of several runs, as one HTML file that needs no network.",
    )
    runs = check_runs(parsed.runs, fewest=1)
    output = parsed.output or (runs[0] / "report.html" if len(runs) == 1 else Path("comparison.html"))
    if output.suffix not in (".html", ".htm"):
        raise InputError(f"output={output} must end in .html")
    if parsed.interactive and len(runs) > 1:
        raise InputError("interactive is for the report of one run; omit it, or give one run")
    from gan_dist.results.export.html import generator_page
    from gan_dist.results.report.page import write_report

    interactive = (lambda: generator_page(runs[0])[0]) if parsed.interactive else None
    write_report(runs, output, parsed.force, interactive)
    print(f"report of {len(runs)} run(s) in {output}, {output.stat().st_size / 1e6:.1f} MB")
    return 0


@dataclass(frozen=True)
class CompareArguments(RunsArgument):
    figures: str | None = None
    """Names of the figures to compare, separated by commas, such as distance/frechet,recall; or all. None: the
    distance, coverage, precision and recall, and whether conditional runs obey the class that is asked for."""


def compare(arguments: Sequence[str]) -> int:
    """Print the latest evaluations of runs beside each other."""
    parsed = read_arguments(
        CompareArguments,
        arguments,
        prog="gan-dist compare",
        description=(
            "Compare the latest evaluations of runs. A run whose figure does not differ from the best one by more than "
            "the 95 % interval of the difference is marked as no difference."
        ),
    )
    runs = check_runs(parsed.runs, fewest=2)
    from gan_dist.results.compare import compare_runs, default_figures, print_comparison
    from gan_dist.results.recorded import read_runs

    read = read_runs(runs)
    comparison, known = compare_runs(read), default_figures(read)
    if parsed.figures is not None:
        available = [row.name for row in comparison.figures]
        known = available if parsed.figures == ALL else parsed.figures.split(",")
        if unknown := [name for name in known if name not in available]:
            raise InputError(
                f"figures={unknown[0]} is in no evaluation of these runs; {nearest(unknown[0], available)}"
            )
    print_comparison(read, comparison, known)
    return 0


@dataclass(frozen=True)
class WatchArguments:
    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run folder; the run may be training, or over."""
    interval: Annotated[float, INTERVALS] = 2.0
    """Seconds between two looks at the folder."""
    once: bool = False
    """Print one frame and end, as without a terminal."""


def watch(arguments: Sequence[str]) -> int:
    """Show a run in the terminal, also while it trains."""
    parsed = read_arguments(
        WatchArguments,
        arguments,
        prog="gan-dist watch",
        description=(
            "Show a run in the terminal while it trains: curves, figures, findings and the newest images. q quits. "
            "Reads the run folder only. In a pipe or a file, one frame is printed."
        ),
    )
    from gan_dist.results.watch.terminal import watch as watch_run

    watch_run(parsed.run, parsed.interval, parsed.once)
    return 0


def check_runs(runs: Sequence[Path], fewest: int) -> list[Path]:
    """The run folders of a command line.

    Raises:
        InputError: there are too few or too many.
    """
    if len(runs) < fewest:
        raise InputError(f"RUN is missing: {len(runs)} given; give {fewest} or more run folders")
    if len(runs) > MAX_RUNS:
        raise InputError(f"{len(runs)} runs are too many for one page or table; give at most {MAX_RUNS}")
    return list(runs)
