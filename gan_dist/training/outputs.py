"""What a run leaves behind, and when: at its beginning, after some of its steps, at its end."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import DataLoader

from gan_dist.config import Config, to_dict
from gan_dist.data.dataset import epoch_order, normalize
from gan_dist.data.sources import ImageSet
from gan_dist.run.checkpoint import Checkpoints, optimizer_tensors, save_generator
from gan_dist.run.console import Console
from gan_dist.run.curves import draw_curves
from gan_dist.run.folder import RunFolder, read_json, read_json_lines, timestamp, write_json
from gan_dist.run.launcher import describe_machine
from gan_dist.run.preemption import StopAgreement
from gan_dist.run.samples import COUNT, draw_panel, save_grid, save_samples
from gan_dist.run.tracking import StepLines, WandbTracker
from gan_dist.training.meter import METRICS, Meter
from gan_dist.training.schedule import Schedule
from gan_dist.training.steps import Gan


@dataclass
class Run:
    """All that a run consists of. Every rank has one; what writes does so on rank 0 alone."""

    config: Config
    accelerator: Accelerator
    gan: Gan
    loader: DataLoader[Tensor]
    schedule: Schedule
    meter: Meter
    stopping: StopAgreement
    folder: RunFolder
    checkpoints: Checkpoints
    wandb: WandbTracker
    console: Console
    images: ImageSet
    fixed_latents: Tensor
    """(64, latent_dim), those of the sample grids."""
    step: int
    """Completed steps."""
    seconds: float
    """Time that the training took before this session."""
    started: float = 0.0
    """This session's start, on time.perf_counter."""
    logged: tuple[int, float] = (0, 0.0)
    """Step and time of the last log point of this session."""

    @property
    def writes(self) -> bool:
        return self.accelerator.is_main_process


def begin(run: Run, wandb_id: str | None) -> None:
    """Open the run's folder and its dashboard, show what is going to happen. Rank 0 only.

    Raises:
        InputError: the folder has no room for the run.
    """
    folder, console = run.folder, run.console
    networks = [run.gan.generator, run.gan.discriminator]
    weights = sum(p.numel() * p.element_size() for network in networks for p in network.parameters())
    checkpoint_bytes = 3 * weights  # Adam keeps two numbers more for each weight
    folder.check_usable(needed_bytes=2 * checkpoint_bytes + 2**20)
    if not folder.path.exists():
        folder.path.mkdir(parents=True)
        folder.lock()
    folder.remove_unfinished()
    write_json(folder.config, to_dict(run.config))
    metrics = StepLines(folder.metrics)
    earlier = read_json(folder.environment) if folder.environment.exists() else {}
    sent = max(metrics.last_step(), earlier.get("wandb", {}).get("logged_through", 0))
    metrics.go_back_to(run.step, run.config.log.every_steps)
    if run.config.train.log_hashes is not None:
        StepLines(folder.hashes).go_back_to(run.step, run.config.train.log_hashes)
    first = epoch_order(len(run.images.images), run.config.train.seed, 0)[:COUNT]
    save_grid(normalize(run.images.images[first]), folder.real_samples)
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
            "networks": f"{run.config.model.architecture}, {weights // 4:,} weights",
            "batch size": f"{run.config.train.batch_size} over {session['processes']} process(es)",
            "device": f"{session['device']}, {session['mixed_precision']} mixed precision, "
            f"{session['threads_per_process']} thread(s) a process",
            "steps": f"{run.step:,} done of {run.schedule.total_steps:,}, "
            f"{run.schedule.epoch(run.schedule.total_steps):.4g} epochs",
            "W&B": run.wandb.mode,
        },
    )


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
    }
    run.logged = (step, now)
    StepLines(run.folder.metrics).append(row)
    run.wandb.log(step, row)
    run.console.progress(row, run.schedule.total_steps, run.schedule.epoch(run.schedule.total_steps))


def log_hashes(run: Run) -> None:
    """Write down what every weight and every number of the optimizers is. A collective: all ranks must agree."""
    hashes = {
        f"{group}/{name}": hashlib.sha256(tensor.detach().cpu().numpy().tobytes()).hexdigest()[:16]
        for group, tensors in tensors_of(run.gan).items()
        for name, tensor in tensors.items()
    }
    everyones = gather_object([hashes])
    if run.writes:
        differ = sorted(name for name in hashes if len({others[name] for others in everyones}) > 1)
        StepLines(run.folder.hashes).append({"step": run.step, "ranks_differ": differ, "hashes": hashes})


def sample(run: Run) -> None:
    """Save the epoch's grid of images of the fixed latents. Rank 0 only."""
    file = run.folder.epoch_samples(run.schedule.epochs_completed(run.step))
    save_samples(run.gan.generator, run.fixed_latents, file)
    run.wandb.log_samples(run.step, file)


def checkpoint(run: Run) -> None:
    """Save all that the run needs to go on. A collective: the figures of the open window are every rank's."""
    window = run.meter.state()
    if not run.writes:
        return
    scaler = run.accelerator.scaler
    tensors = tensors_of(run.gan)
    run.checkpoints.save(
        run.step,
        tensors,
        {
            "config": to_dict(run.config),
            "data_sha256": run.images.provenance.sha256,
            "seconds": run.seconds + time.perf_counter() - run.started,
            "scaler": scaler.state_dict() if scaler is not None else {},
            "wandb_id": run.wandb.id,
            "metrics_window": window,
        },
    )
    save_generator(run.folder.generator, tensors["generator"], describe_generator(run))
    run.folder.write_status("running", run.step)


def end(run: Run, state: str, reason: str) -> None:
    """Say how the run ended, flush the dashboard, draw the pictures. Rank 0 only.

    Args:
        state: finished, stopped or failed.
        reason: why, in one line.
    """
    folder = run.folder
    run.console.end()
    folder.write_status(state, run.step, reason)
    run.wandb.finish(exit_code=1 if state == "failed" else 0)
    rows = read_json_lines(folder.metrics)
    seconds = run.seconds + time.perf_counter() - run.started
    summary = {
        "state": state,
        "reason": reason,
        "step": run.step,
        "epoch": run.schedule.epoch(run.step),
        "images_seen": run.schedule.images_seen(run.step),
        "seconds": seconds,
        "images_per_second": run.schedule.images_seen(run.step) / seconds,
        **{name: value for name, value in (rows[-1] if rows else {}).items() if name in METRICS},
    }
    write_json(folder.summary, summary)
    for draw in (draw_curves, draw_panel):
        try:
            draw(folder)
        except Exception as error:  # the run is safe already; a picture must not make it a failure
            run.console.announce(f"{draw.__name__} failed: {error}")
    how_to_go_on = "; the same command goes on" if state == "stopped" else ""
    run.console.table(
        f"{state}: {reason}{how_to_go_on}",
        {
            "steps": f"{run.step:,} of {run.schedule.total_steps:,}, {summary['epoch']:.2f} epochs",
            "time": f"{seconds:,.0f} s, {summary['images_per_second']:,.0f} images/s",
            **{name: f"{summary[name]:.3f}" for name in METRICS if name in summary},
            "samples": folder.samples,
            "panel, curves": f"{folder.panel}, {folder.curves}",
            "generator": folder.generator,
            "checkpoints": folder.checkpoints,
        },
    )


def tensors_of(gan: Gan) -> dict[str, dict[str, Tensor]]:
    """All tensors that make a run what it is: group -> name -> tensor."""
    return {
        "generator": gan.generator.state_dict(),
        "discriminator": gan.discriminator.state_dict(),
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
