"""Images of a generator: generating them, and writing them as a grid or an array."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from gan_dist.config import InputError
from gan_dist.data.pixels import quantize
from gan_dist.evaluation.features import CHUNK
from gan_dist.files import replacing
from gan_dist.memory import available_memory
from gan_dist.outputs.pictures import save_picture
from gan_dist.seeding import sample_latents


def generate_images(generator: nn.Module, count: int, seed: int) -> Float[Tensor, "count c h w"]:
    """Generate images in [-1, 1]. The same seed gives the same images.

    Args:
        generator: from `load_generator`.
        count: number of images.
        seed: random seed of the latents.
    """
    return torch.cat(list(_chunks(generator, count, seed)))


def generate_pixels(generator: nn.Module, count: int, seed: int) -> UInt8[Tensor, "count c h w"]:
    """The images of `generate_images`, rounded to 8 bits chunk by chunk, which takes a quarter of the memory.

    Raises:
        InputError: there is not enough memory.
    """
    with torch.no_grad():
        pixels = generator(torch.zeros(1, _latent_dim(generator))).numel()
    # Concatenating the chunks needs the pixels twice; all latents are drawn at once.
    needed, available = count * (2 * pixels + 4 * _latent_dim(generator)), available_memory()
    if available is not None and needed > available:
        raise InputError(
            f"count={count} is not supported: these images take {needed / 1e9:,.1f} GB of memory, and "
            f"{available / 1e9:,.1f} GB are available; use a lower count, several times with different --seed"
        )
    return torch.cat([quantize(chunk) for chunk in _chunks(generator, count, seed)])


def save_pixels(pixels: UInt8[Tensor, "n c h w"], file: Path) -> None:
    """Write images as a grid (.png), or as an array "images" (n, C, H, W) (any other suffix).

    Raises:
        InputError: the file can't be written.
    """
    try:
        with replacing(file) as beside:
            if file.suffix == ".png":
                save_picture(pixels, math.ceil(math.sqrt(len(pixels))), beside)
            else:
                np.savez_compressed(beside, images=pixels.numpy())
    except OSError as error:
        raise InputError(f"output={file} can't be written ({error.strerror}); choose another") from error


def _chunks(generator: nn.Module, count: int, seed: int) -> Iterator[Float[Tensor, "n c h w"]]:
    latents = sample_latents(count, _latent_dim(generator), seed)
    with torch.no_grad():
        for chunk in latents.split(CHUNK):  # bounds the memory; as in an evaluation, so that the bits are the same
            yield generator(chunk)


def _latent_dim(generator: nn.Module) -> int:
    assert isinstance(generator.latent_dim, int)
    return generator.latent_dim
