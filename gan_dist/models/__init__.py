"""Generators and discriminators. A new architecture is one file here and one line in ARCHITECTURES."""

from __future__ import annotations

import torch
from torch import nn

from gan_dist.config import InputError, ModelConfig
from gan_dist.models import conv, mlp
from gan_dist.models.architecture import Architecture, ImageShape
from gan_dist.seeding import seed_for

ARCHITECTURES: dict[str, Architecture] = {
    "mlp": mlp.ARCHITECTURE,
    "conv": conv.ARCHITECTURE,
}


def build_generator(config: ModelConfig, image_shape: ImageShape) -> nn.Module:
    """Build a generator on the meta device: latents (n, latent_dim) to images (n, C, H, W) in [-1, 1].

    Raises:
        InputError: the architecture does not support the image shape.
    """
    # On another device the layers would draw initial weights from the global generator and allocate memory.
    with torch.device("meta"):
        return find_architecture(config, image_shape).generator(config, image_shape)


def build_pair(config: ModelConfig, image_shape: ImageShape, seed: int) -> tuple[nn.Module, nn.Module]:
    """Build a generator and a discriminator on the CPU. Their initial weights are a function of (config, seed).

    Raises:
        InputError: the architecture does not support the image shape, or its networks have buffers.
    """
    architecture = find_architecture(config, image_shape)
    # torch's layers draw their weights from the global generator, which is restored here.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "weights"))
        pair = architecture.generator(config, image_shape), architecture.discriminator(config, image_shape)
        if config.initialization == "he":
            for network in pair:
                initialize_kaiming(network)
    for network in pair:
        if buffers := [name for name, _ in network.named_buffers()]:
            raise InputError(
                f"model.architecture={config.architecture} has buffers ({', '.join(buffers)}), which would differ "
                "between processes; use GroupNorm or LayerNorm instead of BatchNorm, and constants in forward"
            )
    return pair


def find_architecture(config: ModelConfig, image_shape: ImageShape) -> Architecture:
    """Returns the architecture of a configuration.

    Raises:
        InputError: it does not support the image shape.
    """
    architecture = ARCHITECTURES[config.architecture]
    if not _supports(architecture, image_shape):
        others = [name for name, other in ARCHITECTURES.items() if _supports(other, image_shape)]
        raise InputError(
            f"model.architecture={config.architecture} requires images whose sides are multiples of "
            f"{architecture.side_multiple}, not {image_shape[1]}x{image_shape[2]}; use {' or '.join(others)}"
        )
    return architecture


def _supports(architecture: Architecture, image_shape: ImageShape) -> bool:
    return all(side % architecture.side_multiple == 0 for side in image_shape[1:])


def initialize_kaiming(network: nn.Module) -> None:
    """Initialize weights with the variance of He et al. 2015 (arXiv:1502.01852, equation 15), biases with 0."""
    slopes = [module.negative_slope for module in network.modules() if isinstance(module, nn.LeakyReLU)]
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, a=slopes[0] if slopes else 0.0)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
