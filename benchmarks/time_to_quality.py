"""The time until the images are good: Fréchet distance to real images over seconds, from a cold start.

    python benchmarks/time_to_quality.py --data DIR --folder DIR [--recipes NAME[:MINUTES] ...]
                                         [--seeds N ...] [--threads N] [--every STEPS] [--target D]
                                         [--plot docs/time-to-quality.png]

Trains each recipe with each seed, one after the other, for MINUTES or for 100 epochs: `notebook`, the plain loop of
reference.py, and presets of the toolkit as `python gan_dist/train.py NAME`, with their default logs, samples,
checkpoints and evaluations. For all recipes, the time starts with the process, and the generator on disk at a time is
measured: 10,000 images, and the classifier that ships with the package. Generators are measured after the training, so
that this does not slow it down.

The precision of the times is the --every steps after which a preset writes its generator. Results stay in the folder
and are reused: a long list can be processed in parts, and with --threads 1 in as many processes as there are cores.
Prints Markdown: the distance at some times; the seconds until it is at most the notebook's last one (or --target), both
as median, lowest and highest of the seeds; and the shares of the digits in the last images.
"""

from __future__ import annotations

import argparse
import math
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from launching import REPOSITORY, TRAIN, environment

from gan_dist.config import PRESETS, STOPPED_EXIT_CODE, DataConfig
from gan_dist.data.pixels import quantize
from gan_dist.data.sources import load_images
from gan_dist.evaluation.classes import class_shares
from gan_dist.evaluation.distances import frechet_distance
from gan_dist.evaluation.extractors import classifier_for
from gan_dist.evaluation.features import extract_features
from gan_dist.evaluation.reference import reference_for
from gan_dist.files import write_json
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json
from gan_dist.results.generator import load_generator
from gan_dist.results.sample import generate_images

NOTEBOOK, EPOCHS = "notebook", 100
SPACING = 1.05  # minimum ratio of the times of two measured generators
COUNT = 10_000  # images
COLUMNS = (15, 30, 60, 120, 300, 600, 1200, 3600, 7200)  # seconds


@dataclass(frozen=True)
class Setup:
    """Settings of all recipes."""

    data: Path
    folder: Path
    """Contains the runs and their measurements."""
    threads: int | None
    every: int
    """Steps between two generators that a preset writes."""


@dataclass(frozen=True)
class Recipe:
    """A training, and its duration: in minutes, or EPOCHS."""

    name: str
    minutes: float | None

    @classmethod
    def parse(cls, text: str) -> Recipe:
        name, _, minutes = text.partition(":")
        if name not in (NOTEBOOK, *PRESETS):
            raise argparse.ArgumentTypeError(f"{name} is none of {', '.join((NOTEBOOK, *PRESETS))}")
        return cls(name, float(minutes) if minutes else None)

    def __str__(self) -> str:
        return f"{self.name}-{self.minutes:g}min" if self.minutes else self.name

    def command(self, seed: int, setup: Setup, folder: Path) -> list[str]:
        """The command line that trains it and repeatedly writes its generator to `folder`."""
        threads = setup.threads
        if self.name == NOTEBOOK:
            loop = [str(REPOSITORY / "benchmarks" / "reference.py"), NOTEBOOK, "--data", str(setup.data)]
            loop += ["--epochs", str(EPOCHS), "--seed", str(seed), "--folder", str(folder)]
            return [sys.executable, *loop, *(["--threads", str(threads)] if threads else [])]
        words = [sys.executable, TRAIN, self.name, "--data.root", str(setup.data), "--data.source", "local"]
        words += ["--run.dir", str(folder), "--train.seed", str(seed), "--checkpoint.every-steps", str(setup.every)]
        words += ["--train.threads", str(threads), "--train.epochs", str(10**6 if self.minutes else EPOCHS)]
        return words


@dataclass(frozen=True)
class Point:
    """A measured generator."""

    seconds: float
    """Since the start of its process."""
    frechet: float
    smallest: float
    """Share of the rarest digit."""
    largest: float


Curve = list[Point]


def watch(words: list[str], file: Path, limit: float) -> list[tuple[float, bytes]]:
    """Run a command, and return the successive contents of a file with the seconds since the start.

    Args:
        words: the command.
        file: the command replaces it and never writes it in place.
        limit: seconds after which the command gets a SIGTERM.
    """
    kept: list[tuple[float, bytes]] = []
    with tempfile.TemporaryFile("w+") as output:
        began, last_written = time.time(), 0.0
        process = subprocess.Popen(words, stdout=output, stderr=output, env=environment())
        stopping = False
        while process.poll() is None:
            time.sleep(0.05)
            if not stopping and time.time() - began > limit:
                process.send_signal(signal.SIGTERM)
                stopping = True
            written = file.stat().st_mtime if file.exists() else 0.0
            # A file after the limit is from the end of the run.
            if written > last_written and written - began <= limit:
                seconds, content = written - began, file.read_bytes()
                if len(kept) > 1 and seconds < SPACING * kept[-2][0]:
                    kept.pop()
                kept.append((seconds, content))
                last_written = written
        if process.returncode not in (0, STOPPED_EXIT_CODE):
            output.seek(0)
            sys.exit(f"{' '.join(words)} failed:\n{output.read()}")
    return kept


class Measurement:
    """Measures generators.

    Args:
        data: a folder with MNIST.
    """

    def __init__(self, data: Path) -> None:
        config = DataConfig(root=data, source="local")
        images = load_images(config, print)
        self.classifier = classifier_for(config, print)
        self.reference = reference_for(config, images, self.classifier, print)

    def measure(self, seconds: float, content: bytes) -> Point:
        with tempfile.TemporaryDirectory() as folder:
            RunFolder(Path(folder)).generator.write_bytes(content)
            pixels = quantize(generate_images(load_generator(folder), COUNT, seed=0))
        images = extract_features(self.classifier.network, pixels)
        shares = class_shares(images, self.reference)
        digits = [share.value for name, share in shares.items() if name != "classes/from_uniform"]
        distance = frechet_distance(images, self.reference)["distance/frechet"].value
        return Point(seconds, distance, min(digits), max(digits))


def curve_of(recipe: Recipe, seed: int, setup: Setup, measurement: Measurement) -> Curve:
    """Train and measure a recipe, unless this has been done before."""
    name = f"{recipe}-{seed}"
    file, run = setup.folder / f"{name}.json", setup.folder / name
    if not file.exists():
        shutil.rmtree(run, ignore_errors=True)  # of an interrupted run; resuming it would give wrong times
        words = recipe.command(seed, setup, run)
        kept = watch(words, RunFolder(run).generator, 60 * (recipe.minutes or math.inf))
        if not kept:
            sys.exit(f"{name} wrote no generator in its time; give it more minutes")
        write_json(file, {"points": [asdict(measurement.measure(*one)) for one in kept]})
    curve = [Point(**point) for point in read_json(file)["points"]]
    print(f"{name}: {curve[-1]}", file=sys.stderr, flush=True)
    return curve


def at(curve: Curve, seconds: float) -> float | None:
    """The distance of the generator at a time; None if there is none yet, or the run has ended."""
    earlier = [point for point in curve if point.seconds <= seconds]
    return earlier[-1].frechet if earlier and curve[-1].seconds >= seconds / SPACING else None


def reached(curve: Curve, target: float) -> float:
    """Seconds until a distance is reached; infinity if it is not."""
    return next((point.seconds for point in curve if point.frechet <= target), math.inf)


def spread(values: list[float], digits: int) -> str:
    """The median, with the lowest and the highest."""
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def report(curves: dict[Recipe, list[Curve]], target: float, seconds: float | None) -> None:
    """Print the tables.

    Args:
        curves: recipe -> one curve per seed.
        target: a distance.
        seconds: time of the notebook to its last distance, or None.
    """
    shown = [column for column in COLUMNS if any(at(c, column) for some in curves.values() for c in some)]
    print(f"Fréchet distance over seconds, median of the seeds:\n\n| recipe | {' | '.join(map(str, shown))} |")
    print("|---" * (len(shown) + 1) + "|")
    for recipe, some in curves.items():
        rows = [[at(curve, column) for curve in some] for column in shown]
        cells = [f"{median(found):.3g}" if (found := [v for v in row if v is not None]) else "" for row in rows]
        print(f"| {recipe} | {' | '.join(cells)} |")
    print(f"\n| recipe | seeds | seconds to {target:.1f} | of notebook's | last distance | after seconds | digits |")
    print("|---|---|---|---|---|---|---|")
    for recipe, some in curves.items():
        times = [reached(curve, target) for curve in some]
        last = [curve[-1] for curve in some]
        share = f"1/{seconds / median(times):.0f}" if seconds and math.isfinite(median(times)) else ""
        least, most = min(point.smallest for point in last), max(point.largest for point in last)
        cells = [str(recipe), str(len(some)), spread(times, 0), share, spread([point.frechet for point in last], 2)]
        cells += [spread([point.seconds for point in last], 0), f"{least:.1%} to {most:.1%}"]
        print(f"| {' | '.join(cells)} |")


def plot(curves: dict[Recipe, list[Curve]], floor: float, file: Path) -> None:
    """Plot the distance over seconds: a line per seed, and the distance of real images."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for number, (recipe, some) in enumerate(curves.items()):
        for i, curve in enumerate(some):
            seconds, distances = [p.seconds for p in curve], [p.frechet for p in curve]
            axis.plot(seconds, distances, color=f"C{number}", linewidth=1.2, label=None if i else str(recipe))
    axis.axhline(floor, color="gray", linewidth=0.8, linestyle="--", label="real images")
    axis.set(xscale="log", yscale="log", xlabel="seconds from the start of the process", ylabel="Fréchet distance")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(file, dpi=100)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    recipes = [NOTEBOOK, "seed", "r3:10", "conv:25", "r3-conv:60"]
    parser.add_argument("--recipes", type=Recipe.parse, nargs="+", default=[*map(Recipe.parse, recipes)])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--every", type=int, default=300)
    parser.add_argument("--target", type=float, default=None)
    parser.add_argument("--plot", type=Path, default=None)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    setup = Setup(arguments.data, arguments.folder, arguments.threads, arguments.every)
    measurement = Measurement(arguments.data)
    curves: dict[Recipe, list[Curve]] = {recipe: [] for recipe in arguments.recipes}
    for seed in arguments.seeds:  # alternating, since the speed of the machine may change
        for recipe, some in curves.items():
            some.append(curve_of(recipe, seed, setup, measurement))
    target, seconds = arguments.target, None
    if loops := curves.get(Recipe(NOTEBOOK, None)):
        target = target or median(curve[-1].frechet for curve in loops)
        seconds = median(curve[-1].seconds for curve in loops)
    floor = measurement.reference.floor["distance/frechet"].value
    report(curves, target or floor, seconds)
    print(f"\nReal test images against the training images: {floor:.3f}.")
    if arguments.plot:
        plot(curves, floor, arguments.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
