"""What a conditional preset reaches: obedience, accuracy score and distances, beside those of real images.

    python benchmarks/conditional.py --data DIR --folder DIR [--presets NAME ...] [--minutes M] [--seeds N ...]
                                     [--processes N] [--threads N] [-- FLAG ...]

Trains each preset with each seed for M minutes from a cold start, stops it with SIGTERM, and evaluates 10,000 images of
its generator (`gan-dist evaluate --accuracy-score` for conditional presets). FLAGS are passed to each training, such as
--data.name fashion-mnist. Results stay in the folder and are reused.

Prints Markdown: the median of the seeds, with the lowest and the highest, and the figure of real images. `worst class`
is the largest ratio of a class's Fréchet distance to that of real images of this class.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from launching import REPOSITORY, TRAIN, launcher

GRACE = 60  # seconds until a stopped run has saved its checkpoint

Figures = dict[str, Any]
"""evaluation.json."""


def train(preset: str, seed: int, folder: Path, arguments: argparse.Namespace) -> None:
    """Train for the given minutes, unless the folder holds the result."""
    words = [*launcher(arguments.processes), TRAIN, preset, "--data.root", str(arguments.data)]
    words += ["--train.seed", str(seed), "--run.dir", str(folder), "--wandb.mode", "disabled", *arguments.flags]
    if arguments.threads:
        words += ["--train.threads", str(arguments.threads)]
    with open(folder.with_suffix(".log"), "w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, cwd=REPOSITORY)
        try:
            process.wait(60 * arguments.minutes)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            process.wait(GRACE)
    state = json.loads((folder / "status.json").read_text())["state"] if (folder / "status.json").exists() else None
    if state not in ("finished", "stopped"):
        sys.exit(f"{folder} has failed; see {log.name}")


def evaluate(folder: Path) -> Figures:
    """The figures of the run's generator; of a conditional one with the accuracy score."""
    config = json.loads((folder / "config.json").read_text())
    words = [sys.executable, "-m", "gan_dist.cli", "evaluate", str(folder)]
    words += ["--accuracy-score"] if config["model"]["labels"] != "none" else []
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, cwd=REPOSITORY)
    evaluated: Figures = json.loads((folder / "evaluation.json").read_text())
    return evaluated


def rows_of(evaluated: Figures) -> dict[str, tuple[float, float | None]]:
    """Name -> the figure and that of real images."""
    figures, real = ({name: figure["value"] for name, figure in evaluated[of].items()} for of in ("figures", "real"))
    names = ("distance/frechet", "asked/obtained", "score/accuracy", "within/frechet", "nearest/ratio")
    rows: dict[str, tuple[float, float | None]] = {
        name: (figures[name], real.get(name)) for name in names if name in figures
    }
    within = {name: figures[name] / real[name] for name in figures if re.fullmatch(r"within/\d+", name)}
    if within:
        rows["asked/obtained, worst class"] = min((figures[n], real[n]) for n in figures if n.startswith("asked/"))
        rows["worst class, within / real"] = (max(within.values()), 1.0)
    return rows


def report(preset: str, seconds: list[float], results: list[dict[str, tuple[float, float | None]]]) -> None:
    print(f"\n`{preset}`, {len(results)} seed(s), {median(seconds) / 60:.0f} minutes of training\n")
    print("| figure | median (lowest to highest) | real images |\n|---|---|---|")
    for name in results[0]:
        values, real = [row[name][0] for row in results], results[0][name][1]
        shown = f"{median(values):.4g} ({min(values):.4g} to {max(values):.4g})"
        print(f"| {name} | {shown} | {'-' if real is None else f'{real:.4g}'} |", flush=True)


def training_parser(description: str | None, minutes: float) -> argparse.ArgumentParser:
    """The options of a benchmark that calls `train`.

    Args:
        description: of the benchmark.
        minutes: default of --minutes.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=minutes)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("flags", nargs="*", metavar="FLAG")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line of `training_parser`, and create the folder of the results."""
    arguments = parser.parse_args()
    arguments.data, arguments.folder = arguments.data.resolve(), arguments.folder.resolve()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PYTHONPATH", str(REPOSITORY))
    return arguments


def main() -> int:
    parser = training_parser(__doc__, minutes=30)
    parser.add_argument("--presets", nargs="+", default=["digits", "conv"])
    arguments = parse(parser)
    for preset in arguments.presets:
        results, seconds = [], []
        for seed in arguments.seeds:
            folder = arguments.folder / f"{preset}-{seed}"
            if not (folder / "evaluation.json").exists():
                train(preset, seed, folder, arguments)
                evaluate(folder)
            results.append(rows_of(json.loads((folder / "evaluation.json").read_text())))
            seconds.append(json.loads((folder / "summary.json").read_text())["seconds"])
        report(preset, seconds, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
