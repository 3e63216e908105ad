"""How gradients are added over the parts of a batch and over the ranks: fast, or exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from gan_dist.training.guard import Guard

PartStats = dict[str, Float[Tensor, ""]]
Stats = dict[str, Float[Tensor, " parts"]]
PartLoss = Callable[[slice], tuple[Float[Tensor, ""], PartStats]]
"""A part of this rank's share -> its mean loss, with its graph, and its figures, detached."""


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

    @property
    def parts(self) -> int:
        return self.shards // self.ranks

    @property
    def rows(self) -> int:
        return self.parts

    def __call__(self, gradients: Float[Tensor, "rows weights"]) -> None:
        sums = add_whole_pairs(gradients)
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


def add_whole_pairs(rows: Float[Tensor, "rows weights"]) -> Float[Tensor, "fewer weights"]:
    """Do the part of the tree that lies inside a rank, whose number of rows every rank has: whole levels only."""
    while len(rows) % 2 == 0:
        rows = rows[0::2] + rows[1::2]
    return rows


class Update:
    """Moves one network: the gradient of the global batch, then the optimizer, unless the guard says no.

    The gradients live in one flat vector, which the parameters' `grad` are views of: they cross the network in one
    collective, once an update, with the guard's number of each rank behind them.

    Args:
        network: the bare module; only its parameters move.
        optimizer: over those parameters, a fused one.
        reduction: how their gradients are added.
        share: images of a global batch that this rank has.
        backward: loss -> gradients; Accelerator.backward, which knows of loss scaling.
        guard: judges the gradients.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        reduction: Reduction,
        share: int,
        backward: Callable[[Tensor], None],
        guard: Guard,
    ) -> None:
        self.optimizer = optimizer
        self.reduction = reduction
        self.backward = backward
        self.guard = guard
        size = share // reduction.parts
        self.parts = [slice(i * size, (i + 1) * size) for i in range(reduction.parts)]
        parameters = list(network.parameters())
        sizes = [parameter.numel() for parameter in parameters]
        self._flat = parameters[0].new_zeros(reduction.rows, sum(sizes) + guard.ranks)
        self.gradients = self._flat[:, : sum(sizes)]
        self._sums = self._flat[0, sum(sizes) :]  # of each rank, for the guard
        self._views = [
            [part.view_as(parameter) for part, parameter in zip(row.split(sizes), parameters, strict=True)]
            for row in self.gradients
        ]
        self._parameters = parameters
        self._collect_in(0)
        if not guard.scaled:
            # The channel of torch's fused optimizers for "leave this update out", decided on the device. A
            # GradScaler uses it itself.
            setattr(getattr(optimizer, "optimizer", optimizer), "found_inf", guard.veto)  # noqa: B010  # untyped

    def __call__(self, loss_of: PartLoss) -> Stats:
        """Do one update.

        Args:
            loss_of: called once for each part, in order.

        Returns:
            Each figure, (parts,).
        """
        self._flat.zero_()
        figures, losses = [], []
        for i, part in enumerate(self.parts):
            if self.reduction.rows > 1:
                self._collect_in(i)
            loss, stats = loss_of(part)
            self.backward(loss if self.reduction.weight == 1 else loss * self.reduction.weight)
            figures.append(stats)
            losses.append(loss.detach())
        if self.reduction.rows > 1:
            self._collect_in(0)
        if not self.guard.scaled:
            losses.append(self.gradients.sum())
        torch.sum(torch.stack(losses), 0, out=self._sums[self.guard.rank])
        self.reduction(self._flat)
        self.guard.judge(self._sums)
        if self.guard.scaled:  # the scaler leaves out what is not finite
            self.gradients[0].add_(torch.where(self.guard.veto > 0, torch.nan, 0.0))
        self.optimizer.step()
        return {name: torch.stack([stats[name] for stats in figures]) for name in figures[0]}

    def _collect_in(self, row: int) -> None:
        for parameter, view in zip(self._parameters, self._views[row], strict=True):
            parameter.grad = view
