"""What a run sends to its trackers. Rank 0 only; nothing here waits for a dashboard.

docs/tracking.md lists the keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gan_dist.config import package_version, to_dict
from gan_dist.config.nearest_preset import nearest_preset_name
from gan_dist.models.cost import count_weights
from gan_dist.outputs.records import Row, is_number
from gan_dist.outputs.trackers.media import Dataset, Lines, Model, Page, Table, count_values
from gan_dist.outputs.trackers.protocol import Values
from gan_dist.trainer.state import FindingEvent, Trainer

BINS = 64  # of the histograms
_OF_A_CLASS = re.compile(r"/\d+(/|$)")  # such as classes/3 and within/3/diversity


def describe_run(trainer: Trainer) -> dict[str, Any]:
    """The configuration, and beside it what runs are filtered and grouped by."""
    networks = trainer.gan.generator_update.network, trainer.gan.discriminator_update.network
    return to_dict(trainer.config) | {
        "preset": nearest_preset_name(trainer.config),
        "data_name": trainer.images.provenance.name,
        "data_sha256": trainer.images.provenance.sha256,
        "data_images": trainer.images.provenance.count,
        "architecture": trainer.config.model.architecture,
        "weights": sum(map(count_weights, networks)),
        "processes": trainer.accelerator.num_processes,
        "device": trainer.accelerator.device.type,
        "run_id": trainer.run_id,
        "gan_dist": package_version(),
    }


def log_earlier(trainer: Trainer) -> None:
    """Send what a tracker lacks of the steps before this session: it is new, or lost the end of a killed session."""
    tracker, folder, schedule = trainer.tracker, trainer.folder, trainer.schedule
    tracker.log_picture(0, "real images", folder.real_samples, "real images")
    tracker.log_earlier([(row["step"], figures_of_steps(trainer, row)) for row in trainer.rows])
    tracker.log_earlier([(row["step"], figures_of_evaluation(trainer, row)) for row in trainer.evaluations])
    for epoch in folder.epochs_with_samples():
        if (step := schedule.step_after(epoch)) <= trainer.step:
            tracker.log_picture(step, "samples", folder.epoch_samples(epoch), _caption(epoch, step))


def log_samples(trainer: Trainer, file: Path, step: int) -> None:
    """Send the sample grid of a step. Called in the thread of the writer."""
    epoch = trainer.schedule.epochs_completed(step)
    trainer.tracker.log_picture(step, "samples", file, _caption(epoch, step))


def figures_of_steps(trainer: Trainer, row: Row) -> Values:
    """A line of metrics.jsonl, and the hyperparameters of its step."""
    step, schedule, config = row["step"], trainer.schedule, trainer.config
    rate, factor = schedule.learning_rate(step), schedule.penalty_factor(step)
    gammas = {"r1": config.penalty.r1, "r2": config.penalty.r2}
    return {
        **row,
        "learning_rate/discriminator": rate,
        "learning_rate/generator": rate * config.optimizer.generator_factor,
        **{f"gamma/{name}": gamma * factor for name, gamma in gammas.items() if gamma},
    }


def figures_of_evaluation(trainer: Trainer, row: Row) -> Values:
    """A line of evaluations.jsonl, with the intervals and the figures of real images as further series."""
    intervals = {name: _interval(row, name) for name in row}
    known = {name: interval for name, interval in intervals.items() if interval is not None}
    return {
        **{name: value for name, value in row.items() if name != "intervals"},
        **{f"interval_low/{name}": low for name, (low, _) in known.items()},
        **{f"interval_high/{name}": high for name, (_, high) in known.items()},
        **{f"real_images/{name}": value for name, value in trainer.floor.items() if name in row},
    }


def log_evaluation(trainer: Trainer, row: Row) -> None:
    """Send an evaluation: its figures and the histograms of D's logits."""
    step, tracker = row["step"], trainer.tracker
    tracker.log(step, figures_of_evaluation(trainer, row))
    logits = trainer.evaluator.logits
    if logits:
        finite = [value for values in logits.values() for value in values.tolist() if abs(value) < float("inf")]
        bounds = (min(finite, default=0.0), max(finite, default=1.0))
        for name, values in logits.items():
            tracker.log_media(step, f"logits/{name}", count_values(values, *bounds, BINS))


def log_finding(trainer: Trainer, event: FindingEvent) -> None:
    """Alert those who watch the run if a finding is new, and keep it for the table at the end."""
    if event.state == "found":
        text = f"step {event.step:,}: {event.evidence}; {event.advice}"
        trainer.tracker.alert(trainer.step, event.finding, text)
    trainer.finding_events.append(event)


def log_pictures(trainer: Trainer, report: Callable[[Path], str] | None) -> None:
    """Send what belongs to a run that is finished.

    Args:
        trainer: after its last step; the run folder is complete.
        report: run folder -> the report as HTML; None: there is none.
    """
    tracker, folder, step = trainer.tracker, trainer.folder, trainer.step
    for name, picture in {"panel": folder.panel, "curves": folder.curves}.items():
        if picture.exists():
            tracker.log_picture(step, name, picture, name, final=True)
    if report is not None and tracker.accepts(Page):
        tracker.log_media(step, "report", Page(report(folder.path)), final=True)


def log_end(trainer: Trainer) -> None:
    """Send what a session ends with: charts of the evaluations, the table of findings, the data set and the generators.

    These are the last calls, since W&B makes requests for them which its server may refuse or not answer.
    """
    tracker, step = trainer.tracker, trainer.step
    latest = trainer.evaluations[-1] if trainer.evaluations else {}
    for name in latest:
        if _interval(latest, name) is not None and not _OF_A_CLASS.search(name):
            tracker.log_media(step, f"evaluation/{name}", _chart(trainer, name), final=True)
    if trainer.finding_events:
        table = Table(FindingEvent._fields, [tuple(event) for event in trainer.finding_events])
        tracker.log_media(step, "doctor/table", table, final=True)
    folder, run = trainer.folder, describe_run(trainer)
    origin = {name: run[name] for name in ("preset", "data_name", "data_sha256", "architecture", "run_id", "gan_dist")}
    dataset = Dataset(run["data_name"], {name: run[name] for name in ("data_sha256", "data_images")})
    tracker.log_media(step, "data", dataset, final=True)
    if trainer.best is not None and folder.best_generator.exists():
        measured = {"step": trainer.best.step, "distance/frechet": trainer.best.distance}
        tracker.log_media(step, "generator", Model(folder.best_generator, "best", origin | measured), final=True)
    if folder.generator.exists():
        tracker.log_media(step, "generator", Model(folder.generator, "latest", origin | {"step": step}), final=True)


def _caption(epoch: int, step: int) -> str:
    return f"epoch {epoch:,}, step {step:,}"


def _chart(trainer: Trainer, name: str) -> Lines:
    """A figure with its interval over the evaluations so far, and that of real images."""
    found = [(row, interval) for row in trainer.evaluations if (interval := _interval(row, name)) is not None]
    lines = {
        "generated images": [row[name] for row, _ in found],
        "interval, low": [low for _, (low, _) in found],
        "interval, high": [high for _, (_, high) in found],
    }
    if name in trainer.floor:
        lines["real images"] = [trainer.floor[name]] * len(found)
    return Lines([row["step"] for row, _ in found], lines)


def _interval(row: Row, name: str) -> tuple[float, float] | None:
    """The interval of a figure of an evaluation, which may have been read from the disk; None if it has none."""
    intervals = row.get("intervals")
    interval = intervals.get(name) if isinstance(intervals, dict) else None
    if not (
        isinstance(interval, list | tuple) and len(interval) == 2 and all(map(is_number, [row.get(name), *interval]))
    ):
        return None
    return interval[0], interval[1]
