"""What the outputs of a run cost its training: the time of the main thread per log point, grid and checkpoint.

    python benchmarks/outputs.py [--presets seed r3-conv] [--rounds 30] [--epoch 0.005] [--seconds 10] [--hidden N]

The rest is done by a thread, or on the device. Each output is made when the thread has nothing to do: lowest and
median of the rounds. Then all three together, again and again, so that the main thread also waits for the disk: the
cost of outputs after each epoch, if an epoch is shorter than the writing of a checkpoint.

Shares are those of the lowest figure, as other programs on the machine only add to it: of an epoch of --epoch seconds,
as a GPU trains it, with an output after each; and of the training with one output each --seconds seconds
(--samples.every-seconds, --checkpoint.every-seconds). The images are the sample digits, and the rows of 1,000 earlier
log points are in memory, as in the middle of a run.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from gan_dist.config import PRESETS, Config
from gan_dist.distributed.preemption import StopRequest
from gan_dist.outputs.folder import RunFolder
from gan_dist.trainer import reporting
from gan_dist.trainer.build import build, start_processes
from gan_dist.trainer.checkpointing import save_checkpoint
from gan_dist.trainer.loop import train
from gan_dist.trainer.state import Trainer

EARLIER = 1_000  # log points
STEPS = 4
PAUSE = 0.02  # seconds in which the thread may begin and end, as in an epoch


def settings(preset: str, folder: Path, hidden: int | None) -> Config:
    """A preset that trains a few steps on the sample digits."""
    config = PRESETS[preset]()
    changes: dict[str, dict[str, Any]] = {
        "data": {"name": "mnist", "source": "sample", "root": folder},
        "model": {"hidden_dim": hidden or config.model.hidden_dim},
        "train": {"steps": 10_000, "threads": 1},
        "evaluate": {"every_epochs": None},
        "wandb": {"mode": "disabled"},
        "run": {"dir": folder / preset},
    }
    sections = {name: dataclasses.replace(getattr(config, name), **fields) for name, fields in changes.items()}
    return dataclasses.replace(config, **sections)


@contextlib.contextmanager
def trained(config: Config) -> Iterator[Trainer]:
    """A trainer after a few steps, with the records of a run."""
    with contextlib.closing(RunFolder(config.run.dir)) as folder, contextlib.redirect_stdout(io.StringIO()):
        trainer = build(config, folder, StopRequest(), start_processes(config))
        trainer.last_step = STEPS  # the loop stops there, as before a step that is not finite
        train(trainer)
        log(trainer)
        trainer.rows[:] = [trainer.rows[-1] | {"step": -EARLIER + i} for i in range(EARLIER)]
        yield trainer
        trainer.writer.wait()


def log(trainer: Trainer) -> None:
    every = trainer.config.log.every_steps
    trainer.step = (trainer.step // every + 1) * every
    trainer.meter.count = every  # a whole window
    reporting.log(trainer)


OUTPUTS: dict[str, Callable[[Trainer], object]] = {
    "log point": log,
    "grid": reporting.sample,
    "checkpoint": save_checkpoint,
}


def measure(trainer: Trainer, rounds: int) -> dict[str, list[float]]:
    """Seconds of the main thread in each round, for each output, and for all together without a pause."""
    taken: dict[str, list[float]] = {name: [] for name in OUTPUTS}
    for _ in range(rounds):
        for name, output in OUTPUTS.items():
            taken[name].append(_timed(output, trainer))
            trainer.writer.wait()
            time.sleep(PAUSE)
    together = [sum(_timed(output, trainer) for output in OUTPUTS.values()) for _ in range(rounds)]
    return taken | {"all, without a pause": together[1:]}  # the first one waits for nothing


def _timed(output: Callable[[Trainer], object], trainer: Trainer) -> float:
    began = time.perf_counter()
    output(trainer)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["seed", "r3-conv"], choices=list(PRESETS))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--epoch", type=float, default=0.005, help="seconds of an epoch")
    parser.add_argument("--seconds", type=float, default=10.0, help="of --samples.every-seconds and the others")
    parser.add_argument("--hidden", type=int, help="model.hidden_dim, for larger networks")
    arguments = parser.parse_args()
    shares = f"of {arguments.epoch * 1e3:g} ms", f"one each {arguments.seconds:g} s"
    table = Table("preset", "output", "main thread: lowest", "median", *shares)
    torch.set_num_threads(1)
    for preset in arguments.presets:
        with tempfile.TemporaryDirectory() as folder:
            config = settings(preset, Path(folder), arguments.hidden)
            with trained(config) as trainer:
                found = measure(trainer, arguments.rounds)
        for name, rounds in found.items():
            times = [f"{seconds * 1e3:.2f} ms" for seconds in (min(rounds), median(rounds))]
            of = [f"{min(rounds) / seconds:.2%}" for seconds in (arguments.epoch, arguments.seconds)]
            table.add_row(preset, name, *times, *of)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
