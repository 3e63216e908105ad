"""What a run leaves behind, and when: at its beginning, after some of its steps, at its end."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gan_dist.config import Config, InputError, to_dict
from gan_dist.data.dataset import GlobalBatches, ResidentImages, epoch_order
from gan_dist.data.sources import ImageSet
from gan_dist.evaluation.doctor import examine
from gan_dist.models.ema import Average, GeneratorToUse
from gan_dist.run.checkpoint import Checkpoints, optimizer_tensors, save_generator
from gan_dist.run.console import Console
from gan_dist.run.curves import draw_curves
from gan_dist.run.disk import Disk
from gan_dist.run.folder import RunFolder, read_json, read_json_lines, timestamp, write_json
from gan_dist.run.launcher import describe_machine
from gan_dist.run.preemption import StopAgreement
from gan_dist.run.samples import COUNT, draw_panel, save_grid, save_samples
from gan_dist.run.sharedmemory import SharedMemory
from gan_dist.run.tracking import StepLines, WandbTracker
from gan_dist.training.guard import Guard, NotFinite
from gan_dist.training.meter import Meter
from gan_dist.training.pace import Pace
from gan_dist.training.profiling import Profile
from gan_dist.training.quality import Quality
from gan_dist.training.schedule import Schedule
from gan_dist.training.steps import Gan


class Best(NamedTuple):
    step: int
    distance: float


@dataclass
class Run:
    """All that a run consists of. Every rank has one; what writes does so on rank 0 alone."""

    config: Config
    accelerator: Accelerator
    gan: Gan
    ema: GeneratorToUse
    batches: GlobalBatches
    loader: DataLoader[Tensor]
    schedule: Schedule
    pace: Pace
    guard: Guard
    meter: Meter
    stopping: StopAgreement
    memory: SharedMemory | None
    """Where the ranks add their gradients, if they share one."""
    quality: Quality
    disk: Disk
    folder: RunFolder
    checkpoints: Checkpoints
    wandb: WandbTracker
    console: Console
    profile: Profile
    images: ImageSet
    fixed_latents: Tensor
    """(64, latent_dim), those of the sample grids."""
    step: int = 0
    """Completed steps."""
    best: Best | None = None
    """The evaluation with the smallest Fréchet distance so far."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """The lines of metrics.jsonl. Rank 0 only, like the next two."""
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    """Those of evaluations.jsonl."""
    complaints: set[str] = field(default_factory=set)
    """What the doctor found wrong when it was asked last."""
    updates_skipped: int = 0
    """Updates that were left out for NaN or infinity, in the whole run."""
    seconds: float = 0.0
    """Time that the training took before this session."""
    started: float = 0.0
    """This session's start, on time.perf_counter."""
    logged: tuple[int, float] = (0, 0.0)
    """Step and time of the last log point of this session."""
    failure: NotFinite | None = None
    """Why the run ends, as soon as the state before it is saved."""
    last_step: int | None = None
    """The step after which it then ends."""
    rollbacks: list[int] = field(default_factory=list)
    """The steps that this session went back from."""

    @property
    def writes(self) -> bool:
        return self.accelerator.is_main_process

    @property
    def at_its_best(self) -> bool:
        """The newest evaluation, of this step, is the best one."""
        return self.best is not None and self.best.step == self.step

    def seconds_trained(self) -> float:
        """Time that the training took until now, in all sessions."""
        return self.seconds + time.perf_counter() - self.started


def begin(run: Run, wandb_id: str | None) -> None:
    """Open the run's folder and its dashboard, show what is going to happen. Rank 0 only.

    Raises:
        InputError: the folder has no room for the run.
    """
    folder, console = run.folder, run.console
    networks = [run.gan.generator_update.network, run.gan.discriminator_update.network]
    weights = sum(p.numel() for network in networks for p in network.parameters())
    folder.check_usable(needed_bytes=2 * checkpoint_bytes(networks) + 2**20)
    if not folder.path.exists():
        folder.path.mkdir(parents=True)
        folder.lock()
    folder.remove_unfinished()
    write_json(folder.config, to_dict(run.config))
    earlier = read_json(folder.environment) if folder.environment.exists() else {}
    sent = max(StepLines(folder.metrics).last_step(), earlier.get("wandb", {}).get("logged_through", 0))
    go_back_to(run, run.step)
    real = ResidentImages(run.images.images)
    first = epoch_order(len(real), run.config.train.seed, 0, run.images.stack)[:COUNT]
    save_grid(real.__getitems__(first), folder.real_samples)
    run.wandb.start(to_dict(run.config), wandb_id, sent)
    if run.step:
        console.announce(f"going on after step {run.step:,}, from {folder.checkpoints}")
    session = {
        "started": timestamp(),
        "from_step": run.step,
        **describe_machine(run.accelerator),
        "data": run.images.provenance.to_dict(),
        "wandb": run.wandb.describe(),
    }
    history = [*earlier.pop("earlier_sessions", []), earlier] if earlier else []
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


def go_back_to(run: Run, step: int) -> None:
    """Take out of the run's files the lines that it is going to write again. Rank 0 only."""
    StepLines(run.folder.metrics).go_back_to(step, run.config.log.every_steps)
    if run.folder.evaluations.exists():
        StepLines(run.folder.evaluations).go_back_to(step)
    if run.config.train.log_hashes is not None:
        StepLines(run.folder.hashes).go_back_to(step, run.config.train.log_hashes)
    run.rows, run.evaluations = read_json_lines(run.folder.metrics), read_json_lines(run.folder.evaluations)


def log(run: Run) -> None:
    """Write a log point everywhere. A collective: the means are over all ranks."""
    means = run.meter.means()
    if not run.writes:
        return
    step, now = run.step, time.perf_counter()
    images = run.schedule.images_seen(step - run.logged[0])
    row = {
        "step": step,
        "epoch": run.schedule.epoch(step),
        "images_seen": run.schedule.images_seen(step),
        "images_per_second": images / (now - run.logged[1]),
        **means,
        **gradient_norms(run),
    }
    if run.config.train.on_nonfinite == "skip":
        row["updates_skipped"] = run.updates_skipped
    run.logged = (step, now)
    run.rows.append(row)
    run.disk.now(lambda: StepLines(run.folder.metrics).append(row))
    run.wandb.log(step, row | {"doctor/findings": consult(run)})
    run.console.progress(row, run.schedule.total_steps, run.schedule.epoch(run.schedule.total_steps))


def consult(run: Run) -> int:
    """Ask the doctor how the run does, and say what is new. Rank 0 only.

    Returns:
        How many things are wrong.
    """
    findings = {found.name: found for found in examine(run.rows, run.evaluations, run.config, run.quality.floor)}
    for name, finding in findings.items():
        if name not in run.complaints:
            run.console.announce(f"doctor, step {finding.step:,}: {name}: {finding.evidence}; {finding.advice}")
            run.wandb.alert(name, f"step {finding.step:,}: {finding.evidence}; {finding.advice}")
    for name in run.complaints - findings.keys():
        run.console.announce(f"doctor, step {run.step:,}: no more {name}")
    run.complaints = set(findings)
    return len(findings)


def gradient_norms(run: Run) -> dict[str, float]:
    """The norm of each network's last gradient, of the global batch: the same on every rank."""
    scaler = run.accelerator.scaler
    scale = scaler.get_scale() if scaler is not None else 1.0
    updates = {"discriminator": run.gan.discriminator_update, "generator": run.gan.generator_update}
    norms = {}
    for name, update in updates.items():
        squares = np.square(update.gradients[0].cpu().numpy())
        # numpy's sum: the same bits with any number of threads
        norms[f"gradient/{name}"] = float(np.sqrt(squares.sum(dtype=np.float64))) / scale
    return norms


def log_hashes(run: Run) -> None:
    """Write down what every weight and every number of the optimizers is. A collective: all ranks must agree."""
    hashes = {
        f"{group}/{name}": fingerprint(tensor)
        for group, tensors in tensors_of(run.gan, run.ema).items()
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


def evaluate(run: Run) -> None:
    """Measure how good the generator is, and note if it is better than ever. A collective: all ranks work on it."""
    began = time.perf_counter()
    measured = run.quality.measure(run.ema.network, run.gan.discriminator_update.in_full)
    step, logged = run.logged
    run.logged = (step, logged + time.perf_counter() - began)  # it is no part of the training's speed
    if measured is None:
        return
    distance = measured["distance/frechet"]
    if run.best is None or distance < run.best.distance:
        run.best = Best(run.step, distance)
    if not run.writes:
        return
    row = {
        "step": run.step,
        "epoch": run.schedule.epoch(run.step),
        "images_seen": run.schedule.images_seen(run.step),
        "seconds": run.seconds_trained(),
        **measured,
    }
    run.evaluations.append(row)
    run.disk.now(lambda: StepLines(run.folder.evaluations).append(row))
    run.disk.now(lambda: write_json(run.folder.floor, run.quality.floor))
    run.wandb.log(run.step, {name: value for name, value in row.items() if name != "intervals"})
    low, high = row["intervals"]["distance/frechet"]
    run.console.announce(
        f"epoch {row['epoch']:.4g}: Fréchet distance {distance:.2f} ({low:.2f} to {high:.2f}; real images "
        f"{run.quality.floor['distance/frechet']:.2f}), precision {row['precision']:.3f}, recall {row['recall']:.3f}"
    )


def checkpoint(run: Run) -> None:
    """Save all that the run needs to go on. A collective: the figures of the open window are every rank's.

    The tensors are copied, and written beside the training.
    """
    window = run.meter.state()
    if not run.writes:
        return
    scaler = run.accelerator.scaler
    tensors = {
        group: {name: tensor.detach().to("cpu", copy=True) for name, tensor in members.items()}
        for group, members in tensors_of(run.gan, run.ema).items()
    }
    state = {
        "config": to_dict(run.config),
        "data_sha256": run.images.provenance.sha256,
        "seconds": run.seconds_trained(),
        "best": run.best,
        "scaler": scaler.state_dict() if scaler is not None else {},
        "wandb_id": run.wandb.id,
        "metrics_window": window,
        "updates_skipped": run.updates_skipped,
    }
    run.disk.soon(partial(_write_checkpoint, run, run.step, tensors, state, describe_generator(run), run.best))


def _write_checkpoint(
    run: Run,
    step: int,
    tensors: dict[str, dict[str, Tensor]],
    state: dict[str, Any],
    generator: dict[str, str],
    best: Best | None,
) -> None:
    run.checkpoints.save(step, tensors, state, spare=best.step if best else None)
    to_use = tensors.get("average", tensors["generator"])
    save_generator(run.folder.generator, to_use, generator)
    if "average" in tensors:
        save_generator(run.folder.live_generator, tensors["generator"], generator)
    if best and best.step == step:
        save_generator(run.folder.best_generator, to_use, generator)
    run.folder.write_status("running", step)


def conclude(run: Run, state: str, stopped_by: str) -> None:
    """End a run whose training is over. Rank 0 only.

    Args:
        state: finished, stopped or failed.
        stopped_by: who asked to stop, if somebody did.

    Raises:
        InputError: the disk refused something.
    """
    run.disk.wait()
    if run.disk.error is not None:
        refused = run.disk.error.strerror or str(run.disk.error)
        with contextlib.suppress(OSError):
            end(run, "failed", refused)
        raise InputError(
            f"run.dir={run.folder.path} can't be written any more ({refused}); mend that, "
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
    seconds = run.seconds_trained()
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
        "images_per_second": run.schedule.images_seen(run.step) / seconds,
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
            "time": f"{seconds:,.0f} s, {summary['images_per_second']:,.0f} images/s",
            **{name: f"{summary[name]:.3f}" for name in run.meter.names if summary.get(name) is not None},
            "samples": folder.samples,
            "panel, curves": f"{folder.panel}, {folder.curves}",
            "generator": folder.generator,
            "checkpoints": folder.checkpoints,
        },
    )
    if seen := run.profile.end():
        console.table(f"where the time of {run.profile.steps:,} steps went", seen)


def checkpoint_bytes(networks: Iterable[nn.Module]) -> int:
    """Bytes of a checkpoint, near enough: Adam keeps two numbers more for each weight."""
    return 3 * sum(p.numel() * p.element_size() for network in networks for p in network.parameters())


def fingerprint(tensor: Tensor) -> str:
    """What tells a tensor from every other one, to the last bit."""
    return hashlib.sha256(tensor.detach().cpu().numpy().tobytes()).hexdigest()[:16]


def tensors_of(gan: Gan, ema: GeneratorToUse) -> dict[str, dict[str, Tensor]]:
    """All tensors that make a run what it is: group -> name -> tensor."""
    average = {"average": ema.network.state_dict()} if isinstance(ema, Average) else {}
    return average | {
        "generator": gan.generator_update.network.state_dict(),
        "discriminator": gan.discriminator_update.network.state_dict(),
        "generator_optimizer": optimizer_tensors(gan.generator_update.optimizer),
        "discriminator_optimizer": optimizer_tensors(gan.discriminator_update.optimizer),
    }


def describe_generator(run: Run) -> dict[str, str]:
    """What `load_generator` needs to rebuild the network, for the metadata of generator.safetensors."""
    return {
        "config": json.dumps(to_dict(run.config)),
        "image_shape": json.dumps(run.images.shape),
        "step": str(run.step),
    }
