"""One update of one network: the gradient of the global batch, then the optimizer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from gan_dist.training.guard import Guard
from gan_dist.training.reduction import Reduction

PartStats = dict[str, Float[Tensor, ""]]
Stats = dict[str, Float[Tensor, " parts"]]
PartLoss = Callable[[slice], tuple[Float[Tensor, ""], PartStats]]
"""A part of this rank's share -> its mean loss, with its graph, and its figures, detached."""


def flatten(network: nn.Module) -> nn.Parameter:
    """Lay a network's weights out in one vector, of which its parameters become views.

    An optimizer over the vector moves them all in one pass, and so much faster than one after the other. Call it
    where the network trains: moving it to another device tears the views off.

    Returns:
        The vector, (weights,).
    """
    parameters = list(network.parameters())
    flat = torch.cat([parameter.detach().flatten() for parameter in parameters])
    pieces = flat.split([parameter.numel() for parameter in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.data = piece.view_as(parameter)
    return nn.Parameter(flat)


class Update:
    """Moves one network, unless the guard says no.

    The gradients of all weights cross between the ranks as one vector, in one collective, with the guard's number of
    each rank behind them.

    Args:
        network: the bare module; only its parameters move.
        optimizer: a fused one, over what `flatten` made of the network.
        reduction: how the gradients are added.
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
        self._parameters = list(network.parameters())
        (weights,) = optimizer.param_groups[0]["params"]
        self._sent = weights.new_zeros(reduction.rows, len(weights) + guard.ranks)
        self.gradients = self._sent[:, : len(weights)]
        self._sums = self._sent[0, len(weights) :]  # of each rank, for the guard
        weights.grad = self.gradients[0]
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
        apart = self.reduction.rows > 1
        figures, losses = [], []
        for i, part in enumerate(self.parts):
            loss, stats = loss_of(part)
            self.backward(loss if self.reduction.weight == 1 else loss * self.reduction.weight)
            if apart or part is self.parts[-1]:
                self._collect_in(i if apart else 0)
            figures.append(stats)
            losses.append(loss.detach())
        if not self.guard.scaled:
            losses.append(self.gradients.sum())
        self._sums.zero_()
        torch.sum(torch.stack(losses), 0, out=self._sums[self.guard.rank])
        self.reduction(self._sent)
        self.guard.judge(self._sums)
        if self.guard.scaled:  # the scaler leaves out what is not finite
            self.gradients[0].add_(torch.where(self.guard.veto > 0, torch.nan, 0.0))
        self.optimizer.step()
        return {name: torch.stack([stats[name] for stats in figures]) for name in figures[0]}

    def _collect_in(self, row: int) -> None:
        """Take the gradients from the parameters. They get new ones each time: nothing is cleared, nothing added."""
        gradients = [parameter.grad.flatten() for parameter in self._parameters if parameter.grad is not None]
        torch.cat(gradients, out=self.gradients[row])
        for parameter in self._parameters:
            parameter.grad = None
