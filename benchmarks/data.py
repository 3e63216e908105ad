"""The speed and memory of the data: each row is the toolkit against a reference in the same run.

    python benchmarks/data.py [prepare] [file] [large] [--count 20000] [--rounds 3] [--scratch DIR]

prepare: pictures of 256x256 (JPEG, about 20 kB) are prepared to 64x64, as at the first start with `--data.name folder
--data.size 64`, against a plain Pillow loop over as many processes with the same resizing, which writes into one array.
Both start with the interpreter and end when all pixels are in a file. Alternately, in new processes; the ratio of the
medians is the figure.

file: images/s of `seed` with `--data.memory file` against `device`, and the time from the start to the first step.
60,000 prepared images of 28x28, alternately. The figures are the medians of the ratios and differences within a round.

large: 200,000 prepared images of 64x64 in colour (2.5 GB), on two processes, against 60,000 of 28x28. The time to the
first step; the memory that a rank shares with no other process; and the part of the pixels in memory that both ranks
share. Needs 5 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

import numpy as np
from launching import REPOSITORY, environment, launcher
from photos import write_photos
from rich.console import Console
from rich.table import Table
from throughput import seconds_of as log_seconds

from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json_lines

SIZE = 64  # pixels of the images that are prepared from JPEGs
BATCHES = {100: 3, 1024: 6}  # batch size -> epochs of a measurement
MNIST_LIKE, LARGE = (60_000, 28, 28), (200_000, 64, 64, 3)
MEASURED_STEPS = 60  # first_step.py measures the memory after 50
FIRST_STEP = str(REPOSITORY / "benchmarks" / "first_step.py")
TRAIN = str(REPOSITORY / "gan_dist" / "train.py")
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
    """One row of the table. The figure compares the toolkit with the reference of the same round."""

    name: str
    toolkit: list[float]
    reference: list[float]
    unit: str
    target: str
    figure: Literal["ratio", "difference"] = "ratio"

    @property
    def value(self) -> float:
        pairs = list(zip(self.toolkit, self.reference, strict=True))
        return median(one / other if self.figure == "ratio" else one - other for one, other in pairs)


def prepare(scratch: Path, count: int, rounds: int) -> Iterator[Row]:
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
    yield Row(f"prepare {count:,} JPEGs, {processes} processes", toolkit, reference, "s", "<= 1.15")


def file(scratch: Path, count: int, rounds: int) -> Iterator[Row]:
    """Images/s and the time to the first step with images from the mapped file, against images on the device."""
    images = write_noise(scratch / "small.npy", MNIST_LIKE)
    memories = ("file", "device")
    speeds: dict[tuple[str, int], list[float]] = {(memory, batch): [] for batch in BATCHES for memory in memories}
    starts: dict[str, list[float]] = {memory: [] for memory in memories}
    for n in range(rounds):
        for batch, epochs in BATCHES.items():
            for memory in memories[:: 1 if n % 2 else -1]:  # neither is always the first
                flags = ["--data.memory", memory, "--train.batch-size", str(batch), "--train.epochs", str(epochs)]
                speeds[memory, batch].append(images_per_second(scratch, images, flags))
        for memory in memories:
            starts[memory].append(first_step(scratch, images, ["--data.memory", memory])[0]["seconds"])
        shown = ", ".join(f"{memory} {batch}: {values[-1]:,.0f}" for (memory, batch), values in speeds.items())
        print(f"round {n + 1}: images/s {shown}", flush=True)
    for batch in BATCHES:
        yield Row(f"seed, batch {batch}", speeds["file", batch], speeds["device", batch], "images/s", ">= 0.95")
    yield Row("start to first step", starts["file"], starts["device"], "s", "<= 1", "difference")


def large(scratch: Path, count: int, rounds: int) -> Iterator[Row]:
    """Start and memory of a large data set on two processes, against a small one."""
    sets = {"small": write_noise(scratch / "small.npy", MNIST_LIKE), "large": write_noise(scratch / "big.npy", LARGE)}
    flags = ["--data.memory", "file", "--train.batch-size", "1024", "--evaluate.every-epochs", "None"]
    found: dict[str, list[list[dict[str, float]]]] = {name: [] for name in sets}
    for n in range(rounds + 1):
        for name, images in sets.items():
            found[name].append(first_step(scratch, images, flags, processes=2))
        if n == 0:  # this round prepared the images
            found = {name: [] for name in sets}
            continue
        for name, ranks in found.items():
            print(f"round {n}, {name}: {json.dumps(ranks[-1])}", flush=True)
    columns = {
        name: {key: [max(rank[key] for rank in ranks) for ranks in rounds_] for key in rounds_[0][0]}
        for name, rounds_ in found.items()
    }
    big, small = columns["large"], columns["small"]
    yield Row("200,000 images: start to first step", big["seconds"], small["seconds"], "s", "<= 5", "difference")
    yield Row("200,000 images: private memory", big["private MB"], small["private MB"], "MB", "<= 300", "difference")
    yield Row("200,000 images: pixels shared", big["pixels PSS MB"], big["pixels RSS MB"], "MB", "0.5 if all are")


def write_noise(file: Path, shape: tuple[int, ...]) -> Path:
    """Write random pixels as an array, unless it is there."""
    if not file.exists():
        rng, pixels = np.random.default_rng(0), np.lib.format.open_memmap(file, "w+", np.uint8, shape)
        for start in range(0, shape[0], 1_000):
            pixels[start : start + 1_000] = rng.integers(0, 256, pixels[start : start + 1_000].shape, np.uint8)
        pixels.flush()
    return file


def images_per_second(scratch: Path, images: Path, flags: list[str]) -> float:
    """Of a run of `seed` on one process, after its first log point."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        execute([*launcher(1), TRAIN, *run_flags(images, Path(folder)), *flags], scratch)
        rows = read_json_lines(RunFolder(Path(folder) / "run").metrics)
    return (rows[-1]["images_seen"] - rows[0]["images_seen"]) / sum(log_seconds(rows)[1:])


def first_step(scratch: Path, images: Path, flags: list[str], processes: int = 1) -> list[dict[str, float]]:
    """What first_step.py measures on each rank, with the seconds from the start to the first step."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        words = [FIRST_STEP, f"{folder}/measured", *run_flags(images, Path(folder)), *flags]
        began = time.time()
        execute([*launcher(processes), *words, "--train.steps", str(MEASURED_STEPS)], scratch)
        ranks = [json.loads(Path(f"{folder}/measured-{rank}").read_text()) for rank in range(processes)]
    return [rank | {"seconds": rank["time"] - began} for rank in ranks]


def run_flags(images: Path, folder: Path) -> list[str]:
    return ["--data.name", "arrays", "--data.root", str(images), "--run.dir", str(folder / "run")]


def execute(words: list[str], scratch: Path) -> None:
    """Run a training with the cache in the scratch folder."""
    env = environment() | {"GAN_DIST_CACHE": str(scratch / "cache")}
    done = subprocess.run(words, capture_output=True, text=True, env=env)
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{done.stderr}")


def seconds_of(commands: list[list[object]], **variables: str) -> float:
    """Wall time of Python scripts that run at the same time."""
    env = environment() | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)} | variables
    began = time.perf_counter()
    running = [subprocess.Popen([sys.executable, "-c", *map(str, words)], env=env) for words in commands]
    codes = [process.wait() for process in running]
    if any(codes):
        raise SystemExit(f"exit codes {codes}")
    return time.perf_counter() - began


ROWS: dict[str, Callable[[Path, int, int], Iterator[Row]]] = {"prepare": prepare, "file": file, "large": large}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], help="rows of the table; all by default")
    parser.add_argument("--count", type=int, default=20_000, help="number of JPEGs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scratch", type=Path, help="folder for temporary files")
    arguments = parser.parse_args()
    table = Table(title="data")
    for column in ("row", "toolkit", "reference", "figure", "", "target"):
        table.add_column(column, justify="left" if column in ("row", "") else "right")
    for name in arguments.rows or ROWS:
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
            for row in ROWS[name](Path(scratch), arguments.count, arguments.rounds):
                figures = (f"{median(values):,.2f} {row.unit}" for values in (row.toolkit, row.reference))
                table.add_row(row.name, *figures, f"{row.value:.3f}", row.figure, row.target)
    Console().print(table)


if __name__ == "__main__":
    main()
