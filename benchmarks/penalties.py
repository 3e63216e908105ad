"""Images/s with R1 and R2 of first and of second order.

    python benchmarks/penalties.py [--rounds 5]

Takes real steps on random images, one thread, alternating between the two orders, and prints the medians and the median
of the ratios of the rounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from gan_dist.config import PRESETS, Config, ModelConfig
from gan_dist.data.images import ImageSet
from gan_dist.data.readers.reader import Provenance
from gan_dist.data.spec import DataSpec
from gan_dist.distributed.launcher import start_accelerator
from gan_dist.trainer.forecast import measure

ORDERS = ("first", "second")


def cases() -> dict[str, tuple[Config, tuple[int, int, int]]]:
    """Name -> configuration and shape of an image."""
    small = ModelConfig(architecture="residual", channels=32, max_channels=128)
    conv = PRESETS["r3-conv"]()
    return {
        "r3": (PRESETS["r3"](), (1, 28, 28)),
        "r3-conv": (conv, (1, 28, 28)),
        "r3-conv with residual, 32 to 128 channels": (dataclasses.replace(conv, model=small), (3, 32, 32)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    accelerator = start_accelerator(None, 1, 60.0)
    table = Table("preset", "first order", "second order", "first / second")
    for name, (config, shape) in cases().items():
        spec, provenance = (
            DataSpec("random", shape, None, 100, 0, "unlabelled"),
            Provenance("", "local", "", 100, "", ""),
        )
        images = ImageSet(torch.zeros(100, *shape, dtype=torch.uint8), None, spec, provenance)
        rates: dict[str, list[float]] = {order: [] for order in ORDERS}
        for _ in range(arguments.rounds):
            for order in ORDERS:
                penalty = dataclasses.replace(config.penalty, order=order)
                train = dataclasses.replace(config.train, threads=1)
                changed = dataclasses.replace(config, penalty=penalty, train=train)
                rates[order].append(measure(changed, images, accelerator, 0).images_per_second)
        ratios = [first / second for first, second in zip(*rates.values(), strict=True)]
        shown = [f"{median(rates[order]):,.0f} images/s" for order in ORDERS]
        table.add_row(name, *shown, f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    Console(width=120).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
