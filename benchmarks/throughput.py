"""The training speed of the toolkit, compared with loops as people write them and with the matrix products alone.

    python benchmarks/throughput.py --data DIR [--rounds 5] [--seconds 4] [--folder DIR] [--batch 100 1024]

In each round, in separate processes and one after the other: (a) a plain notebook loop, (b) a loop as in Accelerate's
examples, on two processes, (c) the toolkit's train.py as users start it, with its default logs, samples and
checkpoints, (d) only the matrix products of a step. In fp32 and bf16, on 1 process x 2 threads and on 2 processes x 1
thread. Prints images per second (median, lowest, highest), and the medians of the ratios within a round, the only
figures that are reliable on a noisy machine. Then the cost of the outputs (one long run, whose epochs with a grid of
samples and a checkpoint are compared with the neighbouring epochs), the time to the first step and the peak memory,
compared with those of the imports alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from launching import ACCELERATE, REPOSITORY, TRAIN, environment, launcher
from rich.console import Console
from rich.table import Table

from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json_lines

REFERENCE = REPOSITORY / "benchmarks" / "reference.py"
BARE = (
    "import torch, torchvision, accelerate, resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
)
EXPECTED = {100: 10_000, 1024: 20_000}  # batch size -> approximate images per second, for the number of epochs


@dataclass(frozen=True)
class Loop:
    """A loop that is measured once per round."""

    kind: str
    """notebook, example, products; toolkit, exact (the toolkit's exact mode, V = 4)."""
    batch: int
    precision: str = "no"
    processes: int = 1

    def __str__(self) -> str:
        cores = f"{self.processes} x {2 // self.processes}"
        return f"{self.kind}, {self.precision.replace('no', 'fp32')}, batch {self.batch}, {cores}"


class Benchmark:
    """Runs the loops.

    Args:
        data: a folder with MNIST.
        seconds: approximate duration of each measurement.
        scratch: folder for the toolkit's runs.
    """

    def __init__(self, data: Path, seconds: float, scratch: Path) -> None:
        self.data = data
        self.local = ["--data.root", str(data), "--data.source", "local"]
        self.seconds = seconds
        self.scratch = scratch

    def measure(self, loop: Loop) -> float:
        """Images per second."""
        if loop.kind not in ("notebook", "example", "products"):
            return self.train(loop)
        threads = 2 // loop.processes
        words = [*launcher(loop.processes), str(REFERENCE), loop.kind, "--data", str(self.data)]
        words += ["--batch", str(loop.batch), "--precision", loop.precision]
        words += ["--seconds", str(self.seconds), "--threads", str(threads)]
        out = run(words, OMP_NUM_THREADS=str(threads))
        return json.loads([line for line in out.splitlines() if line.startswith("{")][-1])["images_per_second"]

    def train(self, loop: Loop) -> float:
        """Images per second of the toolkit over whole epochs, with all outputs except those of the last epoch."""
        speed = EXPECTED.get(loop.batch, 10_000)
        epochs = max(3, round(self.seconds * speed / 60_000))
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            words = [*launcher(loop.processes), TRAIN, *self.local]
            words += ["--train.batch-size", str(loop.batch), "--train.epochs", str(epochs)]
            words += ["--train.mixed-precision", loop.precision, "--run.dir", f"{folder}/run"]
            if loop.kind == "exact":
                words += ["--train.exact-shards", "4"]
            run(words)
            rows = read_json_lines(RunFolder(Path(folder) / "run").metrics)
        return rows[-1]["images_seen"] / sum(seconds_of(rows))

    def outputs(self, epochs: int = 25) -> list[float]:
        """Ratios of the time of an epoch with outputs to that of either neighbour without.

        Outputs at the end of an epoch take time in the next one; here every second epoch writes some. All epochs log.
        """
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            words = [*launcher(1), TRAIN, *self.local]
            words += ["--train.batch-size", "100", "--train.epochs", str(epochs), "--run.dir", f"{folder}/run"]
            run([*words, "--samples.every-epochs", "2", "--checkpoint.every-steps", "1200"])
            rows = read_json_lines(RunFolder(Path(folder) / "run").metrics)
        seconds = [0.0] * (epochs + 1)
        for row, spent in zip(rows, seconds_of(rows), strict=True):  # six windows of 100 steps in an epoch
            seconds[math.ceil(row["epoch"])] += spent
        odd = range(3, epochs, 2)
        return [seconds[epoch] / seconds[neighbour] for epoch in odd for neighbour in (epoch - 1, epoch + 1)]

    def start(self) -> dict[str, float]:
        """Seconds to the first step, and peak memory in MB, of the toolkit and of the imports alone."""
        measured = {}
        began = time.time()
        measured["bare MB"] = float(run([sys.executable, "-c", BARE]))
        measured["bare s"] = time.time() - began
        for name, words in (("python", [sys.executable]), ("accelerate launch", ACCELERATE)):
            with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
                words = [*words, str(REPOSITORY / "benchmarks" / "first_step.py"), f"{folder}/measured"]
                words += [*self.local, "--run.dir", f"{folder}/run"]
                began = time.time()
                run([*words, "--train.steps", "60"])
                first = json.loads(Path(f"{folder}/measured-0").read_text())
            measured[f"{name} s"], measured[f"{name} MB"] = first["time"] - began, first["peak"]
        return measured


def seconds_of(rows: list[dict[str, float]]) -> list[float]:
    """The seconds between each log point and the previous one."""
    images = [0, *(row["images_seen"] for row in rows)]
    return [(b - a) / row["images_per_second"] for (a, b), row in zip(itertools.pairwise(images), rows, strict=True)]


def run(words: list[str], **variables: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, env=environment() | variables)
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{done.stderr}")
    return done.stdout


def ratios(speeds: dict[Loop, list[float]], batches: list[int]) -> list[tuple[str, list[float]]]:
    """Name -> values of all rounds."""
    rows = []

    def row(name: str, above: Loop, below: Loop) -> None:
        if above in speeds and below in speeds:
            rows.append((name, [a / b for a, b in zip(speeds[above], speeds[below], strict=True)]))

    for batch in batches:
        fp32 = Loop("toolkit", batch)
        bf16, two = replace(fp32, precision="bf16"), replace(fp32, processes=2)
        row(f"c/a, fp32, batch {batch}", fp32, Loop("notebook", batch))
        row(f"c/a, bf16 against the fp32 notebook, batch {batch}", bf16, Loop("notebook", batch))
        row(f"c/b, 2 processes, batch {batch}", two, Loop("example", batch, processes=2))
        row(f"c/d, fp32, batch {batch}", fp32, Loop("products", batch))
        row(f"c/d, bf16, batch {batch}", bf16, Loop("products", batch, "bf16"))
        row(f"bf16 / fp32, batch {batch}", bf16, fp32)
        row(f"2 processes x 1 thread / 1 x 2, batch {batch}", two, fp32)
        row(f"fast / exact with V = 4, batch {batch}", fp32, Loop("exact", batch))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--batch", type=int, nargs="+", default=[100, 1024])
    arguments = parser.parse_args()
    loops = []
    for batch in arguments.batch:
        loops += [Loop("notebook", batch), Loop("example", batch, processes=2)]
        loops += [Loop("products", batch), Loop("toolkit", batch), Loop("toolkit", batch, processes=2)]
        loops += [Loop("exact", batch), Loop("toolkit", batch, "bf16", processes=2)]
        loops += [Loop("toolkit", batch, "bf16"), Loop("products", batch, "bf16")]
    speeds: dict[Loop, list[float]] = {loop: [] for loop in loops}
    starts: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        benchmark = Benchmark(arguments.data, arguments.seconds, Path(scratch))
        for number in range(1, arguments.rounds + 1):
            for loop in loops:
                speeds[loop].append(benchmark.measure(loop))
                print(f"round {number}: {loop}: {speeds[loop][-1]:,.0f} images/s", flush=True)
            starts.append(benchmark.start())
        outputs = benchmark.outputs()
    show("images/s", [(str(loop), values) for loop, values in speeds.items()], "{:,.0f}".format)
    show("ratios", ratios(speeds, arguments.batch), "{:.2f}".format)
    show("outputs", [("an epoch's time with / without a grid and a checkpoint", outputs)], "{:.3f}".format)
    show("start", [(name, [start[name] for start in starts]) for name in starts[0]], "{:.1f}".format)
    return 0


def show(title: str, rows: list[tuple[str, list[float]]], text: Callable[[float], str]) -> None:
    table = Table(title, "median", "lowest", "highest")
    for name, values in rows:
        table.add_row(name, *(text(value) for value in (median(values), min(values), max(values))))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
