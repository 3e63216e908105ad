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

from gan_dist.distributed.preemption import StopRequest
from gan_dist.distributed.shared_memory import SharedMemory
from gan_dist.gan.steps import discriminator_step, generator_step
from gan_dist.outputs.folder import RunFolder
from gan_dist.train import parse
from gan_dist.trainer.build import build, start_processes

INTO_TENSOR = ("all_gather_into_tensor", "all_gather_single")  # one function: torch 2.14 renamed it
COLLECTIVES = ("all_reduce", "all_gather", "broadcast", "reduce", *INTO_TENSOR, "reduce_scatter_tensor")


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
        stack.enter_context(calls.counted(SharedMemory, "reduce", 1, "host"))
        trainer = build(config, folder, StopRequest(), start_processes(config))
        for name in COLLECTIVES:
            if hasattr(dist, name):
                gathers = name == "all_gather" or name in INTO_TENSOR
                stack.enter_context(calls.counted(dist, name, int(gathers), "gather" if gathers else name))
        for step, pending in enumerate(trainer.loader, trainer.step + 1):
            batch = pending.result()
            images.append(batch.images.clone())
            trainer.gan.begin(step)
            uses = [trainer.gan.latents(use).clone() for use in ("discriminator", "generator")]
            latents.append(torch.stack(uses, 1))
            calls.network = "discriminator"
            discriminator_step(trainer.gan, batch)
            calls.network = "generator"
            generator_step(trainer.gan, batch)
            trainer.guard.collect(step)
            if len(images) == steps:
                break
    output.mkdir(parents=True, exist_ok=True)
    networks = {"generator": trainer.gan.generator, "discriminator": trainer.gan.discriminator}
    torch.save(
        {
            "images": torch.stack(images),
            "latents": torch.stack(latents),
            "calls": dict(calls.counts),
            "weights": {name: sum(map(torch.numel, network.parameters())) for name, network in networks.items()},
        },
        output / f"rank-{trainer.accelerator.process_index}.pt",
    )
    trainer.accelerator.wait_for_everyone()
    if trainer.memory is not None:
        trainer.memory.close()
    trainer.tracker.finish(0)
    trainer.accelerator.trackers = []
    trainer.accelerator.end_training()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
