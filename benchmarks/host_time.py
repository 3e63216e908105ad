"""The host's time of a training step whose operations are replayed as one graph: Python, and nothing else.

    python benchmarks/host_time.py [PRESET] [--steps N]

Runs the training loop on the CPU with a graph that replays nothing. Each part is also timed alone; what the loop takes
beyond them is the last row. A GPU is kept busy if its step takes longer than the sum. For comparison, the loader with
one index tensor a step instead of a window of them, and the numbers of a step as the host sets them without a graph.

Differences to a GPU: the inputs are copied by the CPU; its generator takes longer to seed than CUDA's; the stop of
several processes is not agreed on.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration

from gan_dist.data import order
from gan_dist.distributed.preemption import StopRequest
from gan_dist.gan import cuda_graph, latents
from gan_dist.outputs.folder import RunFolder
from gan_dist.train import parse
from gan_dist.trainer.build import build
from gan_dist.trainer.hyperparameters import HostNumbers
from gan_dist.trainer.loop import make_step, train
from gan_dist.trainer.state import Trainer

ROUNDS = 5
GOAL = 60.0  # microseconds


class NoGraph:
    """A graph that does nothing."""

    def warm_up(self, work: Callable[[], object]) -> None:
        pass

    def capture(self, work: Callable[[], object], generators: Iterable[torch.Generator]) -> None:
        pass

    def replay(self) -> None:
        pass

    def reset(self) -> None:
        pass


def microseconds(work: Callable[[], object], steps: int) -> float:
    """Of this thread per step: the median of several rounds of `work`, each of so many steps."""
    times = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        work()
        times.append(1e6 * (time.thread_time() - began) / steps)
    return median(times)


def make_trainer(preset: str, folder: Path) -> Trainer:
    words = [preset, "--data.source", "sample", "--data.root", str(folder / "data"), "--run.dir", str(folder / "run")]
    rare = [str(10**6)] * 3
    words += ["--log.every-steps", rare[0], "--checkpoint.every-steps", rare[1], "--samples.every-epochs", rare[2]]
    words += ["--evaluate.every-epochs", "None", "--wandb.mode", "disabled", "--train.epochs", rare[0]]
    words += ["--data.memory", "device", "--train.steps", str(10**6)]
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(split_batches=True))
    trainer = build(parse(words), RunFolder(folder / "run"), StopRequest(), accelerator)
    trainer.console.begin = lambda *arguments: None  # type: ignore[method-assign]
    assert trainer.captured
    return trainer


def first(trainer: Trainer, steps: int) -> Callable[[], None]:
    """The loader, for so many steps."""

    def fetch() -> None:
        for step, pending in enumerate(trainer.loader, 1):
            pending.inputs()
            if step == steps:
                return

    return fetch


def measure(trainer: Trainer, steps: int) -> dict[str, float]:
    """Part -> microseconds per step."""
    inputs: Any = next(iter(trainer.loader)).inputs()
    step = make_step(trainer)
    numbers = trainer.hyperparameters

    def each(work: Callable[[int], object]) -> float:
        return microseconds(lambda: [work(number) for number in range(1, steps + 1)], steps)

    def whole() -> None:
        trainer.step = 0
        trainer.last_step = steps
        train(trainer)

    found = {
        "loader": microseconds(first(trainer, steps), steps),
        "numbers of the step": each(numbers.set),
        "seeds of the random numbers": each(trainer.gan.begin),
        "inputs, and a replay of nothing": each(lambda number: step(*inputs)),
        "stop agreement": each(lambda number: trainer.stopping.reached()),
        "schedule": each(lambda number: trainer.schedule.at(number, False).anything),
    }
    with mock.patch.multiple(
        "gan_dist.trainer.loop", check_nonfinite=mock.Mock(), save_checkpoint=mock.Mock(), reporting=mock.Mock()
    ):
        loop = microseconds(whole, steps)
    found["the rest of the loop"] = loop - sum(found.values())
    found["**sum**"] = loop
    with mock.patch.object(order, "WINDOW", 1):
        found["the loader with one index tensor a step"] = microseconds(first(trainer, steps), steps)
    gan = trainer.gan
    host = HostNumbers(
        trainer.schedule,
        gan.generator_update.optimizer,
        gan.discriminator_update.optimizer,
        numbers.factor,
        trainer.ema,
    )
    found["numbers of the step without a graph"] = each(host.set)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", nargs="?", default="r3-conv")
    parser.add_argument("--steps", type=int, default=2_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(mock.patch.dict(cuda_graph.GRAPHS, {"cpu": NoGraph}))
        stack.enter_context(mock.patch.object(latents, "has_one_generator", return_value=True))
        with contextlib.redirect_stdout(io.StringIO()):
            trainer = make_trainer(args.preset, folder)
            found = measure(trainer, args.steps)
        trainer.writer.wait()
    whole = found["**sum**"]
    print(f"| `{args.preset}`, a step | us | share |\n|---|---:|---:|")
    for part, time_taken in found.items():
        print(f"| {part} | {time_taken:.1f} | {time_taken / whole:.0%} |")
    print(f"\ngoal: {GOAL:.0f} us")


if __name__ == "__main__":
    main()
