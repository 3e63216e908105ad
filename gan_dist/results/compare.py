"""Compares the latest evaluations of runs. The intervals say where there is no difference."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gan_dist.config.text import printable
from gan_dist.evaluation.doctor import diagnose
from gan_dist.evaluation.history import Row, figure
from gan_dist.results.figures import (
    Measured,
    general_figures,
    info,
    interval_text,
    measured,
    number,
    value_text,
)
from gan_dist.results.recorded import RecordedRun, names_of, text
from gan_dist.results.trend import distance_name
from gan_dist.results.verdict import latest_evaluation

Mark = Literal["best", "no difference", "worse", "not comparable", ""]
"""A run's figure beside the best one. no difference: the interval of the difference contains 0."""

Conditions = tuple[object, object, str | None]

CAVEAT = (
    "No difference: the 95 % interval of the difference from the best run contains 0. The intervals are those of these "
    "generators; the same configuration with another seed may differ by more."
)
DEFAULT_FIGURES = ("inception/fid", "distance/frechet", "coverage", "precision", "recall", "asked/obtained")
MAX_LISTED = 8  # runs in a sentence
PLOT_WIDTH = 18  # columns of the intervals that are drawn in the terminal
PLOT, ASCII_PLOT = [*"├─┤●"], [*"|-|o"]  # of which characters; ASCII where the output is not UTF-8


@dataclass(frozen=True)
class Cell:
    """A figure of a run."""

    measured: Measured | None
    """None if the run does not have it."""
    mark: Mark

    @property
    def is_compared(self) -> bool:
        return self.measured is not None and self.mark != "not comparable"


@dataclass(frozen=True)
class FigureRow:
    """A figure of all runs."""

    name: str
    cells: list[Cell]
    """In the order of the runs."""
    floor: float
    """Of real images; NaN if it is unknown, or not the same for all runs."""

    @property
    def title(self) -> str:
        return info(self.name).title

    def summary(self, names: Sequence[str]) -> str:
        """One sentence: which run is best, and which do not differ from it."""
        marked = {mark: [n for n, cell in zip(names, self.cells, strict=True) if cell.mark == mark] for mark in _MARKS}
        if not marked["best"]:
            return f"{self.title}: not compared"
        parts = [f"{self.title}: {marked['best'][0]} is best"]
        parts += [f"{mark}: {_listed(marked[mark])}" for mark in _MARKS[1:] if marked[mark]]
        return "; ".join(parts)


_MARKS: tuple[Mark, ...] = ("best", "no difference", "worse", "not comparable")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= MAX_LISTED else f"{len(names)} runs"


@dataclass(frozen=True)
class Comparison:
    """The figures of several runs."""

    names: list[str]
    """Of the runs."""
    figures: list[FigureRow]
    notes: list[str]
    """What restricts the comparison, one line each."""


def compare_runs(runs: Sequence[RecordedRun]) -> Comparison:
    """Compare the latest evaluations of runs, figure by figure.

    Figures of different feature extractors, numbers of images or data are not comparable: those that most runs share
    are compared, and the others are marked.
    """
    names = names_of(runs)
    found = [latest_evaluation(run) for run in runs]
    rows = [row for row, _ in found]
    notes = [f"{name} has no evaluation yet" for name, row in zip(names, rows, strict=True) if not row]
    data = [text(run.data, "sha256") for run in runs]
    known = dict.fromkeys(name for row in rows for name in general_figures(row))
    order = general_figures(dict.fromkeys(known, 0.0))
    figures = []
    for name in order:
        cells = _cells(rows, data, name)
        floors = {figure(floor, name) for cell, (_, floor) in zip(cells, found, strict=True) if cell.is_compared}
        figures.append(FigureRow(name, cells, floors.pop() if len(floors) == 1 else math.nan))
    return Comparison(names, figures, notes + _incomparable(names, rows, data))


def differ(a: Measured, b: Measured) -> bool:
    """Whether the 95 % interval of the difference of two independent figures excludes 0."""
    return abs(a.value - b.value) > math.hypot(a.half_width, b.half_width)


def _cells(rows: Sequence[Row], data: Sequence[str | None], name: str) -> list[Cell]:
    figures = [measured(row, name) for row in rows]
    conditions = [_conditions(row, sha256, name) for row, sha256 in zip(rows, data, strict=True)]
    common = Counter(c for c, found in zip(conditions, figures, strict=True) if found).most_common(1)
    better = info(name).better
    ranked = [
        (i, found)
        for i, found in enumerate(figures)
        if found and found.has_interval and conditions[i] == common[0][0] and better != "real"
    ]
    marks: list[Mark] = ["" if not found or not common or conditions[i] == common[0][0] else "not comparable"
                         for i, found in enumerate(figures)]  # fmt: skip
    if len(ranked) > 1:
        choose = min if better == "lower" else max
        first, best = choose(ranked, key=lambda entry: entry[1].value)
        for i, found in ranked:
            marks[i] = "best" if i == first else "worse" if differ(found, best) else "no difference"
    return [Cell(found, mark) for found, mark in zip(figures, marks, strict=True)]


def _conditions(row: Row, sha256: str | None, name: str = "") -> Conditions:
    """What has to be equal for a figure to be comparable: feature extractor, number of images, real images."""
    return row.get("inception" if name.startswith("inception/") else "classifier"), row.get("count"), sha256


def _incomparable(names: Sequence[str], rows: Sequence[Row], data: Sequence[str | None]) -> list[str]:
    """A note if the runs were judged under different conditions."""
    groups: dict[Conditions, list[str]] = {}
    for name, row, sha256 in zip(names, rows, data, strict=True):
        if row:
            groups.setdefault(_conditions(row, sha256), []).append(name)
    if len(groups) < 2:
        return []

    def describe(count: object) -> str:
        return f"{count:,}" if isinstance(count, int) else "unknown"

    described = "; ".join(
        f"{', '.join(members)}: extractor {extractor}, {describe(count)} images, data {(sha256 or 'unknown')[:12]}"
        for (extractor, count, sha256), members in groups.items()
    )
    return [f"Figures of different feature extractors, numbers of images or data are not compared ({described})"]


def print_comparison(runs: Sequence[RecordedRun], comparison: Comparison, figures: Sequence[str]) -> None:
    """Print a table of the runs, and one for each figure, the best run first."""
    console = Console()

    def show(text: str) -> None:
        console.print(Text(printable(text)), soft_wrap=True)

    table = Table(title="runs", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("run", "step", "images", "state", "doctor", "evaluated"):
        table.add_column(column, justify="right" if column in ("step", "images", "evaluated") else "left")
    for name, run in zip(comparison.names, runs, strict=True):
        diagnosis = diagnose(run.rows, run.evaluations, run.config, run.floor, run.classes)
        doctor = ", ".join(finding.name for finding in diagnosis.findings) or diagnosis.verdict.value
        latest, _ = latest_evaluation(run)
        images = run.rows[-1].get("images_seen")
        table.add_row(
            *(Text(printable(name)), f"{run.step:,}", number(images) if isinstance(images, int | float) else "-"),
            *(
                Text(printable(run.status.state or "unknown")),
                Text(doctor),
                f"{latest['step']:,}" if "step" in latest else "-",
            ),
        )
    console.print(table)
    shown = [row for row in comparison.figures if not figures or row.name in figures]
    for row in shown:
        console.print(_figure_table(row, comparison.names, PLOT if console.encoding.startswith("utf") else ASCII_PLOT))
    for row in shown:
        show(row.summary(comparison.names))
    for note in comparison.notes:
        show(note)
    show(CAVEAT)


def default_figures(runs: Sequence[RecordedRun]) -> list[str]:
    """The figures that are printed if none are asked for."""
    distances = {distance_name(latest_evaluation(run)[0]) for run in runs}
    return [name for name in DEFAULT_FIGURES if "/f" not in name or name in distances]


def _figure_table(row: FigureRow, names: Sequence[str], characters: Sequence[str]) -> Table:
    real = "" if math.isnan(row.floor) else f", real images {number(row.floor)}"
    better = {"lower": " (lower is better)", "higher": " (higher is better)", "real": ""}[info(row.name).better]
    table = Table(
        title=Text(printable(f"{row.title}{better}{real}")), title_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    for column in ("run", "value", "95 % interval", "", ""):
        table.add_column(
            column, justify="right" if column == "value" else "left", no_wrap=column != "run", overflow="fold"
        )

    def order(entry: tuple[str, Cell]) -> tuple[bool, float]:
        value = entry[1].measured.value if entry[1].measured else math.nan
        return entry[1].mark == "not comparable", -value if info(row.name).better == "higher" else value

    known = [(name, cell) for name, cell in zip(names, row.cells, strict=True) if cell.measured]
    drawn = [m for _, cell in known if (m := cell.measured) and cell.is_compared]
    ends = [end for m in drawn for end in (m.value, m.low, m.high) if math.isfinite(end)]
    for name, cell in sorted(known, key=order):
        assert cell.measured is not None
        plot = draw_interval(cell.measured, min(ends), max(ends), characters) if cell.is_compared else ""
        table.add_row(Text(printable(name)), value_text(cell.measured), interval_text(cell.measured), plot, cell.mark)
    return table


def draw_interval(figure: Measured, low: float, high: float, characters: Sequence[str] = PLOT) -> str:
    """An interval as characters, such as "   ├──●──┤", between the ends of all intervals."""
    left, line, right, value = characters

    def column(position: float) -> int:
        share = (position - low) / (high - low) if math.isfinite(high - low) and high > low else 0.0
        return round((PLOT_WIDTH - 1) * share)

    cells = [" "] * PLOT_WIDTH
    if figure.has_interval:
        for i in range(column(figure.low), column(figure.high) + 1):
            cells[i] = line
        cells[column(figure.low)], cells[column(figure.high)] = left, right
    cells[column(figure.value)] = value
    return "".join(cells).rstrip()
