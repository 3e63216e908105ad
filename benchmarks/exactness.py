"""Tests whether runs in the exact mode depend on the number of processes or threads, or on stops.

    python benchmarks/exactness.py [--configurations 200] [--seed 0] [--folder DIR] [--processes 2 3 4]

Draws random configurations: architecture, widths, batch, shards, loss, penalties, average, learning rate, precision,
stacked images. Each is trained without a stop on one process with one thread, and then: on one process with two
threads, stopped at random steps; on each other number of processes that divides its shards, stopped at the same steps;
and with another number of processes after each stop. All weights and optimizer states are hashed after every step.
Prints a table: way, configurations, and those with a difference, which are named with the seed that reproduces them.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from launching import environment, launcher
from rich.console import Console
from rich.table import Table

from gan_dist.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    EmaConfig,
    EvaluateConfig,
    LogConfig,
    ModelConfig,
    OptimizerConfig,
    PenaltyConfig,
    RunConfig,
    SamplesConfig,
    TrainConfig,
    WandbConfig,
    from_dict,
    to_dict,
    validate,
)
from gan_dist.data.readers.idx import write_idx_images
from gan_dist.distributed.main_process import on_main_process
from gan_dist.distributed.openmp import limit_spinning
from gan_dist.distributed.preemption import StopRequest
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json_lines
from gan_dist.results.diff import compare_hashes
from gan_dist.trainer import session
from gan_dist.trainer.build import build, start_processes
from gan_dist.trainer.loop import train_with_rollbacks

IMAGES = 200
UNINTERRUPTED = "1 process, 1 thread, uninterrupted"
MOVED = "the number of processes changes at each stop"
PRECISIONS = ("no", "bf16")


@dataclass(frozen=True)
class Case:
    """A configuration, and the steps after which its runs stop."""

    config: Config
    stops: tuple[int, ...]

    @property
    def steps(self) -> int:
        assert self.config.train.steps is not None
        return self.config.train.steps


@dataclass(frozen=True)
class Job:
    """A part of a run: training in a folder until a step."""

    config: dict[str, Any]
    until: int
    threads: int


def draw(rng: random.Random, data: Path) -> Case:
    """A random configuration of the exact mode."""
    shards, size = rng.choice([2, 3, 4, 6, 8, 12]), rng.choice([1, 2, 3, 5, 8, 13])
    loss = rng.choice(["bce", "relativistic", "hinge", "least-squares", "wasserstein"])
    penalty = rng.choice(
        [{}, {}, {"r1": 1.0}, {"r2": 0.3}, {"r1": 3.0, "r2": 3.0, "final_factor": 0.5}, {"gradient": 10.0}]
    )
    conv = rng.random() < 0.3
    steps = rng.randint(4, 9)
    config = Config(
        data=DataConfig(root=data, source="local", stack=rng.choice([1, 1, 1, 3])),
        model=ModelConfig(
            architecture="conv" if conv else "mlp",
            latent_dim=rng.randint(1, 80),
            hidden_dim=rng.choice([rng.randint(1, 40), rng.randint(40, 300)]),
            channels=rng.randint(1, 24),
            initialization=rng.choice(["torch", "he"]),
        ),
        optimizer=OptimizerConfig(
            learning_rate=10 ** rng.uniform(-4, -2),
            generator_factor=rng.choice([1.0, 1.5]),
            final_learning_rate=rng.choice([None, 1e-5]),
            decay_images=rng.randint(1, 500),
            beta1=rng.choice([0.0, 0.5, 0.9]),
        ),
        train=TrainConfig(
            steps=steps,
            batch_size=min(shards * size, IMAGES // shards * shards),
            seed=rng.randint(0, 10**6),
            loss=loss,  # type: ignore[arg-type]
            exact_shards=shards,
            mixed_precision=rng.choice(PRECISIONS),  # type: ignore[arg-type]
            log_hashes=1,
        ),
        penalty=PenaltyConfig(**penalty, decay_images=rng.randint(1, 300)),
        ema=EmaConfig(half_life=rng.choice([None, 200.0])),
        log=LogConfig(every_steps=rng.randint(1, 4)),
        samples=SamplesConfig(every_epochs=1000),
        evaluate=EvaluateConfig(every_epochs=None),
        checkpoint=CheckpointConfig(every_steps=1000, keep=1),
        wandb=WandbConfig(mode="disabled"),
    )
    validate(config)
    return Case(config, tuple(sorted(rng.sample(range(1, steps), rng.randint(1, min(3, steps - 1))))))


def pieces(case: Case, folder: Path, threads: int) -> Iterator[Job]:
    """The jobs of a whole run in one folder, one per session."""
    for until in (*case.stops, case.steps):
        yield job(case, folder, until, threads)


def job(case: Case, folder: Path, until: int, threads: int) -> Job:
    return Job(to_dict(dataclasses.replace(case.config, run=RunConfig(dir=folder))), until, threads)


def work(jobs: list[Job]) -> None:
    """Run jobs of one precision, on every rank of this process group."""
    accelerator = start_processes(from_dict(jobs[0].config))
    session.draw_curves = session.draw_panel = lambda folder: None  # they would take most of the time
    for piece in jobs:
        config = from_dict(piece.config)
        config = dataclasses.replace(
            config, train=dataclasses.replace(config.train, steps=piece.until, threads=piece.threads)
        )
        torch.set_num_threads(piece.threads)
        request, folder = StopRequest(), RunFolder(config.run.dir)
        with contextlib.closing(folder), contextlib.redirect_stdout(io.StringIO()):
            run = build(config, folder, request, accelerator)
            state = train_with_rollbacks(run)
            on_main_process(accelerator, lambda: session.conclude(run, state, "the next session"))  # noqa: B023
        accelerator.free_memory()  # otherwise it keeps the networks of every run
    accelerator.end_training()


def run_jobs(jobs: list[Job], processes: int, scratch: Path) -> None:
    """Run jobs one after the other in a group of processes, one group per precision."""
    for precision in PRECISIONS:
        some = [dataclasses.asdict(j) for j in jobs if j.config["train"]["mixed_precision"] == precision]
        if not some:
            continue
        file = scratch / "jobs.json"
        file.write_text(json.dumps(some))
        words = [*launcher(processes), __file__, "--jobs", str(file)]
        done = subprocess.run(words, capture_output=True, text=True, env=environment())
        if done.returncode:
            sys.exit(f"{processes} process(es) failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def difference(uninterrupted: Path, other: Path, steps: int) -> str:
    """The difference of a run from the uninterrupted one; empty if there is none."""
    comparison = compare_hashes(uninterrupted, other)
    if comparison.differs_at is not None:
        return f"step {comparison.differs_at}: {', '.join(comparison.tensors[:3])}"
    if comparison.equal_steps != list(range(1, steps + 1)):
        return "missing steps"
    rows = [read_json_lines(RunFolder(path).metrics) for path in (uninterrupted, other)]
    figures = [[{k: v for k, v in row.items() if k != "images_per_second"} for row in some] for some in rows]
    return "" if figures[0] == figures[1] else "metrics.jsonl"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configurations", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--jobs", type=Path, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.jobs is not None:
        limit_spinning()
        os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
        work([Job(**entry) for entry in json.loads(arguments.jobs.read_text())])
        return 0

    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        scratch = Path(name)
        images = np.random.default_rng(0).integers(0, 256, (IMAGES, 28, 28), dtype=np.uint8)
        write_idx_images(scratch / "data", "mnist", images)
        cases = [
            draw(random.Random(f"{arguments.seed}/{i}"), scratch / "data") for i in range(arguments.configurations)
        ]
        ways: dict[str, dict[int, Path]] = {}

        def place(way: str, number: int) -> Path:
            return ways.setdefault(way, {}).setdefault(number, scratch / str(number) / str(len(ways) - 1))

        alone: list[Job] = []
        for i, case in enumerate(cases):
            alone.append(job(case, place(UNINTERRUPTED, i), case.steps, 1))
            alone += pieces(case, place("1 process, 2 threads, stopped", i), 2)
        run_jobs(alone, 1, scratch)
        for processes in arguments.processes:
            way = f"{processes} processes, 1 thread each, stopped"
            divisible = [i for i, case in enumerate(cases) if case.config.train.exact_shards % processes == 0]  # type: ignore[operator]
            run_jobs([j for i in divisible for j in pieces(cases[i], place(way, i), 1)], processes, scratch)
        # With another number of processes after each stop, one included.
        for number in range(4):
            for processes in (1, *arguments.processes):
                jobs = []
                for i, case in enumerate(cases):
                    numbers = [n for n in (1, *arguments.processes) if case.config.train.exact_shards % n == 0]  # type: ignore[operator]
                    until = (*case.stops, case.steps)
                    if number < len(until) and numbers[(number + i) % len(numbers)] == processes:
                        jobs.append(job(case, place(MOVED, i), until[number], 1 + processes % 2))
                run_jobs(jobs, processes, scratch)

        table, failed = Table("way", "configurations", "different"), []
        for way, folders in ways.items():
            found = {i: difference(ways[UNINTERRUPTED][i], folder, cases[i].steps) for i, folder in folders.items()}
            failed += [
                f"{way}: configuration {i} of seed {arguments.seed}: {what}" for i, what in found.items() if what
            ]
            table.add_row(way, str(len(folders)), str(sum(map(bool, found.values()))))
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores")
    print(Counter(case.config.model.architecture for case in cases))
    Console().print(table)
    print("\n".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
