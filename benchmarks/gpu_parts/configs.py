"""The configurations of the measured runs: presets on random images of the shape of their data. Imports no torch."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from gan_dist.config import PRESETS, Config, InputError, to_dict, validate
from gan_dist.config.derived import derive

SHAPES = {"stacked": (3, 28, 28), "pictures": (3, 64, 64), "cifar10": (3, 32, 32)}
"""(C, H, W) of the data of a preset; the others train on grey digits."""
GREY = (1, 28, 28)
PRECISIONS = ("no", "tf32", "bf16", "fp16")
"""Of a measured run; tf32 is --train.tf32 in fp32."""
NEVER = 10**6

FLAGS: dict[str, tuple[str, str, Any, Any]] = {
    "capture": ("train", "capture", "on", "off"),
    "ddp": ("distributed", "gradients", "ddp", "flat"),
    "channels_last": ("train", "channels_last", True, False),
    "cudnn_benchmark": ("train", "cudnn_benchmark", True, False),
}
"""The flags that this benchmark compares: name -> section, field, and its values when on and off."""


def flag(name: str, on: bool) -> dict[str, dict[str, Any]]:
    """Section -> field -> value, for one of FLAGS."""
    section, field, if_on, if_off = FLAGS[name]
    return {section: {field: if_on if on else if_off}}


def capture_words(on: bool) -> list[str]:
    """`flag("capture", on)` on a command line."""
    _, _, if_on, if_off = FLAGS["capture"]
    return ["--train.capture", if_on if on else if_off]


def changed(config: Config, *changes: dict[str, dict[str, Any]] | None) -> Config:
    """A configuration with other values: section -> field -> value, later ones first; None changes nothing."""
    for change in changes:
        for section, fields in (change or {}).items():
            config = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **fields)})
    return config


def random_images(folder: Path, shape: tuple[int, int, int], count: int, seed: int = 0) -> Path:
    """A file of random images with ten classes, for data.name=arrays; written once."""
    file = folder / f"images-{'x'.join(map(str, shape))}-{count}-{seed}.npz"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (count, *shape[1:], shape[0]), np.uint8)
        labels = (np.arange(count) + np.arange(count) // 10) % 10  # every tenth is held out: of all classes
        beside = file.with_name(f"writing-{file.name}")
        np.savez(beside, x_train=pixels, y_train=labels)
        beside.replace(file)
    return file


def on_random_images(preset: str, file: Path, batch: int) -> Config:
    """A preset that trains on a file of `random_images`, without evaluations and trackers.

    Args:
        preset: key of PRESETS.
        file: of its shape.
        batch: global batch size.
    """
    config = PRESETS[preset]()
    labels = "none" if config.model.labels == "none" else "auto"
    return changed(
        config,
        {
            "data": {"name": "arrays", "root": file, "source": "local", "labels": labels, "stack": 1},
            "train": {"batch_size": batch, "epochs": NEVER},
            "evaluate": {"every_epochs": None},
            "wandb": {"mode": "disabled"},
        },
    )


SMALL: dict[str, dict[str, Any]] = {"model": {"hidden_dim": 8, "channels": 4, "max_channels": 8, "latent_dim": 8}}
"""For the short form. Sizes do not change what is executed."""


def measured_config(
    preset: str, scratch: Path, batch: int, precision: str, short: bool, *changes: dict[str, dict[str, Any]] | None
) -> Config:
    """The configuration of a measured run.

    Args:
        preset: key of PRESETS.
        scratch: folder of the images.
        batch: global batch size.
        precision: of PRECISIONS.
        short: small networks and few images, on one thread.
        changes: as in `changed`.
    """
    shape = SHAPES.get(preset, GREY)
    count = 4 * batch if short else max(8 * batch, 10_000)
    if math.prod(shape) > 1_000:  # an epoch of two of the largest batches takes 0.2 GB already
        count = 4 * batch if short else max(2 * batch, 5_000)
    file = random_images(scratch / "data", shape, count * 10 // 9 + 10)  # every tenth is held out
    config = on_random_images(preset, file, batch)
    precise = {"mixed_precision": "no" if precision == "tf32" else precision, "tf32": precision == "tf32"}
    never = {"samples": {"every_epochs": NEVER}, "checkpoint": {"every_steps": NEVER, "keep": 1}}
    small = SMALL | {"train": {"threads": 1}} if short else None
    # What depends on the data is derived here, as a stored configuration has no open fields.
    return derive(changed(config, {"train": precise}, never, small, *changes), shape, count)[0]


def refusal(config: Config) -> str:
    """Why a configuration is refused; empty if it is not."""
    try:
        validate(config)
    except InputError as error:
        return str(error)
    return ""


def stored(config: Config) -> dict[str, Any]:
    """As the argument of a job."""
    return to_dict(config)
