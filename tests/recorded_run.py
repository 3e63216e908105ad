"""Writes a run folder without training, by the package's own writers: for tests and benchmarks of reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gan_dist.config import PRESETS, RunConfig, to_dict
from gan_dist.data.spec import DataSpec
from gan_dist.files import write_json
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.pictures import save_grid
from gan_dist.outputs.records import StepLines

STEPS_PER_EPOCH = 600
BATCH = 100
FLOOR = {"distance/frechet": 0.7, "coverage": 0.96, "precision": 0.88, "recall": 0.86, "classes/from_uniform": 0.02}
FLOOR |= {"diversity/features": 32.5, **{f"classes/{label}": 0.1 for label in range(10)}}


def write_recorded_run(
    path: Path,
    epochs: int = 4,
    seed: int = 0,
    images: np.ndarray | None = None,
    distances: Sequence[float] | None = None,
    sessions: Sequence[int] = (0,),
    every_steps: int = 100,
) -> RunFolder:
    """Write the records of a run of the preset seed on MNIST.

    Args:
        path: the run folder.
        epochs: of the run.
        seed: of the numbers, and train.seed.
        images: (64, 28, 28) uint8 that the samples approach; None: no samples.
        distances: Fréchet distances of evaluations at evenly spaced epochs; None: one that falls, every 10 epochs.
        sessions: the steps at which sessions began.
        every_steps: between two lines of metrics.jsonl.
    """
    folder, rng = RunFolder(path), np.random.default_rng(seed)
    path.mkdir(parents=True)
    config = PRESETS["seed"]()
    config = replace(config, train=replace(config.train, epochs=epochs, seed=seed), run=RunConfig(dir=path))
    write_json(folder.config, to_dict(config))
    write_json(folder.environment, environment(sessions))
    steps = epochs * STEPS_PER_EPOCH
    metrics, evaluations = StepLines(folder.metrics), StepLines(folder.evaluations)
    folder.metrics.write_text("")
    for step in range(every_steps, steps + 1, every_steps):
        metrics.append(metrics_row(step, steps, rng))
    found = distances if distances is not None else [200 * (10 * i) ** -0.8 for i in range(1, epochs // 10 + 1)]
    for i, distance in enumerate(found, 1):
        evaluations.append(evaluation_row(i * steps // len(found), distance, rng))
    if found:
        write_json(folder.floor, FLOOR)
    if images is not None:
        save_grid(as_images(images), folder.real_samples)
        for epoch in range(1, epochs + 1):
            noise = rng.normal(0, 120 * epoch**-0.4, images.shape)
            save_grid(as_images(images[::-1] + noise * (images[::-1] + 30) / 255), folder.epoch_samples(epoch))
    folder.write_status("finished", steps, f"{epochs} epochs done")
    return folder


def as_images(pixels: np.ndarray) -> torch.Tensor:
    """(n, 1, 28, 28) in [-1, 1]."""
    return torch.from_numpy(np.clip(pixels, 0, 255).astype(np.float32))[:, None] / 127.5 - 1


def metrics_row(step: int, steps: int, rng: np.random.Generator) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    noise = rng.normal(0, 0.05, 6)
    return {
        "step": step,
        "epoch": step / STEPS_PER_EPOCH,
        "images_seen": step * BATCH,
        "images_per_second": 5000 + 500 * noise[0],
        "loss/discriminator": 0.9 - 0.3 * step / steps + noise[1],
        "loss/generator": 1.5 + step / steps + noise[2],
        "score/real": 0.75 + noise[3] / 2,
        "score/fake": 0.25 + noise[4] / 2,
        "gradient/discriminator": 1.0 + noise[5],
        "gradient/generator": 0.5 + noise[5],
    }


def evaluation_row(step: int, distance: float, rng: np.random.Generator) -> dict[str, Any]:
    """A line of evaluations.jsonl."""
    coverage = 0.96 / (1 + distance / 50)
    figures = {"coverage": coverage, "precision": 0.87, "recall": coverage - 0.1, "diversity/features": 31.0}
    figures |= {"classes/from_uniform": 0.03, **{f"classes/{label}": 0.1 for label in range(10)}}
    intervals = {name: [0.98 * value, 1.02 * value] for name, value in figures.items()}
    return {
        "step": step,
        "epoch": step / STEPS_PER_EPOCH,
        "images_seen": step * BATCH,
        "seconds": step / 40,
        "classifier": "6a267eb79315",
        "count": 10_000,
        "distance/frechet": distance * math.exp(rng.normal(0, 0.01)),
        **figures,
        "intervals": {"distance/frechet": [0.9 * distance, 1.1 * distance]} | intervals,
    }


def environment(sessions: Sequence[int], **data: Any) -> Mapping[str, Any]:
    """The content of environment.json."""
    spec = DataSpec("mnist", (1, 28, 28), tuple("0123456789"), 60_000, 10_000, "digits")
    provenance = {"name": "mnist", "source": "local", "file": "data/train-images-idx3-ubyte", "count": 60_000}
    found = [
        {
            "run_id": "0",
            "started": f"2026-01-{i + 1:02d}T00:00:00Z",
            "from_step": step,
            "processes": 1 + i,
            "host": "host",
            "device": "cpu",
            "device_name": "x86_64",
            "mixed_precision": "no",
            "threads_per_process": 1,
            "cores": 2,
            "distributed_type": "NO",
            "platform": "Linux",
            "versions": {"python": "3.11.7", "torch": "2.14.1"},
            "data": {
                **provenance,
                "sha256": "0" * 64,
                "verified": "count",
                "fallback": None,
                "spec": spec.to_dict(),
                **data,
            },
        }
        for i, step in enumerate(sessions)
    ]
    return found[-1] | {"earlier_sessions": found[:-1]}
