"""Images from a trained run: load its generator, draw from it, write a grid or an array."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torchvision.utils import save_image

from gan_dist.config import InputError, from_dict
from gan_dist.data.dataset import quantize
from gan_dist.memory import available_memory
from gan_dist.models import build_generator
from gan_dist.run.folder import RunFolder, replacing
from gan_dist.seeding import sample_latents

CHUNK = 1024  # images generated at a time, to bound the memory


def load_generator(run: Path | str) -> nn.Module:
    """The generator of a run, on the CPU, in eval mode.

    Args:
        run: the run's folder, which may still be training.

    Returns:
        A module that maps latents (n, latent_dim), standard normal, to images (n, C, H, W) in [-1, 1]. Its
        attribute latent_dim says how wide.

    Raises:
        InputError: the folder holds no generator, or a damaged one.
    """
    file = RunFolder(Path(run)).generator
    if not file.exists():
        raise InputError(f"{run} holds no {file.name}; a run has one from its first checkpoint on")
    try:
        with safe_open(file, framework="pt") as stored:
            metadata = stored.metadata()
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no dictionary)
        config = from_dict(json.loads(metadata["config"]))
        generator = build_generator(config.model, tuple(json.loads(metadata["image_shape"])))
        generator.load_state_dict(tensors)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{file} is damaged ({error}); resume the run to write it again") from error
    return generator.eval()


def generate(generator: nn.Module, count: int, seed: int) -> Float[Tensor, "count c h w"]:
    """Draw images from a generator of `load_generator`: always the same ones for a seed.

    Returns:
        Images in [-1, 1].
    """
    return torch.cat(list(_chunks(generator, count, seed)))


def generate_pixels(generator: nn.Module, count: int, seed: int) -> UInt8[Tensor, "count c h w"]:
    """The images of `generate`, rounded to 8 bits chunk by chunk: a quarter of the memory.

    Raises:
        InputError: the memory of this machine is too small for so many.
    """
    with torch.no_grad():
        pixels = generator(torch.zeros(1, _latent_dim(generator))).numel()
    # The pixels are there twice where the chunks are put together; the latents are drawn all at once.
    needed, available = count * (2 * pixels + 4 * _latent_dim(generator)), available_memory()
    if available is not None and needed > available:
        raise InputError(
            f"count={count} can't be used: so many images take {needed / 1e9:,.1f} GB of memory, and "
            f"{available / 1e9:,.1f} GB are available; use fewer, and other ones with --seed"
        )
    return torch.cat([quantize(chunk) for chunk in _chunks(generator, count, seed)])


def save_pixels(pixels: UInt8[Tensor, "n c h w"], file: Path) -> None:
    """Write images as a grid (.png), or as an array "images" (n, C, H, W) (any other ending).

    Raises:
        InputError: the file can't be written.
    """
    try:
        with replacing(file) as beside:
            if file.suffix == ".png":
                save_image(pixels / 255, beside, nrow=math.ceil(math.sqrt(len(pixels))), pad_value=0.5)
            else:
                np.savez_compressed(beside, images=pixels.numpy())
    except OSError as error:
        raise InputError(f"output={file} can't be written ({error.strerror}); choose another") from error


def _chunks(generator: nn.Module, count: int, seed: int) -> Iterator[Float[Tensor, "n c h w"]]:
    latents = sample_latents(count, _latent_dim(generator), seed)
    with torch.no_grad():
        for chunk in latents.split(CHUNK):
            yield generator(chunk)


def _latent_dim(generator: nn.Module) -> int:
    assert isinstance(generator.latent_dim, int)
    return generator.latent_dim
