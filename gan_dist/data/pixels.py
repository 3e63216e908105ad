"""Pixels as files hold them, uint8, and as networks see them, in [-1, 1]."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor


def normalize(pixels: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Pixels 0..255, that is x = pixel/255 in [0, 1], to (x - 0.5) / 0.5 in [-1, 1], where Tanh lives.

    The ends are exact: 0 -> -1 and 255 -> 1.
    """
    return pixels.to(torch.float32).div_(127.5).sub_(1)


def denormalize(images: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Images in [-1, 1] back to [0, 1]: x * 0.5 + 0.5. What lies outside is an error of the caller, and cut off."""
    return images.mul(0.5).add_(0.5).clamp_(0, 1)


def quantize(images: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Images in [-1, 1] as a file of 8 bits a pixel holds them, as the real ones come."""
    return denormalize(images).mul_(255).round_().to(torch.uint8)


def stack_channels(images: Shaped[Tensor, "n c h w"], stack: int) -> Shaped[Tensor, "fewer channels h w"]:
    """Each `stack` images in a row as the channels of one; a view."""
    return images.view(-1, stack * images.shape[1], *images.shape[2:])
