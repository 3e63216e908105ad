"""The loader that Accelerate prepares, and the batches that are fetched with its indices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gan_dist.data.order import GlobalBatches, Windows
from gan_dist.data.store import PendingBatch, Store


@dataclass(frozen=True)
class Window:
    """This rank's indices of consecutive steps. No tensor: Accelerate would move one to the device of the networks."""

    steps: tuple[Int[Tensor, "b ..."], ...]


class IndexWindows(Dataset[Window]):
    """What the loader loads: windows of indices, as a batch sampler yields them."""

    def __getitems__(self, indices: Int[Tensor, "b steps ..."]) -> Window:
        """DataLoader calls this method instead of `__getitem__` for each index."""
        return Window(indices.transpose(0, 1).contiguous().unbind(0))


class Loader:
    """Yields this rank's share of each global batch. It is one batch ahead.

    Args:
        windows: a prepared loader.
        store: fetches the images.
    """

    def __init__(self, windows: Iterable[Window], store: Store) -> None:
        self.windows = windows
        self.store = store

    def __iter__(self) -> Iterator[PendingBatch]:
        current: PendingBatch | None = None
        for window in self.windows:
            for indices in window.steps:
                following = self.store.__getitems__(indices)
                if current is not None:
                    yield current
                current = following
        if current is not None:
            yield current


Prepare = Callable[[DataLoader[Window]], Iterable[Window]]


def make_loader(store: Store, batches: GlobalBatches, prepare: Prepare = lambda loader: loader) -> Loader:
    """The loader of a run.

    Args:
        store: fetches the images.
        batches: the order of the images. Its batch size is global (`split_batches`).
        prepare: `Accelerator.prepare`, which gives each rank its slice of each batch.
    """
    indices = DataLoader(
        IndexWindows(),
        batch_sampler=Windows(batches),
        collate_fn=_identity,  # __getitems__ returns a window
        generator=torch.Generator(),  # otherwise each iterator draws a seed from the global generator
    )
    return Loader(prepare(indices), store)


def _identity(window: Any) -> Any:
    return window
