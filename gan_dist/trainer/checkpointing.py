"""Saving checkpoints and generators, in the background."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn

from gan_dist.config import to_dict
from gan_dist.models.average import Average
from gan_dist.outputs.checkpoint import save_generator
from gan_dist.outputs.host_copy import HostCopies
from gan_dist.outputs.optimizer_state import optimizer_tensors
from gan_dist.outputs.records import StepLines
from gan_dist.trainer.state import Best, Trainer


def save_checkpoint(trainer: Trainer) -> None:
    """Save everything that the run needs to resume. A collective: open windows of figures are gathered from all ranks.

    Tensors are copied to the host, on a GPU while the next steps run, and written in the background.
    """
    window, augmentation = trainer.meter.state(), trainer.augment_probability.state()
    if not trainer.is_main:
        return
    scaler = trainer.accelerator.scaler
    copies = HostCopies(trainer.accelerator.device)
    tensors = {
        group: {name: copies.start(tensor) for name, tensor in members.items()}
        for group, members in tensors_of(trainer).items()
    }
    state = {
        "data_sha256": trainer.images.provenance.sha256,
        "data_spec": trainer.images.spec.to_dict(),
        "labels_sha256": trainer.images.labels_sha256,
        "seconds": trainer.timing.seconds(),
        "evaluating_seconds": trainer.timing.evaluating,
        "best": trainer.best,
        "scaler": scaler.state_dict() if scaler is not None else {},
        "tracker_ids": dict(trainer.tracker.ids),
        "metrics_window": window,
        "augmentation": augmentation,
        "updates_skipped": trainer.updates_skipped,
    }
    trainer.writer.save_async(partial(_write_checkpoint, trainer, trainer.step, tensors, copies, state), large=True)


def _write_checkpoint(
    trainer: Trainer,
    step: int,
    tensors: dict[str, dict[str, Tensor]],
    copies: HostCopies,
    state: dict[str, Any],
) -> None:
    best: Best | None = state["best"]
    state, generator = {"config": to_dict(trainer.config), **state}, describe_generator(trainer, step)
    copies.wait()
    # After a power failure no checkpoint may exist without the lines of the steps before it.
    for file in (trainer.folder.metrics, trainer.folder.evaluations, trainer.folder.hashes):
        StepLines(file).sync()
    trainer.checkpoints.save(step, tensors, state, protected_step=best.step if best else None)
    to_use = tensors.get("average", tensors["generator"])
    save_generator(trainer.folder.generator, to_use, generator)
    if "average" in tensors:
        save_generator(trainer.folder.live_generator, tensors["generator"], generator)
    if best and best.step == step:
        save_generator(trainer.folder.best_generator, to_use, generator)
    trainer.folder.write_status("running", step)


def tensors_of(trainer: Trainer) -> dict[str, dict[str, Tensor]]:
    """All tensors of the state of a run: group -> name -> tensor."""
    gan, ema = trainer.gan, trainer.ema
    average = {"average": ema.network.state_dict()} if isinstance(ema, Average) else {}
    return average | {
        "generator": gan.generator_update.network.state_dict(),
        "discriminator": gan.discriminator_update.network.state_dict(),
        "generator_optimizer": optimizer_tensors(gan.generator_update.optimizer),
        "discriminator_optimizer": optimizer_tensors(gan.discriminator_update.optimizer),
    }


def describe_generator(trainer: Trainer, step: int) -> dict[str, str]:
    """Metadata of generator.safetensors after a step, from which `load_generator` rebuilds the network."""
    described = {
        "config": json.dumps(to_dict(trainer.config)),
        "data": json.dumps(trainer.images.spec.to_dict()),
        "step": str(step),
    }
    counts = trainer.images.class_counts
    if trainer.config.model.conditional and counts is not None:
        described["class_counts"] = json.dumps(counts.tolist())
    return described


def checkpoint_bytes(networks: Iterable[nn.Module]) -> int:
    """Approximate size of a checkpoint in bytes: Adam stores two more numbers per weight."""
    return 3 * sum(p.numel() * p.element_size() for network in networks for p in network.parameters())
