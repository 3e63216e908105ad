"""The memory that training a pair of networks needs, computed without allocating it."""

from __future__ import annotations

import os

import torch
from torch import nn

from gan_dist.config import Config, InputError
from gan_dist.memory import free_memory
from gan_dist.models import find_architecture
from gan_dist.models.architecture import ImageShape

FIGURES_PER_STEP = 8  # approximately; they are kept until they are logged


def training_bytes(config: Config, image_shape: ImageShape, ranks: int, classes: int = 0) -> int:
    """A lower bound of the memory that training needs in one process, in bytes.

    Per weight: the weight, its gradient (in the exact mode one for each part of the batch) and Adam's two moments, in
    single precision; the generator's average; the half-precision copy for the passes. Per image of a micro-batch: the
    outputs of the layers with weights, for the backward pass. In addition, the latents of the batch and the figures of
    the steps between two log points.

    Args:
        config: valid for this number of ranks.
        image_shape: (C, H, W).
        ranks: number of processes.
        classes: number of classes of the networks, or 0.

    Raises:
        InputError: the architecture does not support the image shape.
    """
    architecture = find_architecture(config.model, image_shape)
    with torch.device("meta"):
        builders = architecture.generator, architecture.discriminator
        networks = [build(config.model, image_shape, classes) for build in builders]
    generator, both = count_weights(networks[0]), sum(map(count_weights, networks))
    share, shards = config.train.batch_size // ranks, config.train.exact_shards
    parts = config.train.accumulation if shards is None else shards // ranks
    half = config.train.mixed_precision in ("bf16", "fp16")
    copies = 4 * (1 + (1 if shards is None else parts) + 2) + (2 if half else 0)
    average = 4 * generator if config.ema.half_life is not None else 0
    activations = (2 if half else 4) * sum(map(_outputs, networks)) * (share // parts)
    latents = 4 * config.train.batch_size * config.model.latent_dim
    figures = 4 * FIGURES_PER_STEP * config.log.every_steps * parts
    return copies * both + average + activations + latents + figures


def check_memory(config: Config, image_shape: ImageShape, ranks: int, device: torch.device, classes: int = 0) -> None:
    """Check, before the networks are built, that this machine or GPU has the memory to train them.

    Args:
        config, image_shape, ranks, classes: as in `training_bytes`.
        device: where the networks train. On a CPU, the processes of this machine share its memory.

    Raises:
        InputError: it has not. The message contains the sizes and the required and available memory.
    """
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if device.type == "cpu" else 1
    needed, available = here * training_bytes(config, image_shape, ranks, classes), free_memory(device)
    if available is not None and needed > available:
        model, train = config.model, config.train
        fields = find_architecture(model, image_shape).size_fields
        sizes = ", ".join(f"model.{name}={getattr(model, name)}" for name in fields)
        exact = "" if train.exact_shards is None else f", train.exact_shards={train.exact_shards}"
        raise InputError(
            f"{sizes} with train.batch_size={train.batch_size}{exact} and log.every_steps={config.log.every_steps} "
            f"require at least {needed / 1e9:,.1f} GB of memory{f' in {here} processes' if here > 1 else ''}, and "
            f"{available / 1e9:,.1f} GB are available; use smaller values"
        )


def count_weights(network: nn.Module) -> int:
    """Number of weights of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def _outputs(network: nn.Module) -> int:
    """A lower bound of the size of all layer outputs for one image: a convolution is counted at one position only.

    A pass on the meta device would be exact, but its imports take one second.
    """
    linear = sum(module.out_features for module in network.modules() if isinstance(module, nn.Linear))
    kinds = nn.Conv2d | nn.ConvTranspose2d
    return linear + sum(module.out_channels for module in network.modules() if isinstance(module, kinds))
