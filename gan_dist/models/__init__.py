"""The networks. A new architecture is a file here and a line in ARCHITECTURES."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from gan_dist.config import InputError, ModelConfig
from gan_dist.models import conv, mlp
from gan_dist.seeding import seed_for

ImageShape = tuple[int, int, int]
Builder = Callable[[ModelConfig, ImageShape], nn.Module]

# name -> how its generator and its discriminator are built for images (C, H, W)
ARCHITECTURES: dict[str, tuple[Builder, Builder]] = {
    "mlp": (mlp.Generator.from_config, mlp.Discriminator.from_config),
    "conv": (conv.Generator.from_config, conv.Discriminator.from_config),
}


def build_generator(config: ModelConfig, image_shape: ImageShape) -> nn.Module:
    """A generator without weights, on the meta device: latents (n, latent_dim) to images (n, C, H, W) in [-1, 1]."""
    # Elsewhere the layers would draw first weights from the global generator, and take memory, however much that is.
    with torch.device("meta"):
        return ARCHITECTURES[config.architecture][0](config, image_shape)


def build_pair(config: ModelConfig, image_shape: ImageShape, seed: int) -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator with the first weights of a run: a function of (config, seed), made on the CPU.

    torch's layers draw their first weights from the global generator; it is borrowed here and given back as it was.

    Raises:
        InputError: images that the architecture is not made for, or networks with buffers.
    """
    make_generator, make_discriminator = ARCHITECTURES[config.architecture]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "weights"))
        pair = make_generator(config, image_shape), make_discriminator(config, image_shape)
        if config.initialization == "he":
            for network in pair:
                initialize_kaiming(network)
    for network in pair:
        if buffers := [name for name, _ in network.named_buffers()]:
            raise InputError(
                f"model.architecture={config.architecture} has buffers ({', '.join(buffers)}), which would differ "
                "from process to process; use GroupNorm or LayerNorm in place of BatchNorm, and constants in forward"
            )
    return pair


def initialize_kaiming(network: nn.Module) -> None:
    """Draw a network's first weights anew, with the variance of He et al. 2015 (arXiv:1502.01852, equation 15)."""
    slopes = [module.negative_slope for module in network.modules() if isinstance(module, nn.LeakyReLU)]
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, a=slopes[0] if slopes else 0.0)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
