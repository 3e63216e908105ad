"""Trains a few steps and writes what each rank saw and sent: its images and latents, and every collective of the steps.

Started through the launcher by the tests: observe.py OUTPUT STEPS [flags of train.py].
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist

from gan_dist.run.folder import RunFolder
from gan_dist.run.preemption import StopRequest
from gan_dist.run.sharedmemory import SharedMemory
from gan_dist.train import parse
from gan_dist.training.engine import build, start_processes
from gan_dist.training.steps import discriminator_step, generator_step

output, steps, flags = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
config = parse(flags)
calls: Counter[str] = Counter()


def gather(self: SharedMemory, rows: torch.Tensor) -> torch.Tensor:
    calls[f"{phase} shared {rows.numel()}"] += 1
    return gathered(self, rows)


gathered, SharedMemory.gather = SharedMemory.gather, gather  # type: ignore[method-assign]
run = build(config, RunFolder(config.run.dir), StopRequest(), start_processes(config))


def counted(name: str) -> None:
    """Count a collective by its name and the number of its floats."""
    original = getattr(dist, name)

    def call(*arguments, **options):
        tensor = arguments[1] if name == "all_gather" else arguments[0]
        calls[f"{phase} {name} {tensor.numel()}"] += 1
        return original(*arguments, **options)

    setattr(dist, name, call)


for name in ("all_reduce", "all_gather", "broadcast", "reduce", "all_gather_into_tensor", "reduce_scatter_tensor"):
    counted(name)

images, latents = [], []
for step, real in enumerate(run.loader, run.step + 1):
    images.append(real.clone())
    latents.append(torch.stack([run.gan.latents(step, use).clone() for use in ("discriminator", "generator")], 1))
    phase = "discriminator"
    discriminator_step(run.gan, real, step)
    phase = "generator"
    generator_step(run.gan, real, step)
    run.guard.look(step)
    if len(images) == steps:
        break
output.mkdir(parents=True, exist_ok=True)
rank = run.accelerator.process_index
counts = {"generator": 0, "discriminator": 0}
for name in counts:
    network = getattr(run.gan, name)
    counts[name] = sum(parameter.numel() for parameter in network.parameters())
torch.save(
    {"images": torch.stack(images), "latents": torch.stack(latents), "calls": dict(calls), "weights": counts},
    output / f"rank-{rank}.pt",
)
run.accelerator.wait_for_everyone()
run.wandb.finish(0)
run.accelerator.trackers = []
run.accelerator.end_training()
