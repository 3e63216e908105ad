"""What a run writes and shows after some of its steps."""

from __future__ import annotations

import hashlib
import math
from functools import partial

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor

from gan_dist.config.cadence import at_most
from gan_dist.gan.update import Update
from gan_dist.outputs.console import Progress
from gan_dist.outputs.host_copy import HostCopies
from gan_dist.outputs.pictures import generate_pixels, save_pixels
from gan_dist.outputs.records import StepLines
from gan_dist.trainer.checkpointing import tensors_of
from gan_dist.trainer.evaluation import report_diagnosis
from gan_dist.trainer.state import Trainer
from gan_dist.trainer.tracking import figures_of_steps, log_samples


def log(trainer: Trainer) -> None:
    """Write a line of metrics.jsonl, track and show it. A collective: means are over all ranks."""
    means = trainer.meter.means()
    trainer.cadence.read_clock()
    step = trainer.step
    if trainer.schedule.ends_window(step):
        trainer.meter.close_window()
    if not trainer.is_main:
        return
    row = {
        "step": step,
        "epoch": trainer.schedule.epoch(step),
        "images_seen": trainer.schedule.images_seen(step),
        "images_per_second": trainer.timing.log(step) * trainer.config.train.batch_size,
        **means,
        **trainer.augment_probability.figures,
        "gradient/discriminator": gradient_norm(trainer.gan.discriminator_update),
        "gradient/generator": gradient_norm(trainer.gan.generator_update),
    }
    if trainer.config.train.on_nonfinite == "skip":
        row["updates_skipped"] = trainer.updates_skipped
    trainer.rows.append(row)
    trainer.writer.save_async(partial(StepLines(trainer.folder.metrics).append, row))
    trainer.tracker.log(step, {**figures_of_steps(trainer, row), "doctor/findings": report_diagnosis(trainer)})
    trainer.console.progress(row)


def progress(trainer: Trainer) -> Progress:
    """The progress of a run. Cheap and thread-safe: the console calls it during training."""
    step, schedule, pace = trainer.step, trainer.schedule, trainer.timing.pace(trainer.step)
    if pace is None:
        return Progress(step, schedule.epoch(step))
    training = (schedule.total_steps - step) / pace
    evaluations = at_most(schedule.evaluations_after(step), training, trainer.config.evaluate.every_seconds)
    seconds_left = training + evaluations * trainer.timing.last_evaluation
    return Progress(step, schedule.epoch(step), pace * trainer.config.train.batch_size, seconds_left)


def gradient_norm(update: Update) -> float | None:
    """The norm of a network's last gradient of the global batch, the same on every rank. None if it is not finite.

    With a GradScaler, the step of a fused optimizer has unscaled the gradient already.
    """
    gradient = update.gradients[0]
    if gradient.device.type in ("cpu", "mps"):  # MPS has no double precision
        # numpy's sum: the same bits with any number of threads
        norm = float(np.sqrt(np.square(gradient.cpu().numpy(), dtype=np.float64).sum()))
    else:  # a copy to the host would take longer than the steps between two log points, if the network is large
        norm = torch.linalg.vector_norm(gradient, dtype=torch.float64).item()
    return norm if math.isfinite(norm) else None


def log_hashes(trainer: Trainer) -> None:
    """Write hashes of all weights and optimizer states. A collective: every rank compares its own."""
    hashes = {
        f"{group}/{name}": fingerprint(tensor)
        for group, tensors in tensors_of(trainer).items()
        for name, tensor in tensors.items()
    }
    everyones = gather_object([hashes])
    if trainer.is_main:
        differ = sorted(name for name in hashes if len({others[name] for others in everyones}) > 1)
        line = {"step": trainer.step, "ranks_differ": differ, "hashes": hashes}
        trainer.writer.save(lambda: StepLines(trainer.folder.hashes).append(line))


def sample(trainer: Trainer) -> None:
    """Generate the images of the fixed latents; their grid is saved in the background. Rank 0 only."""
    copies = HostCopies(trainer.fixed_latents.device)
    pixels = copies.start(generate_pixels(trainer.ema.network, trainer.fixed_latents, trainer.fixed_labels))
    trainer.writer.save_async(partial(_write_sample, trainer, trainer.step, pixels, copies))


def _write_sample(trainer: Trainer, step: int, pixels: Tensor, copies: HostCopies) -> None:
    file = trainer.folder.epoch_samples(trainer.schedule.epochs_completed(step))
    copies.wait()
    try:
        save_pixels(pixels, file)
    except OSError as error:  # a checkpoint can reproduce the picture
        trainer.console.announce(f"{file} is not writable ({error.strerror or error})")
    else:
        log_samples(trainer, file, step)


def fingerprint(tensor: Tensor) -> str:
    """A hash of a tensor's bytes: 16 hexadecimal digits."""
    return hashlib.sha256(tensor.detach().cpu().numpy().tobytes()).hexdigest()[:16]
