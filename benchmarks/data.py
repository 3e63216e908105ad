"""The speed of the data: each row is the toolkit against a reference in the same run.

    python benchmarks/data.py [prepare] [--count 20000] [--rounds 3] [--scratch DIR]

prepare: pictures of 256x256 (JPEG, about 20 kB, smooth noise of several scales) are prepared to 64x64, as at the first
start with `--data.name folder --data.size 64`, against a plain Pillow loop over as many processes with the same
resizing, which writes into one array. Both start with the interpreter and end when all pixels are in a file.
Alternately, in new processes; the ratio of the medians is the figure.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from launching import REPOSITORY, environment
from PIL import Image
from rich.console import Console
from rich.table import Table

SIDE, SIZE = 256, 64  # pixels: of the files, of the prepared images
BASES = 64  # pictures of noise that are mixed
READ = """
import sys
from pathlib import Path
from gan_dist.config import DataConfig
from gan_dist.data.readers.folder import READER
from gan_dist.data.readers.reader import Context
config = DataConfig(name="folder", root=Path(sys.argv[1]), size=int(sys.argv[2]))
READER.read(config, "train", Context(print))
"""
# Every PARTS-th picture. The resizing is that of gan_dist/data/readers/picture.py.
PILLOW_LOOP = """
import sys
from pathlib import Path
import numpy as np
from PIL import Image
folder, output, size, part, parts = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
files = sorted(folder.iterdir())
pixels = np.memmap(output, np.uint8, "r+", 0, (len(files), 3, size, size))
for i in range(part, len(files), parts):
    image = Image.open(files[i])
    image.draft(None, (3 * size, 3 * size))
    image = image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS, reducing_gap=3.0)
    pixels[i] = np.asarray(image).transpose(2, 0, 1)
pixels.flush()
"""


class Row(NamedTuple):
    """One row of the table."""

    name: str
    toolkit: list[float]
    reference: list[float]
    unit: str
    target: str

    @property
    def ratio(self) -> float:
        return median(self.toolkit) / median(self.reference)


def prepare(scratch: Path, count: int, rounds: int) -> Row:
    """Seconds to prepare a folder of JPEGs, against a Pillow loop."""
    folder = scratch / "pictures"
    size = write_photos(folder, count)
    print(f"wrote {count:,} JPEGs, {size / count / 1000:.1f} kB each", flush=True)
    processes = len(os.sched_getaffinity(0))
    toolkit, reference = [], []
    for n in range(rounds):
        toolkit.append(seconds_of([[READ, folder, SIZE]], GAN_DIST_CACHE=str(scratch / f"cache-{n}")))
        output = scratch / f"loop-{n}.bin"
        with output.open("wb") as stream:
            stream.truncate(count * 3 * SIZE * SIZE)
        reference.append(seconds_of([[PILLOW_LOOP, folder, output, SIZE, i, processes] for i in range(processes)]))
        output.unlink()
        print(f"round {n + 1}: {toolkit[-1]:.2f} s, Pillow loop {reference[-1]:.2f} s", flush=True)
    return Row(f"prepare {count:,} JPEGs, {processes} processes", toolkit, reference, "s", "<= 1.15")


def seconds_of(commands: list[list[object]], **variables: str) -> float:
    """Wall time of Python scripts that run at the same time."""
    env = environment() | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)} | variables
    began = time.perf_counter()
    running = [subprocess.Popen([sys.executable, "-c", *map(str, words)], env=env) for words in commands]
    codes = [process.wait() for process in running]
    if any(codes):
        raise SystemExit(f"exit codes {codes}")
    return time.perf_counter() - began


def write_photos(folder: Path, count: int) -> int:
    """Write JPEGs, no two alike; returns their total size in bytes."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    bases = [smooth_noise(rng) for _ in range(BASES)]
    size = 0
    for i in range(count):
        first, second = rng.choice(BASES, 2, replace=False)
        shifted = np.roll(bases[first], tuple(rng.integers(0, SIDE, 2)), (0, 1))
        picture = np.clip(127 + 0.75 * shifted + 0.65 * bases[second][:, ::-1], 0, 255).astype(np.uint8)
        file = folder / f"{i:06d}.jpg"
        Image.fromarray(picture).save(file, quality=90)
        size += file.stat().st_size
    return size


def smooth_noise(rng: np.random.Generator) -> np.ndarray:
    """(SIDE, SIDE, 3) float32 around 0: noise of several scales, more of the coarse ones, mostly of equal channels."""
    total = np.zeros((SIDE, SIDE, 3), np.float32)
    for octave in range(1, 9):
        cells = min(2**octave + 1, SIDE)
        noise = rng.normal(0, 90 * 0.66**octave, (cells, cells, 3)).astype(np.float32)
        noise = 0.7 * noise.mean(-1, keepdims=True) * 3**0.5 + 0.3 * noise
        for channel in range(3):
            image = Image.fromarray(noise[..., channel]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            total[..., channel] += np.asarray(image)
    return total


ROWS: dict[str, Callable[[Path, int, int], Row]] = {"prepare": prepare}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], help="rows of the table; all by default")
    parser.add_argument("--count", type=int, default=20_000, help="number of pictures")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scratch", type=Path, help="folder for temporary files")
    arguments = parser.parse_args()
    table = Table(title="data")
    for column in ("row", "toolkit", "reference", "ratio", "target"):
        table.add_column(column, justify="left" if column == "row" else "right")
    for name in arguments.rows or ROWS:
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
            row = ROWS[name](Path(scratch), arguments.count, arguments.rounds)
        figures = (f"{median(times):.2f} {row.unit}" for times in (row.toolkit, row.reference))
        table.add_row(row.name, *figures, f"{row.ratio:.3f}", row.target)
    Console().print(table)


if __name__ == "__main__":
    main()
