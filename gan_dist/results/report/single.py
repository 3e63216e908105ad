"""The sections of a report on one run: verdict, curves, samples, findings, sessions, configuration, data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from gan_dist.evaluation.history import Row, figure
from gan_dist.outputs.pictures import MAX_ROWS
from gan_dist.results.figures import number
from gan_dist.results.recorded import MAX_TEXT, RecordedRun, Session, text, whole
from gan_dist.results.report.context import Content, Context
from gan_dist.results.report.curves import THROUGHPUT, ChartSpec, metric_charts, metric_curves, training_seconds
from gan_dist.results.report.pictures import read_grids
from gan_dist.results.settings import all_settings, nearest_preset
from gan_dist.results.verdict import verdict


def verdict_section(context: Context) -> Content:
    """Four questions with their answers, and what could not be read."""
    run = context.run
    return Content({"statements": verdict(context.judged[0]), "damage": run.damage, "status": run.status})


def curves_section(context: Context) -> Content:
    """The figures of metrics.jsonl."""
    curves = metric_curves(context.run)
    charts = [chart(spec, "metrics", ["metrics"]) for spec in metric_charts(list(curves.values))]
    return Content(
        {"charts": charts, "averaged": curves.averaged, "left_out": curves.left_out, "lines": len(context.run.rows)},
        {"charts": charts, "curves": {"metrics": curves.to_dict()}, "marks": session_steps(context.run)},
    )


def samples_section(context: Context) -> Content | None:
    """The grids of the fixed latents over the epochs, beside real images."""
    run = context.run
    grids = read_grids(run, context.picture_bytes)
    if grids is None:
        return None
    rows = run.classes[:MAX_ROWS] if run.config.model.conditional else ()
    return Content(
        {"grids": grids, "rows": rows},
        {"epochs": grids.epochs, "pictures": grids.pictures},
    )


def findings_section(context: Context) -> Content:
    """The doctor's findings on the time axis."""
    run, examination = context.run, context.judged[0].examination
    last = max(run.step, 1)
    bars = [
        {
            "occurrence": occurrence,
            # A finding of a single moment is drawn with a visible width.
            "periods": [
                (100 * first / last, max(100 * (end - first) / last, 0.8)) for first, end in occurrence.periods
            ],
        }
        for occurrence in examination.occurrences
    ]
    evaluations = [100 * row["step"] / last for row in run.evaluations if row["step"] <= last]
    sessions = [100 * step / last for step in session_steps(run) if step <= last]
    ticks = [(share, number(last * share / 100)) for share in (0, 25, 50, 75, 100)]
    return Content(
        {
            "bars": bars,
            "evaluations": evaluations,
            "sessions": sessions,
            "ticks": ticks,
            "report": examination.report,
        }
    )


def throughput_section(context: Context) -> Content:
    """Images per second over the run."""
    run = context.run
    speeds = [speed for row in run.rows if (speed := figure(row, "images_per_second")) > 0]
    if not speeds:
        return Content({"summary": {}, "charts": []})
    seconds, spec = training_seconds(run.rows)[-1], chart(THROUGHPUT, "throughput", ["metrics"])
    summary = {
        "median": f"{median(speeds):,.0f} images/s",
        "slowest and fastest line": f"{min(speeds):,.0f} to {max(speeds):,.0f} images/s",
        "training": clock(seconds),
        "images seen": number(figure(run.rows[-1], "images_seen")),
    }
    evaluated = figure(run.evaluations[-1], "seconds") if run.evaluations else 0
    if evaluated > 0:
        summary["up to the last evaluation, evaluations included"] = clock(evaluated)
    return Content({"summary": summary, "charts": [spec]}, {"charts": [spec]})


def sessions_section(context: Context) -> Content:
    """When and where the run trained, and how each session ended."""
    run = context.run
    ends = [*session_steps(run), run.status.step or run.step][: len(run.sessions)]
    rows = [
        {
            "session": session,
            "end": end,
            "ended": "resumed by the next" if i + 1 < len(run.sessions) else describe_status(run),
            "speed": _speed(run.rows, session.from_step, end),
        }
        for i, (session, end) in enumerate(zip(run.sessions, ends, strict=True))
    ]
    return Content({"rows": rows, "changes": _changes(run.sessions)})


def configuration_section(context: Context) -> Content:
    """What differs from the nearest preset, and all settings."""
    config = context.run.config
    return Content({"preset": nearest_preset(config), "settings": all_settings(config)})


def data_section(context: Context) -> Content:
    """The data set, and the environment of the last session."""
    run, data = context.run, {}
    for name in ("name", "source", "file", "sha256", "verified", "fallback"):
        if (value := text(run.data, name)) is not None:
            data[name] = value
    if (count := whole(run.data, "count")) is not None:
        data["training images"] = f"{count:,}"
    if run.spec is not None:
        data["held-out images"] = f"{run.spec.held_out:,}" if run.spec.held_out else "none"
        data["size"] = run.spec.describe_shape()
        names = run.spec.classes
        data["classes"] = "none" if names is None else f"{len(names)}: {', '.join(names)}"[:MAX_TEXT]
        data["judged by"] = run.spec.features
    session = run.sessions[-1] if run.sessions else None
    environment: dict[str, Any] = {}
    if session is not None:
        environment = {"platform": session.platform, "device": session.device_name, "cores": session.cores}
        environment = {name: value for name, value in environment.items() if value is not None} | dict(session.versions)
    return Content({"data": data, "environment": environment})


def chart(spec: ChartSpec, source: str, runs: Sequence[str]) -> dict[str, Any]:
    """A chart as the page's scripts read it.

    Args:
        spec: which figures.
        source: prefix of its id.
        runs: keys of the curves, one for each run; with several, each run has a line.
    """
    labels = {name: name if source == "metrics" else spec.title for name in spec.figures}
    series = [{"curves": key, "figure": name, "label": labels[name]} for key in runs for name in spec.figures]
    return {
        "id": f"{source}-{'-'.join(spec.figures)}".replace("/", "-"),
        "title": spec.title,
        "series": series,
        "log": spec.logarithmic,
        "low": spec.low,
        "high": spec.high,
        "help": spec.help,
    }


def describe_status(run: RecordedRun) -> str:
    """How a run ended, or that it has not."""
    state, reason = run.status.state or "unknown", run.status.reason
    return f"{state}: {reason}" if reason else state


def session_steps(run: RecordedRun) -> list[int]:
    """The steps at which sessions after the first one began."""
    return [session.from_step for session in run.sessions[1:]]


def clock(seconds: float) -> str:
    """A duration: 12 s, 3 min 20 s, 2 h 05 min."""
    if not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _speed(rows: Sequence[Row], first: int, last: int) -> str:
    speeds = [figure(row, "images_per_second") for row in rows if first < row["step"] <= last]
    speeds = [speed for speed in speeds if speed > 0]
    return f"{median(speeds):,.0f}" if speeds else "-"


def _changes(sessions: Sequence[Session]) -> list[str]:
    """What differs between successive sessions, one line each."""
    found = []
    for number_, (a, b) in enumerate(pairwise(sessions), 2):
        before = {"host": a.host, "processes": a.processes, "device": a.device, "precision": a.mixed_precision}
        after = {"host": b.host, "processes": b.processes, "device": b.device, "precision": b.mixed_precision}
        before, after = before | dict(a.versions), after | dict(b.versions)
        changed = [
            f"{name} {before[name]} → {after[name]}"
            for name in after
            if before.get(name, ...) not in (after[name], ...)
        ]
        if changed:
            found.append(f"session {number_}: {', '.join(changed)}")
    return found
