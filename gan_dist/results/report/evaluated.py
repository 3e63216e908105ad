"""The sections on evaluations of one run: all figures with their intervals and those of real images, and by class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gan_dist.evaluation.history import Row, class_number, figure
from gan_dist.results.figures import FigureInfo, Measured, comparable, general_figures, info, measured
from gan_dist.results.report.context import Content, Context
from gan_dist.results.report.curves import evaluation_charts, evaluation_curves
from gan_dist.results.report.single import chart, session_steps
from gan_dist.results.trend import distance_name
from gan_dist.results.verdict import best_evaluation

# Column of the table of classes -> name of its figure, where {} is the number of the class.
CLASS_FIGURES = {
    "Share of the images": "classes/{}",
    "Shows the class asked for": "asked/{}",
    "Fréchet distance": "within/{}",
    "Diversity": "within/{}/diversity",
}


@dataclass(frozen=True)
class TableRow:
    """A figure of the latest evaluation."""

    name: str
    info: FigureInfo
    latest: Measured
    best: Measured | None
    """At the evaluation with the smallest distance; None if that is the latest."""
    real: float


@dataclass(frozen=True)
class Bar:
    """A figure of a class, and where its interval is drawn: percentages of the column's width."""

    measured: Measured
    real: float
    low: float
    high: float
    at: float
    real_at: float | None


def evaluation_section(context: Context) -> Content:
    """The figures of the latest and of the best evaluation, and their curves."""
    run, judged = context.run, context.judged[0]
    row, floor = judged.row, judged.floor
    best = best_evaluation(run)
    best = best if best and best["step"] != row.get("step") else {}
    rows = [
        TableRow(name, info(name), found, measured(best, name), figure(floor, name))
        for name in general_figures(row)
        if (found := measured(row, name))
    ]
    curves = evaluation_curves(run)
    names = [name for name in general_figures(row) if name in curves.values] if len(run.evaluations) > 1 else []
    charts = [
        chart(spec, "evaluations", ["evaluations"])
        | {"floor": known if math.isfinite(known := figure(floor, spec.figures[0])) else None}
        for spec in evaluation_charts([curves], names, floor)
    ]
    count = figure(row, "count")
    others = sum(not comparable(earlier, row, distance_name(row)) for earlier in run.evaluations)
    return Content(
        {"rows": rows, "row": row, "best": best, "charts": charts, "others": others, "count": count},
        {"charts": charts, "curves": {"evaluations": curves.to_dict()}, "marks": session_steps(run)},
    )


def classes_section(context: Context) -> Content | None:
    """The figures of each class; None if the evaluation has none."""
    judged = context.judged[0]
    row, floor = judged.row, judged.floor
    numbers = {class_number(parts[1]) for name in row if (parts := name.split("/"))[1:]}
    labels = sorted(number for number in numbers if number is not None)
    columns = {}
    for title, pattern in CLASS_FIGURES.items():
        names = {label: pattern.format(label) for label in labels}
        if any(measured(row, name) for name in names.values()):
            columns[title] = _bars(row, floor, names)
    if not columns:
        return None
    known = context.run.classes
    names = {label: known[label] if label < len(known) else str(label) for label in labels}
    return Content({"columns": columns, "labels": names})


def _bars(row: Row, floor: Mapping[str, float], names: Mapping[int, str]) -> dict[int, Bar]:
    """The figures of the classes, on a common scale from 0."""
    found = {label: known for label, name in names.items() if (known := measured(row, name))}
    real = {label: figure(floor, name) for label, name in names.items()}
    ends = [end for m in found.values() for end in (m.value, m.high)] + list(real.values())
    scale = max((end for end in ends if math.isfinite(end)), default=1) or 1

    def percent(value: float) -> float:
        return round(100 * max(value, 0) / scale, 2)

    return {
        label: Bar(
            measured=m,
            real=real[label],
            low=percent(m.low if m.has_interval else m.value),
            high=percent(m.high if m.has_interval else m.value),
            at=percent(m.value),
            real_at=None if math.isnan(real[label]) else percent(real[label]),
        )
        for label, m in found.items()
    }
