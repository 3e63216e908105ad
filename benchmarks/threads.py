"""The speed of a run with the number of threads that it selects itself, on an idle and on a busy machine.

    python benchmarks/threads.py --data DIR [--rounds 1] [--seconds 3] [--other CHECKOUT]

Busy: another process computes on one core without pause. In each round, each way of starting is measured with the
selected number of threads, with one and with two, one after the other; with --other also another checkout of this
project, on the idle machine. Prints images per second (medians), and their ratio for the selected number to the best of
one and two threads, and to the other checkout.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from launching import ACCELERATE, REPOSITORY, environment, launcher
from rich.console import Console
from rich.table import Table

from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json, read_json_lines

WAYS: dict[str, tuple[list[str], int]] = {
    "python": ([sys.executable], 1),
    "accelerate launch": (ACCELERATE, 1),
    "accelerate launch, 2 processes": (launcher(2), 2),
}
SPEED = {100: 8000, 1024: 16000}  # batch size -> approximate images per second


@contextlib.contextmanager
def occupied(cores: int) -> Iterator[None]:
    """Keep `cores` cores busy with other processes inside the block."""
    words = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(words) for _ in range(cores)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure(way: list[str], batch: int, threads: str, data: Path, seconds: float, checkout: Path) -> tuple[float, int]:
    """Images per second, and the number of threads per process."""
    steps = max(300, int(seconds * SPEED[batch] / batch / 100) * 100)
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) / "run")
        words = [*way, str(checkout / "gan_dist" / "train.py"), "--data.root", str(data), "--data.source", "local"]
        words += ["--run.dir", str(run.path), "--train.batch-size", str(batch), "--train.steps", str(steps)]
        words += ["--train.threads", threads, "--wandb.mode", "disabled", "--evaluate.every-epochs", "None"]
        variables = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
        done = subprocess.run(words, capture_output=True, text=True, env=variables, cwd=checkout)
        if done.returncode:
            sys.exit(f"{' '.join(words)} failed:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
        rows = read_json_lines(run.metrics)[1:]  # without the first window, the warm-up
        spent = sum(100 * batch / row["images_per_second"] for row in rows)
        return 100 * batch * len(rows) / spent, read_json(run.environment)["threads_per_process"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--other", type=Path, default=None)
    arguments = parser.parse_args()
    data = arguments.data.absolute()
    rows: dict[str, dict[str, list[float]]] = {}
    selected: dict[str, list[int]] = {}
    for _ in range(arguments.rounds):
        for busy in (0, 1):
            for batch in SPEED:
                for name, (way, _processes) in WAYS.items():
                    label = f"{'busy' if busy else 'idle'}, batch {batch}, {name}"
                    columns = [("selected", "None", REPOSITORY), ("1", "1", REPOSITORY), ("2", "2", REPOSITORY)]
                    if arguments.other is not None and not busy:
                        columns.append(("other checkout", "None", arguments.other.absolute()))
                    for column, threads, checkout in columns:
                        with occupied(busy):
                            speed, count = measure(way, batch, threads, data, arguments.seconds, checkout)
                        rows.setdefault(label, {}).setdefault(column, []).append(speed)
                        if column == "selected":
                            selected.setdefault(label, []).append(count)
                    print(label, {c: round(median(v)) for c, v in rows[label].items()}, selected[label], flush=True)
    names = list(next(iter(rows.values())))
    table = Table("images/s", *names, "threads selected", "selected / best of 1 and 2", "selected / other")
    for label, row in rows.items():
        ours, best = median(row["selected"]), max(median(row["1"]), median(row["2"]))
        values = [f"{median(row[column]):,.0f}" if column in row else "-" for column in names]
        beside = f"{ours / median(row['other checkout']):.2f}" if "other checkout" in row else "-"
        table.add_row(label, *values, str(selected[label]), f"{ours / best:.2f}", beside)
    print(f"{os.cpu_count()} cores")
    Console(width=160).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
