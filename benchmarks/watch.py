"""gan-dist watch: the processor time of a look at a run and of a frame, by the length of the run.

    python benchmarks/watch.py [--lines 1800 20000 100000]

Writes runs of the preset seed with the package's own writers. Between two looks, one line is appended to metrics.jsonl.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from recorded_run import metrics_row, write_recorded_run

from gan_dist.outputs.records import StepLines
from gan_dist.results.watch.frame import compose
from gan_dist.results.watch.text import Abilities, Size
from gan_dist.results.watch.view import Watcher

T = TypeVar("T")
REPETITIONS = 10
EVERY_STEPS = 100
SIZE = Size(80, 24)


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """The result of a function, and the milliseconds of processor time that it took."""
    began = time.process_time()
    return work(), 1000 * (time.process_time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lines", type=int, nargs="+", default=[1_800, 20_000, 100_000])
    arguments = parser.parse_args()
    table = Table()
    for column in ("lines", "first look, ms", "next look, ms", "frame of 80 x 24, ms"):
        table.add_column(column, justify="right")
    rng, images = np.random.default_rng(0), np.random.default_rng(0).integers(0, 256, (64, 28, 28)).astype(np.uint8)
    for lines in arguments.lines:
        with tempfile.TemporaryDirectory() as temporary:
            epochs = -(-lines * EVERY_STEPS // 600)
            folder = write_recorded_run(Path(temporary) / "run", epochs, every_steps=EVERY_STEPS)
            folder.write_status("running", lines * EVERY_STEPS)
            write_recorded_run(Path(temporary) / "pictures", 1, images=images).samples.rename(folder.samples)
            watcher, metrics = Watcher(folder.path), StepLines(folder.metrics)
            _, first = timed(watcher.look)
            looks, frames = [], []
            for i in range(1, REPETITIONS + 1):
                step = epochs * 600 + i * EVERY_STEPS
                metrics.append(metrics_row(step, step, rng))
                view, look = timed(watcher.look)
                _, frame = timed(lambda view=view: compose(view, SIZE, Abilities(colours=True, unicode=True)))
                looks.append(look)
                frames.append(frame)
            table.add_row(f"{lines:,}", f"{first:,.0f}", f"{median(looks):.0f}", f"{median(frames):.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
