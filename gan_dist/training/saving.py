"""What a run needs to go on, and the generators to use: gathered here, written beside the training."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn

from gan_dist.config import to_dict
from gan_dist.models.ema import Average
from gan_dist.run.checkpoint import optimizer_tensors, save_generator
from gan_dist.run.records import StepLines
from gan_dist.training.state import Best, Run


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
        for group, members in tensors_of(run).items()
    }
    state = {
        "config": to_dict(run.config),
        "data_sha256": run.images.provenance.sha256,
        "seconds": run.timing.seconds(),
        "evaluating_seconds": run.timing.evaluating,
        "best": run.best,
        "scaler": scaler.state_dict() if scaler is not None else {},
        "wandb_id": run.wandb.id,
        "metrics_window": window,
        "updates_skipped": run.updates_skipped,
    }
    run.disk.soon(partial(_write_checkpoint, run, run.step, tensors, state, describe_generator(run)))


def _write_checkpoint(
    run: Run,
    step: int,
    tensors: dict[str, dict[str, Tensor]],
    state: dict[str, Any],
    generator: dict[str, str],
) -> None:
    best: Best | None = state["best"]
    # A checkpoint must not outlive the lines of the steps before it, should the power fail.
    for file in (run.folder.metrics, run.folder.evaluations, run.folder.hashes):
        StepLines(file).sync()
    run.checkpoints.save(step, tensors, state, spare=best.step if best else None)
    to_use = tensors.get("average", tensors["generator"])
    save_generator(run.folder.generator, to_use, generator)
    if "average" in tensors:
        save_generator(run.folder.live_generator, tensors["generator"], generator)
    if best and best.step == step:
        save_generator(run.folder.best_generator, to_use, generator)
    run.folder.write_status("running", step)


def tensors_of(run: Run) -> dict[str, dict[str, Tensor]]:
    """All tensors that make a run what it is: group -> name -> tensor."""
    gan, ema = run.gan, run.ema
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


def checkpoint_bytes(networks: Iterable[nn.Module]) -> int:
    """Bytes of a checkpoint, near enough: Adam keeps two numbers more for each weight."""
    return 3 * sum(p.numel() * p.element_size() for network in networks for p in network.parameters())
