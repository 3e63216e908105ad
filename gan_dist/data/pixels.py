"""Conversions between pixels in files, uint8, and in networks, float in [-1, 1]."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor


def normalize(pixels: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Pixels in 0..255 to (pixel/255 - 0.5) / 0.5 in [-1, 1], the range of Tanh. Exact at 0 and 255."""
    return pixels.to(torch.float32).div_(127.5).sub_(1)


def denormalize(images: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Images in [-1, 1] to x * 0.5 + 0.5 in [0, 1]. Values outside of the range are clamped."""
    return images.mul(0.5).add_(0.5).clamp_(0, 1)


def quantize(images: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Images in [-1, 1] to pixels in 0..255, as in files of real images."""
    return denormalize(images).mul_(255).round_().to(torch.uint8)


def stack_channels(images: Shaped[Tensor, "n c h w"], stack: int) -> Shaped[Tensor, "fewer channels h w"]:
    """Combine every `stack` consecutive images into one, as its channels. Returns a view."""
    return images.view(-1, stack * images.shape[1], *images.shape[2:])


def mirror(images: Float[Tensor, "n c h w"], where: Bool[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
    """Flip those images horizontally whose entry in `where` is True."""
    return torch.where(where[:, None, None, None], images.flip(3), images)
