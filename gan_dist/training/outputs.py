"""What a run leaves behind, and when: at its beginning, after some of its steps, at its end."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from torch import Tensor

from gan_dist.config import TrainingFailed, to_dict
from gan_dist.data.dataset import ResidentImages, epoch_order
from gan_dist.files import write_json
from gan_dist.run.console import Progress
from gan_dist.run.curves import draw_curves
from gan_dist.run.folder import timestamp
from gan_dist.run.launcher import describe_machine
from gan_dist.run.records import StepLines, read_floor, read_json_lines, read_optional_json
from gan_dist.run.samples import COUNT, draw_panel, save_grid, save_samples
from gan_dist.training.checkup import consult
from gan_dist.training.saving import checkpoint_bytes, tensors_of
from gan_dist.training.state import Run
from gan_dist.training.update import Update


def begin(run: Run, wandb_id: str | None) -> None:
    """Open the run's folder and its dashboard, show what is going to happen. Rank 0 only.

    Raises:
        TrainingFailed: the folder has no room for the run.
    """
    folder, console = run.folder, run.console
    networks = [run.gan.generator_update.network, run.gan.discriminator_update.network]
    weights = sum(p.numel() for network in networks for p in network.parameters())
    folder.check_usable(needed_bytes=2 * checkpoint_bytes(networks) + 2**20)
    earlier, problem = read_optional_json(folder.environment)
    if problem:
        aside = folder.environment.with_name(f"{folder.environment.name}.damaged")
        folder.environment.replace(aside)
        console.announce(f"{folder.environment} {problem}; it is now {aside.name}, and a new one is written")
    sent = logged_through(run, earlier)
    go_back_to(run, run.step)
    folder.remove_unfinished()
    write_json(folder.config, to_dict(run.config))
    real = ResidentImages(run.images.images)
    first = epoch_order(len(real), run.config.train.seed, 0, run.images.stack)[:COUNT]
    save_grid(real.__getitems__(first), folder.real_samples)
    run.wandb.start(to_dict(run.config), wandb_id, sent)
    if run.step:
        console.announce(f"going on after step {run.step:,}, from {folder.checkpoints}")
    session = {
        "run_id": run.run_id,
        "started": timestamp(),
        "from_step": run.step,
        **describe_machine(run.accelerator),
        "data": run.images.provenance.to_dict(),
        "wandb": run.wandb.describe(),
    }
    sessions = earlier.pop("earlier_sessions", [])
    history = [*(sessions if isinstance(sessions, list) else []), earlier] if earlier else []
    write_json(folder.environment, session | {"earlier_sessions": history})
    folder.write_status("running", run.step)
    data = run.images.provenance
    console.table(
        "gan_dist",
        {
            "run folder": folder.path,
            "data": f"{data.name}, {data.count:,} images ({data.source}; {data.verified} verified)",
            "networks": f"{run.config.model.architecture}, {weights:,} weights",
            "batch size": f"{run.config.train.batch_size} over {session['processes']} process(es)",
            "device": f"{session['device']}, {session['mixed_precision']} mixed precision, "
            f"{session['threads_per_process']} thread(s) a process",
            "steps": f"{run.step:,} done of {run.schedule.total_steps:,}, "
            f"{run.schedule.epoch(run.schedule.total_steps):.4g} epochs",
            "W&B": run.wandb.mode,
        },
    )


def logged_through(run: Run, earlier: Mapping[str, Any]) -> int:
    """The last step that the dashboard was sent, as far as the run's files tell."""
    tracking = earlier.get("wandb")
    noted = tracking.get("logged_through") if isinstance(tracking, dict) else None
    steps = [row["step"] for row in StepLines(run.folder.metrics).read().rows]
    return max([*steps, noted if isinstance(noted, int) else 0])


def go_back_to(run: Run, step: int) -> None:
    """Take out of the run's files the lines of later steps, which it is going to write again. Rank 0 only.

    Also the line that an end of the run put inside an open log window: the line at the window's end covers its steps.
    """
    files = [StepLines(file) for file in (run.folder.metrics, run.folder.evaluations, run.folder.hashes)]
    found = [lines.read() for lines in files]  # all are read before one is rewritten
    kept = [[row for row in read.rows if row["step"] <= step] for read in found]
    if kept[0] and kept[0][-1]["step"] == step and run.meter.is_open:
        kept[0].pop()
    for lines, read, rows in zip(files, found, kept, strict=True):
        lines.rewrite(read, rows, run.console.announce)
    run.rows, run.evaluations = kept[0], kept[1]
    run.floor = read_floor(run.folder.floor)


def log(run: Run) -> None:
    """Write a log point everywhere. A collective: the means are over all ranks."""
    means = run.meter.means()
    step = run.step
    if run.schedule.ends_window(step):
        run.meter.close_window()
    if not run.writes:
        return
    row = {
        "step": step,
        "epoch": run.schedule.epoch(step),
        "images_seen": run.schedule.images_seen(step),
        "images_per_second": run.timing.log(step) * run.config.train.batch_size,
        **means,
        "gradient/discriminator": gradient_norm(run.gan.discriminator_update),
        "gradient/generator": gradient_norm(run.gan.generator_update),
    }
    if run.config.train.on_nonfinite == "skip":
        row["updates_skipped"] = run.updates_skipped
    run.rows.append(row)
    run.disk.now(lambda: StepLines(run.folder.metrics).append(row))
    run.wandb.log(step, row | {"doctor/findings": consult(run)})
    run.console.progress(row)


def progress(run: Run) -> Progress:
    """Where a run stands. Cheap, and for any thread: the console asks while the training goes on."""
    step, schedule, pace = run.step, run.schedule, run.timing.pace(run.step)
    if pace is None:
        return Progress(step, schedule.epoch(step))
    evaluations = schedule.evaluations_after(step) * run.timing.last_evaluation
    seconds_left = (schedule.total_steps - step) / pace + evaluations
    return Progress(step, schedule.epoch(step), pace * run.config.train.batch_size, seconds_left)


def gradient_norm(update: Update) -> float | None:
    """The norm of a network's last gradient, of the global batch: the same on every rank. None if it is not finite.

    With a GradScaler too: the step of a fused optimizer has divided the gradient by the scale.
    """
    # numpy's sum: the same bits with any number of threads
    square = np.square(update.gradients[0].cpu().numpy(), dtype=np.float64).sum()
    return float(np.sqrt(square)) if np.isfinite(square) else None


def log_hashes(run: Run) -> None:
    """Write down what every weight and every number of the optimizers is. A collective: all ranks must agree."""
    hashes = {
        f"{group}/{name}": fingerprint(tensor)
        for group, tensors in tensors_of(run).items()
        for name, tensor in tensors.items()
    }
    everyones = gather_object([hashes])
    if run.writes:
        differ = sorted(name for name in hashes if len({others[name] for others in everyones}) > 1)
        line = {"step": run.step, "ranks_differ": differ, "hashes": hashes}
        run.disk.now(lambda: StepLines(run.folder.hashes).append(line))


def sample(run: Run) -> None:
    """Save the epoch's grid of images of the fixed latents. Rank 0 only."""
    file = run.folder.epoch_samples(run.schedule.epochs_completed(run.step))
    try:
        save_samples(run.ema.network, run.fixed_latents, file)
    except OSError as error:  # a picture can be made again from a checkpoint: the run goes on without
        run.console.announce(f"{file} can't be written ({error.strerror or error})")
    else:
        run.wandb.log_samples(run.step, file)


def conclude(run: Run, state: str, stopped_by: str) -> None:
    """End a run whose training is over. Rank 0 only.

    Args:
        state: finished, stopped or failed.
        stopped_by: who asked to stop, if somebody did.

    Raises:
        TrainingFailed: the disk refused something.
    """
    run.disk.wait()
    if run.disk.error is not None:
        refused = run.disk.error.strerror or str(run.disk.error)
        with contextlib.suppress(OSError):
            end(run, "failed", refused)
        raise TrainingFailed(
            f"run.dir={run.folder.path} can't be written any more ({refused}); make room or fix the disk, "
            "and the same command goes on from the newest checkpoint"
        )
    if state == "failed":
        end(run, state, reason_of_failure(run))
    else:
        end(run, state, f"{run.schedule.epoch(run.step):.4g} epochs done" if state == "finished" else stopped_by)


def reason_of_failure(run: Run) -> str:
    """Why the run ends and what to do, where `run.failure` is set."""
    assert run.failure is not None
    tries = f" after {len(run.rollbacks)} rollback(s)" if run.rollbacks else ""
    saved = f"the state after step {run.step:,} is saved and the same command goes on from it" if run.step else ""
    beyond = "--train.on-nonfinite skip leaves such updates out"
    return f"{run.failure.describe()}{tries}; {saved or 'nothing was saved before it'}; {beyond}"


def end(run: Run, state: str, reason: str) -> None:
    """Say how the run ended, flush the dashboard, draw the pictures. Rank 0 only.

    Args:
        state: finished, stopped or failed.
        reason: why, in one line.
    """
    folder, console = run.folder, run.console
    console.end()
    run.disk.wait()
    seconds, evaluating = run.timing.seconds(), run.timing.evaluating
    folder.write_status(state, run.step, reason)
    run.wandb.finish(exit_code=1 if state == "failed" else 0)
    rows = read_json_lines(folder.metrics)
    summary = {
        "state": state,
        "reason": reason,
        "step": run.step,
        "epoch": run.schedule.epoch(run.step),
        "images_seen": run.schedule.images_seen(run.step),
        "seconds": seconds,
        "evaluating_seconds": evaluating,
        "images_per_second": run.schedule.images_seen(run.step) / (seconds - evaluating),
        **{name: value for name, value in (rows[-1] if rows else {}).items() if name in run.meter.names},
    }
    write_json(folder.summary, summary)
    for draw in (draw_curves, draw_panel):
        try:
            draw(folder)
        except Exception as error:  # the run is safe already; a picture must not make it a failure
            console.announce(f"{draw.__name__} failed: {error}")
    how_to_go_on = "; the same command goes on" if state == "stopped" else ""
    console.table(
        f"{state}: {reason}{how_to_go_on}",
        {
            "steps": f"{run.step:,} of {run.schedule.total_steps:,}, {summary['epoch']:.2f} epochs",
            "time": f"{seconds:,.0f} s" + (f" (evaluations: {evaluating:,.0f} s)" if evaluating else ""),
            "speed": f"{summary['images_per_second']:,.0f} images/s",
            **{name: f"{summary[name]:.3f}" for name in run.meter.names if summary.get(name) is not None},
            "samples": folder.samples,
            "panel": folder.panel,
            "curves": folder.curves,
            "generator": folder.generator,
            "checkpoints": folder.checkpoints,
        },
    )
    if seen := run.profile.end():
        console.table(f"where the time of {run.profile.steps:,} steps went", seen)


def fingerprint(tensor: Tensor) -> str:
    """What tells a tensor from every other one, to the last bit."""
    return hashlib.sha256(tensor.detach().cpu().numpy().tobytes()).hexdigest()[:16]
