"""The curves of a run as data for the page: positions on four axes, and thinned values of every figure."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gan_dist.evaluation.history import Row, figure, mean
from gan_dist.results.figures import info, measured, of_class
from gan_dist.results.recorded import RecordedRun

MAX_POINTS = 1_500  # of a curve; more would not be visible, and make the page large
MAX_FIGURES = 100  # that are drawn; a run has about 15
NOT_DRAWN = ("step", "epoch", "images_seen")

Points = list[float | None]


@dataclass(frozen=True)
class ChartSpec:
    """Which figures are drawn together."""

    title: str
    figures: tuple[str, ...]
    logarithmic: bool = False
    low: float | None = None
    high: float | None = None
    """Ends of the vertical axis; None: from the values."""
    help: str = ""


# The figures of metrics.jsonl. Others are drawn after these, each in a chart of its own.
METRIC_CHARTS = (
    ChartSpec("Losses", ("loss/discriminator", "loss/generator")),
    ChartSpec("Scores of D", ("score/real", "score/fake"), low=0.0, high=1.0, help="Mean probability of being real."),
    ChartSpec("Gradient norms", ("gradient/discriminator", "gradient/generator"), logarithmic=True),
    ChartSpec("Penalties", ("penalty/r1", "penalty/r2", "penalty/gradient"), logarithmic=True),
    ChartSpec("Augmentation", ("augment/probability", "augment/overfitting")),
)
THROUGHPUT = ChartSpec("Images per second", ("images_per_second",), low=0.0, help="Evaluations excluded.")
DISTANCES = ("inception/fid", "inception/kid", "distance/frechet", "distance/kernel", "within/frechet")


@dataclass(frozen=True)
class Curves:
    """Points of several figures at the same positions."""

    positions: dict[str, Points]
    """Name of an axis -> the points' positions."""
    values: dict[str, Points]
    """Figure -> value at each point; None where it has none."""
    low: dict[str, Points] = field(default_factory=dict)
    high: dict[str, Points] = field(default_factory=dict)
    """Figure -> ends of its interval at each point."""
    averaged: int = 1
    """Number of lines of which each point is the mean."""
    left_out: int = 0
    """Number of figures beyond MAX_FIGURES, which are not drawn."""

    def to_dict(self) -> dict[str, Any]:
        return {"x": self.positions, "y": self.values, "low": self.low, "high": self.high}


def metric_curves(run: RecordedRun, most: int = MAX_POINTS) -> Curves:
    """The figures of metrics.jsonl, averaged over equally many lines if there are more than `most`."""
    size = -(-len(run.rows) // most)
    groups = [run.rows[first : first + size] for first in range(0, len(run.rows), size)]
    seconds = training_seconds(run.rows)
    positions = {name: [_short(figure(group[-1], name)) for group in groups] for name in NOT_DRAWN}
    ends = [min(first + size, len(run.rows)) - 1 for first in range(0, len(run.rows), size)]
    positions["seconds"] = [_short(seconds[end]) for end in ends]
    every = list(dict.fromkeys(name for row in run.rows for name in row if name not in NOT_DRAWN))
    names = every[:MAX_FIGURES]
    values = {name: [_short(mean(group, name)) for group in groups] for name in names}
    return Curves(positions, values, averaged=size, left_out=len(every) - len(names))


def evaluation_curves(run: RecordedRun) -> Curves:
    """The figures of evaluations.jsonl that are not of single classes, with their intervals."""
    rows, steps, seconds = run.evaluations, [figure(row, "step") for row in run.rows], training_seconds(run.rows)
    positions = {name: [_short(figure(row, name)) for row in rows] for name in NOT_DRAWN}
    positions["seconds"] = [_short(interpolate(figure(row, "step"), steps, seconds)) for row in rows]
    names = dict.fromkeys(name for row in rows for name in row if isinstance(row.get(name), int | float))
    found = {
        name: [measured(row, name) for row in rows]
        for name in names
        if name not in (*NOT_DRAWN, "seconds", "count") and not of_class(name)
    }
    return Curves(
        positions,
        {name: [None if f is None else _short(f.value) for f in values] for name, values in found.items()},
        {name: [None if f is None else _short(f.low) for f in values] for name, values in found.items()},
        {name: [None if f is None else _short(f.high) for f in values] for name, values in found.items()},
    )


def metric_charts(names: Sequence[str]) -> list[ChartSpec]:
    """The charts of the figures in metrics.jsonl, throughput excepted."""
    charts = [
        ChartSpec(spec.title, known, spec.logarithmic, spec.low, spec.high, spec.help)
        for spec in METRIC_CHARTS
        if (known := tuple(name for name in spec.figures if name in names))
    ]
    drawn = {name for spec in (*METRIC_CHARTS, THROUGHPUT) for name in spec.figures}
    return charts + [ChartSpec(name, (name,)) for name in names if name not in drawn]


def evaluation_charts(curves: Sequence[Curves], names: Sequence[str], floor: Mapping[str, float]) -> list[ChartSpec]:
    """A chart for each figure of an evaluation. Distances are drawn on a logarithmic scale if all are positive."""

    def positive(name: str) -> bool:
        values = [value for of_run in curves for value in of_run.values.get(name, []) if value is not None]
        return min([*values, floor.get(name, math.inf)], default=0) > 0

    return [
        ChartSpec(info(name).title, (name,), name in DISTANCES and positive(name), help=info(name).meaning)
        for name in names
    ]


def training_seconds(rows: Sequence[Row]) -> list[float]:
    """Seconds of training up to each line, evaluations excluded, from the images and the images per second.

    The speed of a line is that since the previous one. A line without a speed is taken to be as fast as the one before.
    """
    seconds, total, previous, speed = [], 0.0, 0.0, math.nan
    for row in rows:
        images, measured_speed = figure(row, "images_seen"), figure(row, "images_per_second")
        speed = measured_speed if measured_speed > 0 else speed
        if images > previous and speed > 0:
            total += (images - previous) / speed
        previous = images if not math.isnan(images) else previous
        seconds.append(total)
    return seconds


def interpolate(at: float, x: Sequence[float], y: Sequence[float]) -> float:
    """The value at a position between increasing ones; outside of them, that of the nearest."""
    if not x:
        return math.nan
    after = bisect_left(x, at)
    if after in (0, len(x)):
        return y[0] if after == 0 else y[-1]
    (x0, x1), (y0, y1) = x[after - 1 : after + 1], y[after - 1 : after + 1]
    return y0 + (y1 - y0) * (at - x0) / (x1 - x0)


def _short(value: float) -> float | None:
    """A number with six significant digits, which a screen can't show more of; None for NaN."""
    return None if not math.isfinite(value) else float(f"{value:.6g}")
