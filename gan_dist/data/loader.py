"""The loader that Accelerate prepares."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from gan_dist.data.order import GlobalBatches
from gan_dist.data.store import ResidentImages


def make_loader(dataset: ResidentImages, batches: GlobalBatches) -> DataLoader[Tensor]:
    """The loader that `Accelerator.prepare` shards (with split_batches: the batch size is global)."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=_as_it_is,  # __getitems__ made the batch
        generator=torch.Generator(),  # else each iterator draws a seed from the global generator
    )


def _as_it_is(batch: Any) -> Any:
    return batch
