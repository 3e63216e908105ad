"""The discriminator of a run, for a page that shows what it thinks of each image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from gan_dist.config import Config, InputError
from gan_dist.evaluation.features import CHUNK
from gan_dist.gan.losses import LOSSES, PairedLoss
from gan_dist.models.cost import count_weights
from gan_dist.results.discriminator import load_discriminator
from gan_dist.results.export.layers import describe_network
from gan_dist.results.export.weights import choose_precision, pack_network
from gan_dist.results.generator import is_generator_file

MAX_LOGIT = 0.02  # 0.5 % of a probability
QUANTILES = 100


def pack_discriminator(
    run: Path,
    config: Config,
    images: Float[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"] | None,
    classes: int,
    announce: Callable[[str], None],
) -> tuple[dict[str, Any], str]:
    """The discriminator of a run's newest checkpoint.

    Args:
        run: the run's folder.
        config: of the run.
        images: of its generator. Their logits are what the logit of a further image is compared with.
        labels: of these images; None without classes.
        classes: number of classes, or 0.
        announce: called with one line for each damaged checkpoint that is skipped.

    Returns:
        The network as JSON, with "paired": whether only differences of logits have a meaning; and "quantiles" of the
        logits. And a description.

    Raises:
        InputError: there is none.
    """
    if is_generator_file(run):
        raise InputError(f"discriminator is for a run folder, which has checkpoints, and {run} is a file; omit it")
    network, step = load_discriminator(run, config, (*images.shape[1:],), classes, announce)
    operations = describe_network(network, f"run={run}")

    def logits() -> Float[Tensor, " n"]:
        parts = images.split(CHUNK)
        asked = [None] * len(parts) if labels is None else labels.split(CHUNK)
        with torch.no_grad():
            return torch.cat([network(*batch) for batch in zip(parts, asked, strict=True)])

    judged = logits()
    if not judged.isfinite().all():
        raise InputError(f"run={run} has a discriminator whose logits are not finite; omit --discriminator")
    precision, _ = choose_precision(network, logits, MAX_LOGIT)
    packed = pack_network(operations, precision) | {
        "paired": isinstance(LOSSES[config.train.loss], PairedLoss),
        "quantiles": judged.quantile((torch.arange(QUANTILES) + 0.5) / QUANTILES).tolist(),
    }
    return packed, f"step {step:,}, {count_weights(network):,} weights, {precision}"
