"""What a run does now, and how long it will take, from its records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from gan_dist.config.cadence import at_most
from gan_dist.evaluation.history import Row, figure
from gan_dist.outputs.records import MAX_STEP
from gan_dist.results.recorded import RecordedRun, whole
from gan_dist.results.report.curves import training_seconds
from gan_dist.results.verdict import Tone

RECENT = 20  # lines of metrics.jsonl whose median speed is the speed now
MAX_BETWEEN = 10_000  # lines between two evaluations that are read
SILENT_SECONDS = 60.0  # after which the age of the latest line is shown, if the run trains
STATE_TONES: Mapping[str, Tone] = {"running": "good", "finished": "good", "stopped": "caution", "failed": "bad"}


@dataclass(frozen=True)
class RunState:
    """What a run does."""

    description: str
    tone: Tone
    is_training: bool
    step: int
    total_steps: int | None
    """None: not known yet."""
    images_per_second: float
    """NaN: not known yet."""
    seconds_left: float
    """Until the end of the run, evaluations included; NaN if it is unknown, or the run does not train."""


def state_of(run: RecordedRun, is_held: bool | None) -> RunState:
    """What a run does.

    Args:
        run: its records.
        is_held: whether a process holds the run folder; None: unknown.
    """
    state, reason = run.status.state or "unknown state", run.status.reason
    tone, training = STATE_TONES.get(state, "unknown"), state == "running" and is_held is not False
    description = f"{state}: {reason}" if reason else state
    if state == "running" and is_held is False:
        description, tone = "its process is gone; the same command resumes it", "bad"
    elif state == "running" and is_held is None:
        description, tone = "running, as far as can be seen from this host", "unknown"
    elif is_held and state in ("stopped", "failed"):
        description += "; a process uses the folder again"
    speeds = [speed for row in run.rows[-RECENT:] if (speed := figure(row, "images_per_second")) > 0]
    speed, total = median(speeds) if speeds else math.nan, total_steps(run)
    return RunState(
        description,
        tone,
        training,
        # While it trains, status.json has the step of the latest checkpoint.
        max(run.step, run.status.step or 0) if training else run.status.step or run.step,
        total,
        speed,
        _seconds_left(run, total, speed) if training and total is not None else math.nan,
    )


def total_steps(run: RecordedRun) -> int | None:
    """The steps of the whole run; None if the number of images in an epoch is not known yet."""
    train, images = run.config.train, epoch_images(run)
    if images is None:
        return train.steps
    steps = -(-train.epochs * images // train.batch_size)  # rounded up
    return min(steps, train.steps or steps)


def epoch_images(run: RecordedRun) -> int | None:
    """Images in an epoch, as the latest line of metrics.jsonl or environment.json tell; None if neither does."""
    if run.rows:
        seen, epoch = figure(run.rows[-1], "images_seen"), figure(run.rows[-1], "epoch")
        if epoch > 0 and 1 <= seen / epoch <= MAX_STEP:
            return round(seen / epoch)
    return whole(run.data, "count") or None


def _seconds_left(run: RecordedRun, total: int, speed: float) -> float:
    """Seconds until the end: the images that are left at the current speed, and the evaluations that are due."""
    images = epoch_images(run)
    if images is None or not run.rows or math.isnan(speed):
        return math.nan
    left = max(total - run.step, 0) * run.config.train.batch_size / speed
    every = run.config.evaluate.every_epochs
    if every is None or math.isinf(left):
        return left
    size = run.config.train.batch_size
    done, due = (step * size // images // every for step in (run.step, total))
    evaluations = at_most(max(due - done, 0), left, run.config.evaluate.every_seconds)
    return left + evaluations * _evaluation_seconds(run.rows, run.evaluations)


def _evaluation_seconds(rows: Sequence[Row], evaluations: Sequence[Row]) -> float:
    """Seconds that the latest evaluation took: those since the one before, without those of training. 0 if unknown."""
    if not evaluations:
        return 0.0
    last, before = evaluations[-1], evaluations[-2] if len(evaluations) > 1 else {"step": 0, "seconds": 0.0}
    between = [row for row in rows[-MAX_BETWEEN:] if before["step"] <= row["step"] <= last["step"]]
    # The first line of all covers the steps since the beginning of the run, any other one those since the one before.
    trained = training_seconds(between)
    training = trained[-1] - (trained[0] if before["step"] else 0.0) if trained else 0.0
    seconds = figure(last, "seconds") - figure(before, "seconds") - training
    return seconds if seconds > 0 and math.isfinite(seconds) else 0.0
