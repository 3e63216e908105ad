"""The beginning and end of a session: run folder, tracker, console."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gan_dist.config import Config, TrainingFailed, to_dict
from gan_dist.config.derived import describe_derived
from gan_dist.data.order import epoch_order
from gan_dist.data.store import DeviceStore
from gan_dist.distributed.machine import describe_machine
from gan_dist.files import write_json
from gan_dist.models.cost import count_weights
from gan_dist.outputs.curves import draw_curves
from gan_dist.outputs.folder import timestamp
from gan_dist.outputs.pictures import COUNT, draw_panel, first_of_classes, save_grid
from gan_dist.outputs.records import StepLines, read_floor, read_json_lines, read_optional_json
from gan_dist.trainer import tracking
from gan_dist.trainer.checkpointing import checkpoint_bytes
from gan_dist.trainer.state import Trainer

Report = Callable[[Path], str]


def begin(trainer: Trainer, tracker_ids: Mapping[str, str]) -> None:
    """Prepare the run folder, start the tracker and show a summary of the run. Rank 0 only.

    Args:
        trainer: in the state from which the session starts.
        tracker_ids: `Tracker.ids` of the earlier sessions.

    Raises:
        TrainingFailed: the disk has too little space for the run.
    """
    folder, console = trainer.folder, trainer.console
    networks = [trainer.gan.generator_update.network, trainer.gan.discriminator_update.network]
    weights = sum(map(count_weights, networks))
    folder.check_usable(needed_bytes=2 * checkpoint_bytes(networks) + 2**20)
    earlier, problem = read_optional_json(folder.environment)
    if problem:
        aside = folder.environment.with_name(f"{folder.environment.name}.damaged")
        folder.environment.replace(aside)
        console.announce(f"{folder.environment} {problem}; it was renamed to {aside.name} and replaced")
    sent = logged_through(trainer, earlier)
    truncate_records(trainer, trainer.step)
    folder.remove_unfinished()
    write_json(folder.config, to_dict(trainer.config))
    images = trainer.images
    save_grid(first_real_images(trainer), folder.real_samples)
    trainer.tracker.start(tracking.describe_run(trainer), tracker_ids, sent)
    tracking.log_earlier(trainer)
    if trainer.step:
        console.announce(f"resuming after step {trainer.step:,} from {folder.checkpoints}")
    session = {
        "run_id": trainer.run_id,
        "started": timestamp(),
        "from_step": trainer.step,
        **describe_machine(trainer.accelerator, trainer.devices),
        "gradients": trainer.gradients,
        "captured": trainer.captured,
        "data": images.provenance.to_dict() | {"spec": images.spec.to_dict(), "ranks": trainer.images_access},
        "trackers": trainer.tracker.describe(),
    }
    session["numerics"]["channels_last"] = trainer.config.train.channels_last
    sessions = earlier.pop("earlier_sessions", [])
    history = [*(sessions if isinstance(sessions, list) else []), earlier] if earlier else []
    write_json(folder.environment, session | {"earlier_sessions": history})
    folder.write_status("running", trainer.step)
    data = images.provenance
    console.table(
        "gan_dist",
        {
            "run folder": folder.path,
            "data": f"{data.name}, {data.count:,} images ({data.source}; {data.verified} verified)",
            "images": images.spec.describe_shape(),
            "classes": describe_classes(trainer),
            "networks": f"{trainer.config.model.architecture}, {weights:,} weights",
            **describe_augmentation(trainer.config),
            "batch size": f"{trainer.config.train.batch_size} over {session['processes']} process(es)",
            "device": f"{session['device']}, {session['mixed_precision']} mixed precision, "
            f"{session['threads_per_process']} thread(s) per process",
            "steps": f"{trainer.step:,} done of {trainer.schedule.total_steps:,}, "
            f"{trainer.schedule.epoch(trainer.schedule.total_steps):.4g} epochs",
            "tracking": describe_tracking(trainer),
            **describe_derived(trainer.derived),
        },
    )


def first_real_images(trainer: Trainer) -> Tensor:
    """The first images of the run, (n, C, H, W) in [-1, 1], in the layout of the sample grids."""
    images, conditional = trainer.images, trainer.fixed_labels is not None
    order = epoch_order(len(images.images), trainer.config.train.seed, 0, images.stack)
    if conditional:
        assert images.labels is not None
        assert images.spec.classes is not None
        order = order[first_of_classes(images.labels[order], len(images.spec.classes))]
    else:
        order = order[:COUNT]
    return DeviceStore(images, torch.device("cpu")).__getitems__(order).result().images


def describe_classes(trainer: Trainer) -> str:
    """The classes of the data, and whether the networks see them."""
    names = trainer.images.spec.classes
    if names is None:
        return "none"
    if not trainer.config.model.conditional:
        return f"{len(names)}, not used (--model.labels conditional trains with them)"
    return f"{len(names)}, {trainer.config.model.labels}; labels of generated images {trainer.config.train.fake_labels}"


def describe_augmentation(config: Config) -> dict[str, str]:
    """A row of the table, if there is an augmentation."""
    augment = config.augment
    if not augment.on:
        return {}
    steered = "" if augment.target is None else f" at first, steered to augment/overfitting {augment.target:g}"
    return {"augmentation": f"{', '.join(augment.names)}, each with probability {augment.probability:g}{steered}"}


def describe_tracking(trainer: Trainer) -> str:
    """The trackers and how they send, such as "wandb online"."""
    modes = {name: entry["mode"] for name, entry in trainer.tracker.describe().items()}
    return ", ".join(f"{name} {mode}" for name, mode in modes.items()) or "off"


def logged_through(trainer: Trainer, earlier: Mapping[str, Any]) -> int:
    """The last step that the trackers have received, according to the run folder."""
    trackers = earlier.get("trackers")
    entries = list(trackers.values()) if isinstance(trackers, dict) else [earlier.get("wandb")]  # earlier versions
    noted = [entry.get("logged_through") for entry in entries if isinstance(entry, dict)]
    steps = [row["step"] for row in StepLines(trainer.folder.metrics).read().rows]
    return max([0, *steps, *(step for step in noted if isinstance(step, int))])


def truncate_records(trainer: Trainer, step: int) -> None:
    """Remove the lines of later steps from the run folder; the trainer writes them again. Rank 0 only.

    Also removes the line that the end of a session wrote inside an open log window: the line at the end of that window
    covers its steps.
    """
    files = [StepLines(file) for file in (trainer.folder.metrics, trainer.folder.evaluations, trainer.folder.hashes)]
    found = [lines.read() for lines in files]  # read all before rewriting any
    kept = [[row for row in read.rows if row["step"] <= step] for read in found]
    if kept[0] and kept[0][-1]["step"] == step and trainer.meter.is_open:
        kept[0].pop()
    for lines, read, rows in zip(files, found, kept, strict=True):
        lines.rewrite(read, rows, trainer.console.announce)
    trainer.rows, trainer.evaluations = kept[0], kept[1]
    trainer.floor = read_floor(trainer.folder.floor)


def conclude(trainer: Trainer, state: str, stopped_by: str, report: Report | None = None) -> None:
    """End a session. Rank 0 only.

    Args:
        state: finished, stopped or failed.
        stopped_by: the reason, if it was stopped.
        report: see `tracking.log_pictures`.

    Raises:
        TrainingFailed: a write to the disk failed.
    """
    trainer.writer.wait()
    if trainer.writer.error is not None:
        reason = trainer.writer.error.strerror or str(trainer.writer.error)
        with contextlib.suppress(OSError):
            end(trainer, "failed", reason)
        raise TrainingFailed(
            f"run.dir={trainer.folder.path} is not writable any more ({reason}); free space or fix the disk, "
            "then the same command continues from the latest checkpoint"
        )
    if state == "failed":
        reason = reason_of_failure(trainer)
    elif state == "finished":
        reason = f"{trainer.schedule.epoch(trainer.step):.4g} epochs done"
    else:
        reason = stopped_by
    end(trainer, state, reason, report)


def reason_of_failure(trainer: Trainer) -> str:
    """Why a run with `trainer.failure` ends, and what to do."""
    assert trainer.failure is not None
    tries = f" after {len(trainer.rollbacks)} rollback(s)" if trainer.rollbacks else ""
    saved = "no earlier state was saved"
    if trainer.step:
        saved = f"the state after step {trainer.step:,} is saved and the same command continues from it"
    return f"{trainer.failure.describe()}{tries}; {saved}; --train.on-nonfinite skip skips such updates"


def end(trainer: Trainer, state: str, reason: str, report: Report | None = None) -> None:
    """Record how the session ended, finish the tracker and draw the curves and the panel. Rank 0 only.

    Args:
        state: finished, stopped or failed.
        reason: why, in one line.
        report: see `tracking.log_pictures`.
    """
    folder, console = trainer.folder, trainer.console
    console.end()
    trainer.writer.wait()
    seconds, evaluating = trainer.timing.seconds(), trainer.timing.evaluating
    folder.write_status(state, trainer.step, reason)
    if state != "finished":  # a launcher may not wait for long: first what only the tracker has
        tracking.log_end(trainer)
        trainer.tracker.finish(exit_code=1 if state == "failed" else 0)
    rows = read_json_lines(folder.metrics)
    summary = {
        "state": state,
        "reason": reason,
        "step": trainer.step,
        "epoch": trainer.schedule.epoch(trainer.step),
        "images_seen": trainer.schedule.images_seen(trainer.step),
        "seconds": seconds,
        "evaluating_seconds": evaluating,
        "images_per_second": trainer.schedule.images_seen(trainer.step) / (seconds - evaluating),
        **{name: value for name, value in (rows[-1] if rows else {}).items() if name in trainer.meter.names},
    }
    write_json(folder.summary, summary)
    for draw in (draw_curves, draw_panel):
        try:
            draw(folder)
        except Exception as error:  # the run is saved already; a missing picture is no failure
            console.announce(f"{draw.__name__} failed: {error}")
    if state == "finished":
        try:
            tracking.log_pictures(trainer, report)
        except Exception as error:
            console.announce(f"the report for the trackers failed: {error}")
        tracking.log_end(trainer)
        trainer.tracker.finish(exit_code=0)
    how_to_resume = "; the same command resumes it" if state == "stopped" else ""
    console.table(
        f"{state}: {reason}{how_to_resume}",
        {
            "steps": f"{trainer.step:,} of {trainer.schedule.total_steps:,}, {summary['epoch']:.2f} epochs",
            "time": f"{seconds:,.0f} s" + (f" (evaluations: {evaluating:,.0f} s)" if evaluating else ""),
            "speed": f"{summary['images_per_second']:,.0f} images/s",
            **{name: f"{summary[name]:.3f}" for name in trainer.meter.names if summary.get(name) is not None},
            "samples": folder.samples,
            "panel": folder.panel,
            "curves": folder.curves,
            "generator": folder.generator,
            "checkpoints": folder.checkpoints,
        },
    )
    if seen := trainer.profiler.end():
        console.table(f"time per step, over {trainer.profiler.steps:,} steps", seen)
