"""Trains a few steps and writes what each rank saw and sent: its images and latents, and every collective of the steps.

Started through the launcher by the tests: observe.py OUTPUT STEPS [flags of train.py].
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from gan_dist.run.folder import RunFolder
from gan_dist.run.preemption import StopRequest
from gan_dist.run.sharedmemory import SharedMemory
from gan_dist.train import parse
from gan_dist.training.engine import build, start_processes
from gan_dist.training.steps import discriminator_step, generator_step

COLLECTIVES = ("all_reduce", "all_gather", "broadcast", "reduce", "all_gather_into_tensor", "reduce_scatter_tensor")


class Calls:
    """Counts collectives by the network whose update makes them, their name and the number of their floats."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.network = ""

    @contextlib.contextmanager
    def counted(self, place: Any, name: str, tensor: int, shown: str) -> Iterator[None]:
        """Count the calls of a function; `tensor` is the place of the tensor among its arguments."""
        original = getattr(place, name)

        def call(*arguments: Any, **options: Any) -> Any:
            self.counts[f"{self.network} {shown} {arguments[tensor].numel()}"] += 1
            return original(*arguments, **options)

        with mock.patch.object(place, name, call):
            yield


def main(arguments: Sequence[str]) -> int:
    output, steps, config = Path(arguments[0]), int(arguments[1]), parse(arguments[2:])
    calls = Calls()
    images, latents = [], []
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(contextlib.closing(RunFolder(config.run.dir)))
        stack.enter_context(calls.counted(SharedMemory, "gather", 1, "shared"))
        run = build(config, folder, StopRequest(), start_processes(config))
        for name in COLLECTIVES:
            stack.enter_context(calls.counted(dist, name, int(name == "all_gather"), name))
        for step, real in enumerate(run.loader, run.step + 1):
            images.append(real.clone())
            uses = [run.gan.latents(step, use).clone() for use in ("discriminator", "generator")]
            latents.append(torch.stack(uses, 1))
            calls.network = "discriminator"
            discriminator_step(run.gan, real, step)
            calls.network = "generator"
            generator_step(run.gan, real, step)
            run.guard.look(step)
            if len(images) == steps:
                break
    output.mkdir(parents=True, exist_ok=True)
    networks = {"generator": run.gan.generator, "discriminator": run.gan.discriminator}
    torch.save(
        {
            "images": torch.stack(images),
            "latents": torch.stack(latents),
            "calls": dict(calls.counts),
            "weights": {name: sum(map(torch.numel, network.parameters())) for name, network in networks.items()},
        },
        output / f"rank-{run.accelerator.process_index}.pt",
    )
    run.accelerator.wait_for_everyone()
    if run.memory is not None:
        run.memory.close()
    run.wandb.finish(0)
    run.accelerator.trackers = []
    run.accelerator.end_training()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
