"""The loader that Accelerate prepares."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader

from gan_dist.data.order import GlobalBatches
from gan_dist.data.store import PendingBatch, Store


def make_loader(store: Store, batches: GlobalBatches) -> DataLoader[PendingBatch]:
    """The loader that `Accelerator.prepare` shards. Its batch size is global (`split_batches`).

    A prepared loader is one batch ahead: it asks for a batch before it yields the previous one.
    """
    return DataLoader(
        store,
        batch_sampler=batches,
        collate_fn=_identity,  # __getitems__ returns a batch
        generator=torch.Generator(),  # otherwise each iterator draws a seed from the global generator
    )


def _identity(batch: Any) -> Any:
    return batch
