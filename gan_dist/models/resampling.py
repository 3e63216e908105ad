"""Bilinear resampling of feature maps by a factor of 2.

The filter is [1, 3, 3, 1] / 8 along each axis, as in R3GAN (Huang et al. 2024, arXiv:2501.05441, appendix E). Pixels
outside of the maps are those of the border, so constant maps stay constant.

Both directions consist of slices, concatenations and elementwise operations, whose gradients, and their gradients, are
deterministic on every device. On CUDA, the gradients of torch's bilinear `interpolate` and of its replicating `pad` are
not by default: threads add to the same number in any order. The filter's numbers are Python numbers, not a tensor: a
tensor would be a buffer, or a copy from the host in each pass.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

ROWS, COLUMNS = 2, 3  # dimensions of maps


class Upsample(nn.Module):
    """Doubles the sides: (n, c, h, w) to (n, c, 2h, 2w)."""

    def forward(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
        return _upsampled(_upsampled(maps, ROWS), COLUMNS)


class Downsample(nn.Module):
    """Halves the sides, which are even: (n, c, h, w) to (n, c, h/2, w/2)."""

    def forward(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
        return _downsampled(_downsampled(maps, COLUMNS), ROWS)


def _upsampled(maps: Tensor, axis: int) -> Tensor:
    """Two pixels for each, at a quarter of the distance to either neighbour."""
    pair = torch.lerp(maps, _before(maps, maps, axis), 0.25), torch.lerp(maps, _after(maps, maps, axis), 0.25)
    return torch.stack(pair, axis + 1).flatten(axis, axis + 1)


def _downsampled(maps: Tensor, axis: int) -> Tensor:
    """One pixel for each pair (a, b): (3a + 3b + the pixel before a + the pixel after b) / 8."""
    a, b = maps.unflatten(axis, (-1, 2)).unbind(axis + 1)
    return torch.lerp(a + b, _before(b, a, axis) + _after(a, b, axis), 0.25) / 2


def _before(maps: Tensor, border: Tensor, axis: int) -> Tensor:
    """Each pixel's predecessor in `maps`; that of the first is the first of `border`."""
    return torch.cat([border.narrow(axis, 0, 1), maps.narrow(axis, 0, maps.shape[axis] - 1)], axis)


def _after(maps: Tensor, border: Tensor, axis: int) -> Tensor:
    """Each pixel's successor in `maps`; that of the last is the last of `border`."""
    return torch.cat([maps.narrow(axis, 1, maps.shape[axis] - 1), border.narrow(axis, -1, 1)], axis)
