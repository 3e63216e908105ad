"""Has a generator learned to augment? The share of images of digits that are visibly augmented.

For digits on a black background, centered by their mass, as in MNIST: each function recognizes one transformation of
gan_dist/gan/augmentation.py in single images. Flips can't be recognized without knowing the digit.

    python benchmarks/augmented.py --real train.npz GENERATED.npz [...] [--probability 0.4]

GENERATED is the output of `gan-dist sample RUN --output GENERATED.npz`. The table shows the shares for real images,
which are false alarms; for the same images after the augmentation; and for each file.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, UInt8
from rich.console import Console
from rich.table import Table
from torch import Tensor

from gan_dist.data.pixels import normalize, quantize
from gan_dist.gan.augmentation import RandomAugmentation
from gan_dist.gan.latents import Draws

GREY = 127.5  # of a square that is cut out
TOLERANCE = 45
VISIBLE = 4  # the part of a side that a square of half the side always shows
BRIGHT_BACKGROUND = 20  # the darkest half of the pixels; black in all real images
DARK_STROKE = 200  # the brightest pixel; nearly white in all real images
OFF_CENTER = 1.5  # pixels; MNIST's digits are centered by their mass
CENTER = 14.0  # of mass, of a 28x28 image; on pixels counted from 0


def cut_out(pixels: UInt8[Tensor, "n 1 h w"]) -> Bool[Tensor, " n"]:
    """A square of a quarter of the sides is grey throughout."""
    grey = ((pixels.float() - GREY).abs() < TOLERANCE).float()
    side = pixels.shape[2] // VISIBLE
    return F.avg_pool2d(grey, side, stride=1).flatten(1).amax(1) > 0.999


def recoloured(pixels: UInt8[Tensor, "n 1 h w"]) -> Bool[Tensor, " n"]:
    """The background is not black, or the stroke is not white."""
    flat = pixels.flatten(1)
    return (flat.median(1).values > BRIGHT_BACKGROUND) | (flat.amax(1) < DARK_STROKE)


def translated(pixels: UInt8[Tensor, "n 1 h w"]) -> Bool[Tensor, " n"]:
    """The center of mass is not in the middle."""
    mass = pixels[:, 0].double()
    total = mass.sum((1, 2)).clamp(min=1)
    away = [
        ((mass.sum(other) * torch.arange(size)).sum(1) / total - CENTER * size / 28).abs()
        for size, other in ((mass.shape[1], 2), (mass.shape[2], 1))
    ]
    return torch.maximum(*away) > OFF_CENTER


CLASSIFIERS: dict[str, Callable[[UInt8[Tensor, "n 1 h w"]], Bool[Tensor, " n"]]] = {
    "colour": recoloured,
    "translation": translated,
    "cutout": cut_out,
}


def visibly_augmented(pixels: UInt8[Tensor, "n 1 h w"]) -> dict[str, float]:
    """Name of a transformation -> share of the images that show it; "any": that show at least one."""
    found = {name: classify(pixels) for name, classify in CLASSIFIERS.items()}
    shares = {name: where.double().mean().item() for name, where in found.items()}
    return {**shares, "any": torch.stack(list(found.values())).any(0).double().mean().item()}


def augmented(pixels: UInt8[Tensor, "n 1 h w"], probability: float, names: tuple[str, ...]) -> UInt8[Tensor, "n 1 h w"]:
    """Images as D sees them, rounded to pixels as generated ones are."""
    draws = Draws(0, len(pixels), 0, 1, torch.device("cpu"))
    augmentation = RandomAugmentation(names, torch.tensor(probability), False, draws)
    draws.begin(1)
    return quantize(augmentation(normalize(pixels), augmentation.draw("discriminator")[:, 0]))


def read_pixels(file: Path) -> UInt8[Tensor, "n 1 h w"]:
    with np.load(file) as content:
        name = next(name for name in ("images", "x_train") if name in content)
        pixels = torch.from_numpy(content[name])
    return pixels.view(len(pixels), 1, *pixels.shape[-2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("generated", type=Path, nargs="*")
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--probability", type=float, default=0.4)
    arguments = parser.parse_args()
    real = read_pixels(arguments.real)
    rows = {
        "real": real,
        f"real, augmented with {arguments.probability:g}": augmented(real, arguments.probability, tuple(CLASSIFIERS)),
    }
    rows |= {str(file): read_pixels(file) for file in arguments.generated}
    table = Table("images", *CLASSIFIERS, "any")
    for name, pixels in rows.items():
        table.add_row(name, *(f"{share:.2%}" for share in visibly_augmented(pixels).values()))
    Console().print(table)


if __name__ == "__main__":
    main()
