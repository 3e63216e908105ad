"""How gradients are added over the parts of a batch and over the ranks: fast, or exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

Gather = Callable[[Float[Tensor, "k n"]], Float[Tensor, "ranks_k n"]]
"""This rank's rows -> everybody's, in the order of the ranks; the same on every rank. A collective."""


@runtime_checkable
class Reduction(Protocol):
    """How the gradients of a rank's parts become the gradient of the global batch."""

    @property
    def parts(self) -> int:
        """Parts that this rank's share of a batch is cut into."""

    @property
    def rows(self) -> int:
        """Parts whose gradients are kept apart until all are there; 1: they are added as they come."""

    @property
    def weight(self) -> float:
        """What a part's mean loss is multiplied with before it goes backward."""

    @property
    def exact(self) -> bool:
        """Whether a part has to give the same bits on any number of processes."""

    def __call__(self, gradients: Float[Tensor, "rows weights"]) -> None:
        """Put the sum or mean over the global batch into the first row, on every rank. One collective."""


@dataclass(frozen=True)
class FastReduction:
    """One sum over everything: equal on any number of processes to rounding.

    Args:
        ranks: how many there are.
        parts: micro-batches that a rank's share is cut into (gradient accumulation).
        gather: how the ranks see each other's gradients, where there is a faster way than torch's all-reduce.
    """

    ranks: int
    parts: int = 1
    rows: int = 1
    gather: Gather | None = None
    exact: bool = False

    @property
    def weight(self) -> float:
        return 1 / (self.ranks * self.parts)

    def __call__(self, gradients: Float[Tensor, "rows weights"]) -> None:
        if self.gather is not None:
            first, *others = self.gather(gradients)
            torch.add(first, others[0], out=gradients[0])  # twice as fast as a sum over the ranks' axis
            for other in others[1:]:
                gradients[0].add_(other)
        elif self.ranks > 1:
            dist.all_reduce(gradients)


@dataclass(frozen=True)
class ExactReduction:
    """The batch is always cut into the same shards, whose gradients are added in one tree: bit for bit the same
    on any number of processes that divides the shards.

    Args:
        ranks: how many there are.
        shards: how many the global batch is cut into; `ranks` divides it.
        gather: as in FastReduction, for torch's all-gather.
    """

    ranks: int
    shards: int
    gather: Gather | None = None
    weight: float = 1.0
    exact: bool = True

    @property
    def parts(self) -> int:
        return self.shards // self.ranks

    @property
    def rows(self) -> int:
        return self.parts

    def __call__(self, gradients: Float[Tensor, "rows weights"]) -> None:
        sums = add_local_pairs(gradients)
        if self.ranks > 1:
            sums = (self.gather or self._all_gather)(sums)
        torch.div(add_in_a_tree(sums), self.shards, out=gradients[0])

    def _all_gather(self, sums: Float[Tensor, "rows weights"]) -> Float[Tensor, "all weights"]:
        everyones = sums.new_empty(self.ranks * len(sums), sums.shape[1])
        dist.all_gather(list(everyones.chunk(self.ranks)), sums)
        return everyones


def add_in_a_tree(rows: Float[Tensor, "rows weights"]) -> Float[Tensor, " weights"]:
    """Add all rows in one order: neighbours, then neighbours of those; an odd one out moves up a level alone."""
    while len(rows) > 1:
        pairs = len(rows) // 2 * 2
        rows = torch.cat([rows[0:pairs:2] + rows[1:pairs:2], rows[pairs:]])
    return rows[0]


def add_local_pairs(rows: Float[Tensor, "rows weights"]) -> Float[Tensor, "fewer weights"]:
    """Do the part of the tree that lies inside a rank, whose number of rows every rank has: whole levels only."""
    while len(rows) % 2 == 0:
        rows = rows[0::2] + rows[1::2]
    return rows
