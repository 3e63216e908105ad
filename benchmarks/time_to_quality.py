"""How long it takes until the images are good: Fréchet distance to real images over seconds, from a cold start.

    python benchmarks/time_to_quality.py --data DIR --folder DIR [--recipes NAME[:MINUTES] ...]
                                         [--seeds N ...] [--threads N] [--every STEPS] [--target D]
                                         [--plot docs/time-to-quality.png]

Trains each recipe with each seed, one after the other: `notebook`, a plain loop as reference.py has it, and presets of
the toolkit as `python gan_dist/train.py NAME`, with all that they log, sample, save and evaluate; for so many minutes,
or else for 100 epochs. Whatever the recipe, the clock starts with the process, and what is measured is the generator
that it has on disk by then: 10,000 images of it, and the classifier that ships with the package. Measuring happens
after the training, so that it takes nothing away from it.

The time until a distance is known to the --every steps after which a preset leaves its generator. What has been
trained stays in the folder, and is not trained again: a long list may be done in parts, and with --threads 1 as many of
them side by side as there are cores. Prints Markdown: the distance at some times, the seconds until it is no larger
than the notebook's last one (or --target), both as the median of the seeds with the lowest and the highest, and the
shares of the digits in the last images.
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
from gan_dist.evaluation.classifier import classifier_for
from gan_dist.evaluation.metrics import class_shares, frechet_distance
from gan_dist.evaluation.observations import observe
from gan_dist.evaluation.reference import reference_for
from gan_dist.files import write_json
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json
from gan_dist.results.generate import generate, load_generator

NOTEBOOK, EPOCHS = "notebook", 100
APART = 1.05  # two generators that are measured are at least this factor of time apart
COUNT = 10_000  # images
COLUMNS = (15, 30, 60, 120, 300, 600, 1200, 3600, 7200)  # seconds


@dataclass(frozen=True)
class Setup:
    """How every recipe is trained."""

    data: Path
    folder: Path
    """Holds the runs and what was measured of them."""
    threads: int | None
    every: int
    """Steps between two generators that a preset leaves on disk."""


@dataclass(frozen=True)
class Recipe:
    """What is trained, and for how long: minutes, or else EPOCHS."""

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
        """What trains it, and leaves its generator in `folder` again and again."""
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
    """A generator, measured."""

    seconds: float
    """Since its process was started."""
    frechet: float
    smallest: float
    """Share of the rarest digit."""
    largest: float


Curve = list[Point]


def watch(words: list[str], file: Path, limit: float) -> list[tuple[float, bytes]]:
    """Start a command and keep what it writes to a file, with the seconds since its start.

    Args:
        words: the command.
        file: replaced by the command, never written in place.
        limit: seconds after which it is asked to stop.
    """
    kept: list[tuple[float, bytes]] = []
    with tempfile.TemporaryFile("w+") as said:
        began, seen = time.time(), 0.0
        process = subprocess.Popen(words, stdout=said, stderr=said, env=environment())
        stopping = False
        while process.poll() is None:
            time.sleep(0.05)
            if not stopping and time.time() - began > limit:
                process.send_signal(signal.SIGTERM)
                stopping = True
            written = file.stat().st_mtime if file.exists() else 0.0
            # What was written later than the limit is what the end of the run left.
            if written > seen and written - began <= limit:
                seconds, content = written - began, file.read_bytes()
                if len(kept) > 1 and seconds < APART * kept[-2][0]:
                    kept.pop()
                kept.append((seconds, content))
                seen = written
        if process.returncode not in (0, STOPPED_EXIT_CODE):
            said.seek(0)
            sys.exit(f"{' '.join(words)} failed:\n{said.read()}")
    return kept


class Bench:
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
            images = quantize(generate(load_generator(folder), COUNT, seed=0))
        observed = observe(self.classifier.network, images)
        shares = class_shares(observed, self.reference)
        digits = [share.value for name, share in shares.items() if name != "classes/from_uniform"]
        distance = frechet_distance(observed, self.reference)["distance/frechet"].value
        return Point(seconds, distance, min(digits), max(digits))


def curve_of(recipe: Recipe, seed: int, setup: Setup, bench: Bench) -> Curve:
    """Train a recipe and measure it, if that has not been done."""
    name = f"{recipe}-{seed}"
    file, run = setup.folder / f"{name}.json", setup.folder / name
    if not file.exists():
        shutil.rmtree(run, ignore_errors=True)  # of a run that was interrupted; going on there, the clock would lie
        words = recipe.command(seed, setup, run)
        kept = watch(words, RunFolder(run).generator, 60 * (recipe.minutes or math.inf))
        if not kept:
            sys.exit(f"{name} left no generator in its time; give it more minutes")
        write_json(file, {"points": [asdict(bench.measure(*one)) for one in kept]})
    curve = [Point(**point) for point in read_json(file)["points"]]
    print(f"{name}: {curve[-1]}", file=sys.stderr, flush=True)
    return curve


def at(curve: Curve, seconds: float) -> float | None:
    """The distance of the generator that is there at a time; None where there is none yet, or the run is over."""
    there = [point for point in curve if point.seconds <= seconds]
    return there[-1].frechet if there and curve[-1].seconds >= seconds / APART else None


def reached(curve: Curve, target: float) -> float:
    """Seconds until a distance is reached; infinite if it is not."""
    return next((point.seconds for point in curve if point.frechet <= target), math.inf)


def spread(values: list[float], digits: int) -> str:
    """The median, with the lowest and the highest."""
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def report(curves: dict[Recipe, list[Curve]], target: float, seconds: float | None) -> None:
    """Print the tables.

    Args:
        curves: those of each recipe, one for each seed.
        target: a distance.
        seconds: what the notebook takes to its own last distance, or None.
    """
    shown = [column for column in COLUMNS if any(at(c, column) for some in curves.values() for c in some)]
    print(f"Fréchet distance after so many seconds, median of the seeds:\n\n| recipe | {' | '.join(map(str, shown))} |")
    print("|---" * (len(shown) + 1) + "|")
    for recipe, some in curves.items():
        rows = [[at(curve, column) for curve in some] for column in shown]
        cells = [f"{median(found):.3g}" if (found := [v for v in row if v is not None]) else "" for row in rows]
        print(f"| {recipe} | {' | '.join(cells)} |")
    print(
        f"\n| recipe | seeds | seconds to {target:.1f} | of the notebook's | last distance | after seconds | digits |"
    )
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
    """Distance over seconds: a line for each seed, and that of real images."""
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
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    if asked.threads:
        torch.set_num_threads(asked.threads)
    setup = Setup(asked.data, asked.folder, asked.threads, asked.every)
    bench = Bench(asked.data)
    curves: dict[Recipe, list[Curve]] = {recipe: [] for recipe in asked.recipes}
    for seed in asked.seeds:  # in turns: a machine may change its speed
        for recipe, some in curves.items():
            some.append(curve_of(recipe, seed, setup, bench))
    target, seconds = asked.target, None
    if loops := curves.get(Recipe(NOTEBOOK, None)):
        target = target or median(curve[-1].frechet for curve in loops)
        seconds = median(curve[-1].seconds for curve in loops)
    floor = bench.reference.floor["distance/frechet"].value
    report(curves, target or floor, seconds)
    print(f"\nReal test images against the training images: {floor:.3f}.")
    if asked.plot:
        plot(curves, floor, asked.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
