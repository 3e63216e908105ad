"""The discriminator of a run, from its newest checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from gan_dist.config import Config, InputError
from gan_dist.files import BadFile
from gan_dist.models import ImageShape, find_architecture
from gan_dist.outputs.checkpoint import Checkpoints
from gan_dist.outputs.folder import RunFolder
from gan_dist.tensors import check_tensors


def load_discriminator(
    run: Path, config: Config, shape: ImageShape, classes: int, announce: Callable[[str], None]
) -> tuple[nn.Module, int]:
    """Load the discriminator of a run, on the CPU, in eval mode, with parameters that require no gradient.

    Args:
        run: the run's folder.
        config: of the run.
        shape: (C, H, W) of an image.
        classes: number of classes of the networks, or 0.
        announce: called with one line for each damaged checkpoint that is skipped.

    Returns:
        A module that maps images in [-1, 1], and labels if there are classes, to logits. Its attribute shape is that of
        an image. And the step of its checkpoint.

    Raises:
        InputError: there is no intact checkpoint with a discriminator of this configuration.
    """
    folder = RunFolder(run).checkpoints
    checkpoint = Checkpoints(folder, keep=1).latest(announce)
    if checkpoint is None or "discriminator" not in checkpoint.tensors:
        raise InputError(f"{folder} holds no checkpoint with a discriminator; omit --discriminator")
    with torch.device("meta"):
        network = find_architecture(config.model, shape).discriminator(config.model, shape, classes)
    tensors = checkpoint.tensors["discriminator"]
    try:
        check_tensors(tensors, network.state_dict())
    except BadFile as error:
        raise InputError(
            f"the checkpoint of step {checkpoint.step} in {folder} {error}; it is not of this generator's run; "
            "omit --discriminator"
        ) from error
    network.to_empty(device="cpu").load_state_dict(tensors)
    network.shape = shape  # type: ignore[assignment]
    return network.eval().requires_grad_(False), checkpoint.step
