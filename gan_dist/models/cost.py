"""What a pair of networks costs in memory, found out without allocating it."""

from __future__ import annotations

import os

import torch
from torch import nn

from gan_dist.config import Config, InputError
from gan_dist.memory import available_memory
from gan_dist.models import ARCHITECTURES, ImageShape

FIGURES = 8  # of a step, about: they are kept until they are logged


def training_bytes(config: Config, image_shape: ImageShape, ranks: int) -> int:
    """The least memory that training takes in one process, in bytes.

    These are for each weight: itself, its gradient (in the exact mode that of each part of the batch), and two moments
    of Adam, in single precision; the generator's average; the copy that computes in half precision. For each image of
    a micro-batch: what the layers with weights put out, which the backward pass needs. And the batch's latents, and
    the figures of the steps between two log points.

    Args:
        config: valid for so many ranks.
        image_shape: (C, H, W).
        ranks: processes over which the batch is spread.
    """
    with torch.device("meta"):
        networks = [build(config.model, image_shape) for build in ARCHITECTURES[config.model.architecture]]
    generator, both = _weights(networks[0]), sum(map(_weights, networks))
    share, shards = config.train.batch_size // ranks, config.train.exact_shards
    parts = config.train.accumulation if shards is None else shards // ranks
    half = config.train.mixed_precision in ("bf16", "fp16")
    copies = 4 * (1 + (1 if shards is None else parts) + 2) + (2 if half else 0)
    average = 4 * generator if config.ema.half_life is not None else 0
    activations = (2 if half else 4) * sum(map(_outputs, networks)) * (share // parts)
    latents = 4 * config.train.batch_size * config.model.latent_dim
    figures = 4 * FIGURES * config.log.every_steps * parts
    return copies * both + average + activations + latents + figures


def check_memory(config: Config, image_shape: ImageShape, ranks: int, device: torch.device) -> None:
    """Refuse networks that can't be trained in the memory of this machine or GPU, before they are built.

    Args:
        config, image_shape, ranks: as for `training_bytes`.
        device: where the networks train. On a CPU the processes of this machine share its memory.

    Raises:
        InputError: names the sizes, what they take and what is there.
    """
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if device.type == "cpu" else 1
    needed, available = here * training_bytes(config, image_shape, ranks), _available(device)
    if available is not None and needed > available:
        model, train = config.model, config.train
        sizes = f"model.hidden_dim={model.hidden_dim}, model.latent_dim={model.latent_dim}"
        if model.architecture == "conv":
            sizes += f", model.channels={model.channels}"
        exact = "" if train.exact_shards is None else f", train.exact_shards={train.exact_shards}"
        raise InputError(
            f"{sizes} with train.batch_size={train.batch_size}{exact} and log.every_steps={config.log.every_steps} "
            f"take at least {needed / 1e9:,.1f} GB of memory{f' in {here} processes' if here > 1 else ''}, and "
            f"{available / 1e9:,.1f} GB are available; use smaller values"
        )


def _available(device: torch.device) -> int | None:
    """Bytes; None where it can't be found out."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_memory() if device.type == "cpu" else None


def _weights(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _outputs(network: nn.Module) -> int:
    """Numbers that the layers with weights put out for an image, at least: of a convolution, at one place.

    A pass on the meta device would tell it exactly, and takes a second of imports.
    """
    linear = sum(module.out_features for module in network.modules() if isinstance(module, nn.Linear))
    kinds = nn.Conv2d | nn.ConvTranspose2d
    return linear + sum(module.out_channels for module in network.modules() if isinstance(module, kinds))
