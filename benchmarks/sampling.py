"""Speed and memory of `gan-dist sample`, beside a script that generates all images and then saves them.

    sampling.py RUN [--counts 1000 100000] [--processes 1 2]

The times include the start of Python and the imports. The memory is that of the largest process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

SCRIPT = """
import sys, numpy as np, torch, gan_dist
run, count, output = sys.argv[1], int(sys.argv[2]), sys.argv[3]
generator = gan_dist.load_generator(run)
labels = None if generator.classes is None else torch.randint(len(generator.classes), (count,))
images = generator(torch.randn(count, generator.latent_dim), labels)
np.savez_compressed(output, images=((images + 1) * 127.5).round().to(torch.uint8).numpy())
"""


def measure(words: list[str]) -> tuple[float, float]:
    """Run Python with these words. Returns seconds, and GB of memory of its largest process."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} failed with exit code {process.returncode}")
    return time.monotonic() - started, used.ru_maxrss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--counts", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--script-up-to", type=int, default=100_000, help="largest count of the script")
    arguments = parser.parse_args()
    table = Table()
    for column in ("", "images", "seconds", "images/s", "memory, GB", "file, MB"):
        table.add_column(column, justify="left" if not column else "right")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "samples.npz"
        for count in arguments.counts:
            rows = {"script": ["-c", SCRIPT, str(arguments.run), str(count), str(output)]}
            rows = rows if count <= arguments.script_up_to else {}
            command = ["-m", "gan_dist.cli", "sample", str(arguments.run), "--force", "--output", str(output)]
            for processes in arguments.processes:
                words = [*command, "--count", str(count), "--processes", str(processes)]
                rows[f"--processes {processes}"] = words
            for name, words in rows.items():
                seconds, memory = measure(words)
                size = f"{output.stat().st_size / 1e6:,.1f}"
                table.add_row(name, f"{count:,}", f"{seconds:.1f}", f"{count / seconds:,.0f}", f"{memory:.2f}", size)
    Console().print(table)


if __name__ == "__main__":
    main()
