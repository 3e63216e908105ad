"""Images from a trained run: load its generator, draw from it, write a grid or an array."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torchvision.utils import save_image

from gan_dist.config import InputError, from_dict
from gan_dist.data.dataset import denormalize, quantize
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
    latent_dim = generator.latent_dim
    assert isinstance(latent_dim, int)
    with torch.no_grad():
        return torch.cat([generator(chunk) for chunk in sample_latents(count, latent_dim, seed).split(CHUNK)])


def save_images(images: Float[Tensor, "n c h w"], file: Path) -> None:
    """Write images in [-1, 1] as a grid (.png), or as an array "images" of uint8 (n, C, H, W) (.npz).

    Raises:
        InputError: another ending, or a file that can't be written.
    """
    if file.suffix not in (".png", ".npz"):
        raise InputError(f"output={file} must end in .png (a grid) or .npz (an array)")
    try:
        with replacing(file) as beside:
            if file.suffix == ".png":
                save_image(denormalize(images), beside, nrow=math.ceil(math.sqrt(len(images))), pad_value=0.5)
            else:
                np.savez_compressed(beside, images=quantize(images).numpy())
    except OSError as error:
        raise InputError(f"output={file} can't be written ({error.strerror}); choose another") from error
