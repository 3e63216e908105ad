"""The networks. A new architecture is a file here and a line in ARCHITECTURES."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from gan_dist.config import ModelConfig
from gan_dist.models import mlp
from gan_dist.seeding import seed_for

ImageShape = tuple[int, int, int]
Builder = Callable[[ModelConfig, ImageShape], nn.Module]

# name -> how its generator and its discriminator are built for images (C, H, W)
ARCHITECTURES: dict[str, tuple[Builder, Builder]] = {
    "mlp": (mlp.Generator.from_config, mlp.Discriminator.from_config),
}


def build_generator(config: ModelConfig, image_shape: ImageShape) -> nn.Module:
    """A generator with unspecified weights: latents (n, latent_dim) to images (n, C, H, W) in [-1, 1]."""
    with torch.device("meta"):  # else the layers would draw first weights from the global generator
        generator = ARCHITECTURES[config.architecture][0](config, image_shape)
    return generator.to_empty(device="cpu")


def build_pair(config: ModelConfig, image_shape: ImageShape, seed: int) -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator with the first weights of a run: a function of (config, seed), made on the CPU.

    torch's layers draw their first weights from the global generator; it is borrowed here and given back as it was.
    """
    make_generator, make_discriminator = ARCHITECTURES[config.architecture]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "weights"))
        return make_generator(config, image_shape), make_discriminator(config, image_shape)
