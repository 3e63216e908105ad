"""A small network in the place of Inception, which takes a quarter of a second for each image.

    small_inception.py [flags of train.py]

trains as gan_dist/train.py does, with the small network.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_dist.evaluation import inception_judge, inception_network

FEATURES = 16


class SmallInception(nn.Module):
    """Pixels (n, 3, H, W) to features (n, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, FEATURES)
        self.requires_grad_(False)

    def forward(self, pixels: Tensor) -> tuple[Tensor]:
        assert pixels.dtype == torch.uint8
        return (self.layer(F.adaptive_avg_pool2d(pixels.float() / 255, 8).flatten(1)).relu(),)


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return SmallInception()


def use_small_network(replace: Callable[[Any, str, Any], None] = setattr) -> None:
    """Replace the network; `replace` is setattr, or that of a MonkeyPatch."""
    replace(inception_network, "_without_weights", on_meta)
    replace(inception_judge, "FEATURES", FEATURES)


def draw_weights(expected: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Kaiming-normal weights for a state_dict; batch normalization changes nothing."""
    generator, drawn = torch.Generator().manual_seed(seed), {}
    for name, tensor in expected.items():
        if tensor.dtype == torch.int64:
            drawn[name] = torch.zeros((), dtype=torch.int64)
        elif tensor.ndim > 1:
            scale = (2 / tensor[0].numel()) ** 0.5
            drawn[name] = torch.randn(tensor.shape, generator=generator) * scale
        else:
            drawn[name] = torch.full(tensor.shape, float(name.endswith(("running_var", "bn.weight"))))
    return drawn


def write_small_weights(file: Path) -> Path:
    torch.save(draw_weights(on_meta().state_dict()), file)
    return file


if __name__ == "__main__":
    from gan_dist import train

    use_small_network()
    sys.exit(train.main(sys.argv[1:]))
