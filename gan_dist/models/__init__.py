"""Generators and discriminators. A new architecture is one file here and one line in ARCHITECTURES."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from gan_dist.config import InputError, ModelConfig
from gan_dist.models import conv, mlp, residual
from gan_dist.models.architecture import Architecture, ImageShape
from gan_dist.seeding import seed_for

ARCHITECTURES: dict[str, Architecture] = {
    "mlp": mlp.ARCHITECTURE,
    "conv": conv.ARCHITECTURE,
    "residual": residual.ARCHITECTURE,
}


def build_generator(config: ModelConfig, image_shape: ImageShape, classes: int = 0) -> nn.Module:
    """Build a generator on the meta device: latents (n, latent_dim) to images (n, C, H, W) in [-1, 1].

    Args:
        config: of the networks.
        image_shape: (C, H, W) of an image.
        classes: number of classes, from `count_classes`.

    Raises:
        InputError: the architecture does not support the image shape.
    """
    # On another device the layers would draw initial weights from the global generator and allocate memory.
    with torch.device("meta"):
        return find_architecture(config, image_shape).generator(config, image_shape, classes)


def build_pair(
    config: ModelConfig, image_shape: ImageShape, seed: int, classes: int = 0
) -> tuple[nn.Module, nn.Module]:
    """Build a generator and a discriminator on the CPU. Their initial weights are a function of the arguments.

    Args:
        config: of the networks.
        image_shape: (C, H, W) of an image.
        seed: the run's seed.
        classes: number of classes, from `count_classes`.

    Raises:
        InputError: the architecture does not support the image shape, or its networks have buffers.
    """
    architecture = find_architecture(config, image_shape)
    # torch's layers draw their weights from the global generator, which is restored here.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "weights"))
        generator = architecture.generator(config, image_shape, classes)
        pair = generator, architecture.discriminator(config, image_shape, classes)
        if config.initialization == "he" and not architecture.own_initialization:
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
            f"model.architecture={config.architecture} requires images whose sides are "
            f"{architecture.sides.description}, not {image_shape[1]}x{image_shape[2]}; use {' or '.join(others)}"
        )
    return architecture


def count_classes(config: ModelConfig, classes: Sequence[str] | None) -> int:
    """The number of classes that the networks are built for; 0 if they take no labels.

    Args:
        config: of the networks.
        classes: names of the classes of the data set; None if it has none.

    Raises:
        InputError: labels are asked for and there are none, or the architecture does not take them.
    """
    if not config.conditional:
        return 0
    if not ARCHITECTURES[config.architecture].conditional:
        others = [name for name, other in ARCHITECTURES.items() if other.conditional]
        raise InputError(
            f"model.labels={config.labels} is not supported by model.architecture={config.architecture}; "
            f"use {' or '.join(others)}, or omit it"
        )
    if classes is None:
        raise InputError(
            f"model.labels={config.labels} requires classes, and the data have none; use data with labels, or omit it"
        )
    return len(classes)


def _supports(architecture: Architecture, image_shape: ImageShape) -> bool:
    return all(map(architecture.sides.supported, image_shape[1:]))


def initialize_kaiming(network: nn.Module) -> None:
    """Initialize weights with the variance of He et al. 2015 (arXiv:1502.01852, equation 15), biases with 0."""
    slopes = [module.negative_slope for module in network.modules() if isinstance(module, nn.LeakyReLU)]
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, a=slopes[0] if slopes else 0.0)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
