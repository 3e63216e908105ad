"""Images of a generator: generating them, and writing them as a grid or an array."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from gan_dist.config import InputError
from gan_dist.data.pixels import quantize
from gan_dist.evaluation.features import CHUNK
from gan_dist.files import replacing
from gan_dist.memory import available_memory
from gan_dist.outputs.pictures import BACKGROUND, save_picture
from gan_dist.seeding import sample_latents


def generate_images(
    generator: nn.Module, count: int, seed: int, labels: Int64[Tensor, " count"] | None = None
) -> Float[Tensor, "count c h w"]:
    """Generate images in [-1, 1]. The same arguments give the same images.

    Args:
        generator: from `load_generator`.
        count: number of images.
        seed: random seed of the latents.
        labels: of a conditional generator, from `choose_labels`.
    """
    return torch.cat(list(_chunks(generator, count, seed, labels)))


def generate_pixels(
    generator: nn.Module, count: int, seed: int, labels: Int64[Tensor, " count"] | None = None
) -> UInt8[Tensor, "count c h w"]:
    """The images of `generate_images`, rounded to 8 bits chunk by chunk, which takes a quarter of the memory.

    Raises:
        InputError: there is not enough memory.
    """
    with torch.no_grad():
        latent = torch.zeros(1, _latent_dim(generator))
        pixels = generator(latent, None if labels is None else labels[:1]).numel()
    # Concatenating the chunks needs the pixels twice; all latents are drawn at once.
    needed, available = count * (2 * pixels + 4 * _latent_dim(generator)), available_memory()
    if available is not None and needed > available:
        raise InputError(
            f"count={count} is not supported: these images take {needed / 1e9:,.1f} GB of memory, and "
            f"{available / 1e9:,.1f} GB are available; use a lower count, several times with different --seed"
        )
    return torch.cat([quantize(chunk) for chunk in _chunks(generator, count, seed, labels)])


def save_pixels(
    pixels: UInt8[Tensor, "n c h w"], file: Path, labels: Int64[Tensor, " n"] | None = None, rows: bool = False
) -> None:
    """Write images as a grid (.png), or as arrays "images" (n, C, H, W) and "labels" (n,) (any other suffix).

    Args:
        pixels: the images.
        file: to write.
        labels: of a conditional generator.
        rows: each run of equal labels begins a row of the grid.

    Raises:
        InputError: the file can't be written.
    """
    try:
        with replacing(file) as beside:
            if file.suffix == ".png":
                columns = math.ceil(math.sqrt(len(pixels)))
                if rows and labels is not None:
                    pixels, columns = _fill_rows(pixels, labels)
                save_picture(pixels, columns, beside)
            else:
                arrays = {"images": pixels.numpy()} | ({} if labels is None else {"labels": labels.numpy()})
                np.savez_compressed(beside, allow_pickle=False, **arrays)
    except OSError as error:
        raise InputError(f"output={file} can't be written ({error.strerror}); choose another") from error


def _fill_rows(pixels: UInt8[Tensor, "n c h w"], labels: Int64[Tensor, " n"]) -> tuple[UInt8[Tensor, "m c h w"], int]:
    """The images with empty ones at the end of each run of equal labels, so that all are as long as the longest, and
    the length."""
    lengths = labels.unique_consecutive(return_counts=True)[1].tolist()
    columns, empty = max(lengths), torch.full_like(pixels[:1], BACKGROUND)
    rows = [torch.cat([row, empty.expand(columns - len(row), -1, -1, -1)]) for row in pixels.split(lengths)]
    return torch.cat(rows), columns


def _chunks(
    generator: nn.Module, count: int, seed: int, labels: Int64[Tensor, " count"] | None
) -> Iterator[Float[Tensor, "n c h w"]]:
    latents = sample_latents(count, _latent_dim(generator), seed).split(CHUNK)
    of_chunks = [None] * len(latents) if labels is None else labels.split(CHUNK)
    with torch.no_grad():
        # Chunks bound the memory. They are as in an evaluation, so that the bits are the same.
        for chunk, asked in zip(latents, of_chunks, strict=True):
            yield generator(chunk, asked)


def _latent_dim(generator: nn.Module) -> int:
    assert isinstance(generator.latent_dim, int)
    return generator.latent_dim
