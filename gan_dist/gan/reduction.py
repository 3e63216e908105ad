"""Adds gradients over the parts of a batch and over the ranks: fast or exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

Gather = Callable[[Float[Tensor, "k n"]], Float[Tensor, "ranks_k n"]]
"""This rank's rows -> the rows of all ranks, in rank order, identical on every rank. A collective."""
Combine = Callable[[Float[Tensor, "k n"]], None]
"""Rows -> their combination, written to the first row."""
CombineOnFirst = Callable[[Float[Tensor, "k n"], Combine], Float[Tensor, " n"]]
"""Rows of each rank of a host, combined on its first rank -> the combination, on every rank. A collective."""


@runtime_checkable
class Reduction(Protocol):
    """Computes the gradient of the global batch from the gradients of each rank's parts."""

    @property
    def parts(self) -> int:
        """Number of parts into which this rank's share of a batch is split."""

    @property
    def rows(self) -> int:
        """Number of gradients that are stored separately. 1: those of all parts are added as they are computed."""

    @property
    def weight(self) -> float:
        """Factor of a part's mean loss before its backward pass."""

    @property
    def exact(self) -> bool:
        """Whether a part must give the same bits on any number of processes."""

    def __call__(self, gradients: Float[Tensor, "rows weights"]) -> None:
        """Write the gradient of the global batch to the first row, on every rank. One collective."""


@dataclass(frozen=True)
class FastReduction:
    """Adds all gradients in any order: equal up to rounding on any number of processes.

    Args:
        ranks: number of ranks.
        parts: number of micro-batches per rank (gradient accumulation).
        gather: a faster way to exchange gradients than torch's all-reduce, if there is one.
        group: of the ranks; None: all of the run.
    """

    ranks: int
    parts: int = 1
    rows: int = 1
    gather: Gather | None = None
    group: Any = None
    exact: bool = False

    @property
    def weight(self) -> float:
        return 1 / (self.ranks * self.parts)

    def __call__(self, gradients: Float[Tensor, "rows weights"]) -> None:
        rows = self.gather(gradients) if self.gather is not None else gradients
        if len(rows) > 1:
            first, *others = rows
            torch.add(first, others[0], out=gradients[0])  # twice as fast as a sum over the first axis
            for other in others[1:]:
                gradients[0].add_(other)
        if self.gather is None and self.ranks > 1:
            dist.all_reduce(gradients[0], group=self.group)


@dataclass(frozen=True)
class ExactReduction:
    """Splits the batch into fixed shards and adds their gradients in a fixed tree.

    The result is bit-identical on any number of processes that divides the number of shards.

    Args:
        ranks: number of ranks.
        shards: number of shards of the global batch, divisible by `ranks`.
        gather: as in FastReduction, instead of torch's all-gather.
        group: of the ranks; None: all of the run.
    """

    ranks: int
    shards: int
    gather: Gather | None = None
    group: Any = None
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
        torch.div(tree_sum(sums), self.shards, out=gradients[0])

    def _all_gather(self, sums: Float[Tensor, "rows weights"]) -> Float[Tensor, "all weights"]:
        gathered = sums.new_empty(self.ranks * len(sums), sums.shape[1])
        # Into one tensor: with a list, NCCL gathers into a buffer of its own and copies from there.
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # torch 2.14 renamed it
        gather(gathered, sums, group=self.group)
        return gathered


@dataclass(frozen=True)
class WrappedReduction:
    """Splits and weights a batch as another reduction does. Subclasses call it, or add the gradients otherwise.

    Args:
        inner: the other one.
    """

    inner: Reduction

    @property
    def parts(self) -> int:
        return self.inner.parts

    @property
    def rows(self) -> int:
        return self.inner.rows

    @property
    def weight(self) -> float:
        return self.inner.weight

    @property
    def exact(self) -> bool:
        return self.inner.exact


@dataclass(frozen=True)
class HierarchicalReduction(WrappedReduction):
    """Adds the gradients inside each host first, then one rank of each host exchanges the sums with the other hosts.

    A ring over R ranks of H hosts sends 2 (R - 1) / R vectors from host to host, this one 2 (H - 1) / H. The exact mode
    gives the same bits: a host with as many ranks as the others computes further levels of the same tree.

    Args:
        inner: over all ranks; this one gives its result.
        between: over the hosts, as if each was one rank.
        combine_on_first: of the ranks of this host.
    """

    between: Reduction
    combine_on_first: CombineOnFirst

    def __call__(self, gradients: Float[Tensor, "rows weights"]) -> None:
        rows = add_local_pairs(gradients) if self.exact else gradients
        gradients[0].copy_(self.combine_on_first(rows, self.between))


def tree_sum(rows: Float[Tensor, "rows weights"]) -> Float[Tensor, " weights"]:
    """Add all rows in a fixed order: neighbours in pairs, level by level. An odd last row moves up unchanged."""
    while len(rows) > 1:
        pairs = len(rows) // 2 * 2
        rows = torch.cat([rows[0:pairs:2] + rows[1:pairs:2], rows[pairs:]])
    return rows[0]


def add_local_pairs(rows: Float[Tensor, "rows weights"]) -> Float[Tensor, "fewer weights"]:
    """Compute the levels of the tree that lie inside one rank: those in which every rank has complete pairs."""
    while len(rows) % 2 == 0:
        rows = rows[0::2] + rows[1::2]
    return rows
