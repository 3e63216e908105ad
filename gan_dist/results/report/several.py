"""The sections of a report on several runs: the comparison, curves over each other, strips of the same latents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gan_dist.evaluation.history import figure
from gan_dist.results.compare import CAVEAT, compare_runs
from gan_dist.results.figures import FIGURE_INFO
from gan_dist.results.recorded import RecordedRun
from gan_dist.results.report.context import Content, Context
from gan_dist.results.report.curves import (
    METRIC_CHARTS,
    THROUGHPUT,
    ChartSpec,
    evaluation_charts,
    evaluation_curves,
    metric_curves,
    training_seconds,
)
from gan_dist.results.report.pictures import Size, read_strips
from gan_dist.results.report.single import chart, clock, describe_status
from gan_dist.results.settings import config_differences, nearest_preset
from gan_dist.results.verdict import verdict

POINTS_OF_ALL = 6_000  # of all runs together, in each chart
STRIP_EPOCHS = 24  # of each run
STRIP_SCALE = 2  # screen pixels of an image's pixel, where there is space


def comparison_section(context: Context) -> Content:
    """The verdict on each run, and the table of figures."""
    comparison = compare_runs(context.runs)
    verdicts = [verdict(judged) for judged in context.judged]
    damage = [f"{name}: {line}" for name, run in zip(context.names, context.runs, strict=True) for line in run.damage]
    summary = [row.summary(context.names) for row in comparison.figures if any(c.mark == "best" for c in row.cells)]
    return Content(
        {"comparison": comparison, "verdicts": verdicts, "caveat": CAVEAT, "damage": damage, "summary": summary}
    )


def curves_section(context: Context) -> Content:
    """Each figure of metrics.jsonl and evaluations.jsonl with a line for each run."""
    most = max(POINTS_OF_ALL // len(context.runs), 50)
    metrics = {f"m{i}": metric_curves(run, most) for i, run in enumerate(context.runs)}
    evaluations = {f"e{i}": evaluation_curves(run) for i, run in enumerate(context.runs)}
    known = {name for curves in metrics.values() for name in curves.values}
    specs = [
        ChartSpec(_title(name), (name,), spec.logarithmic, spec.low, spec.high)
        for spec in (*METRIC_CHARTS, THROUGHPUT)
        for name in spec.figures
        if name in known
    ]
    measured = [name for name in FIGURE_INFO if any(_has(curves.values, name) for curves in evaluations.values())]
    floors = _common_floor(context, measured)
    known_floors = {name: floor for name, floor in floors.items() if floor is not None}
    charts = [chart(spec, "evaluations", [*evaluations]) | {"floor": floors[spec.figures[0]]}
              for spec in evaluation_charts([*evaluations.values()], measured, known_floors)]  # fmt: skip
    charts += [chart(spec, "metrics", [*metrics]) for spec in specs]
    keys = {key: name for group in (metrics, evaluations) for key, name in zip(group, context.names, strict=True)}
    data = {key: curves.to_dict() for key, curves in (metrics | evaluations).items()}
    return Content({"charts": charts}, {"charts": charts, "curves": data, "names": keys})


def strips_section(context: Context) -> Content | None:
    """Images of the same latents over the epochs of each run, or why that is not possible."""
    if not any(run.epochs for run in context.runs):
        return None
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, run in zip(context.names, context.runs, strict=True):
        groups.setdefault(fixed_inputs(run), []).append(name)
    strips, budget = [], context.picture_bytes // len(context.runs)
    for name, run in zip(context.names, context.runs, strict=True):
        found = read_strips(run, Size(*run.spec.shape[:0:-1]), STRIP_EPOCHS, budget) if run.spec is not None else []
        if found:
            strips.append(
                {
                    "name": name,
                    "epochs": [strip.epoch for strip in found],
                    "images": [_images_seen(run, strip.epoch) for strip in found],
                    "pictures": [strip.uri for strip in found],
                    "width": STRIP_SCALE * found[-1].size.width,
                    "height": STRIP_SCALE * found[-1].size.height,
                }
            )
    if not strips:
        return None
    by_class = all(run.config.model.conditional for run in context.runs)
    without = [name for name in context.names if name not in {strip["name"] for strip in strips}]
    return Content(
        {"strips": strips, "groups": [*groups.values()], "by_class": by_class, "without": without}, {"strips": strips}
    )


def findings_section(context: Context) -> Content:
    """The findings of each run, with their steps."""
    return Content({"runs": list(zip(context.names, [j.examination for j in context.judged], strict=True))})


def differences_section(context: Context) -> Content:
    """The settings in which the runs differ."""
    configs = [run.config for run in context.runs]
    presets = [nearest_preset(config).name for config in configs]
    data = [str(run.data.get("sha256", "unknown"))[:12] for run in context.runs]
    return Content({"differences": config_differences(configs), "presets": presets, "data": data})


def runs_section(context: Context) -> Content:
    """Where and how long each run trained."""
    rows = [
        {
            "name": name,
            "path": run.path,
            "status": describe_status(run),
            "step": run.step,
            "images": figure(run.rows[-1], "images_seen"),
            "seconds": clock(training_seconds(run.rows)[-1]),
            "sessions": run.sessions,
        }
        for name, run in zip(context.names, context.runs, strict=True)
    ]
    return Content({"rows": rows})


def fixed_inputs(run: RecordedRun) -> tuple[Any, ...]:
    """What determines the latents and labels of a run's sample grids: equal for runs that have the same ones."""
    config = run.config
    labels = run.classes if config.model.conditional else ()
    return config.train.seed, config.model.latent_dim, config.model.conditional, labels


def _images_seen(run: RecordedRun, epoch: int) -> int:
    """The images seen after an epoch, from the nearest line of metrics.jsonl."""
    nearest = min(run.rows, key=lambda row: abs(row["epoch"] - epoch))
    seen = figure(nearest, "images_seen")
    images = seen * epoch / nearest["epoch"] if seen > 0 and nearest["epoch"] > 0 else 0.0
    return round(images) if math.isfinite(images) else 0


def _common_floor(context: Context, names: list[str]) -> dict[str, float | None]:
    """The figures of real images that all runs share; None for others."""
    found = {}
    for name in names:
        values = {figure(judged.floor, name) for judged in context.judged if judged.row}
        value = values.pop() if len(values) == 1 else math.nan
        found[name] = None if math.isnan(value) else value
    return found


def _has(values: Mapping[str, list[float | None]], name: str) -> bool:
    return any(value is not None for value in values.get(name, []))


def _title(name: str) -> str:
    return "images per second" if name == "images_per_second" else name
