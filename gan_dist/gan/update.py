"""One update of one network: the gradient of the global batch, then the optimizer."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from gan_dist.gan.cuda_graph import CapturedFunction
from gan_dist.gan.guard import Guard
from gan_dist.gan.reduction import Reduction

PartStats = dict[str, Float[Tensor, ""]]
Stats = dict[str, Float[Tensor, " parts"]]
PartLoss = Callable[..., tuple[Float[Tensor, ""], PartStats]]
"""The inputs of a part of this rank's share -> its mean loss, with its graph, and its figures, detached."""


def flatten(network: nn.Module) -> nn.Parameter:
    """Lay a network's weights out in one vector, of which its parameters become views.

    An optimizer over the vector moves them all in one pass, and so much faster than one after the other. Call it
    where the network trains: moving it to another device tears the views off.

    Returns:
        The vector, (weights,).
    """
    flat = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
    for parameter, piece in zip(network.parameters(), pieces_of(network, flat), strict=True):
        parameter.data = piece
    return nn.Parameter(flat)


def pieces_of(network: nn.Module, flat: Float[Tensor, " weights"]) -> list[Tensor]:
    """Views of a vector, in the shapes of a network's parameters and in their order."""
    parameters = list(network.parameters())
    pieces = flat.split([parameter.numel() for parameter in parameters])
    return [piece.view_as(parameter) for parameter, piece in zip(parameters, pieces, strict=True)]


class Update:
    """Moves one network, unless the guard says no.

    The gradients of all weights cross between the ranks as one vector, in one collective, with the guard's number of
    each rank behind them.

    In mixed precision the weights, their gradients' sum and the optimizer are fp32; what computes is a copy of the
    network in half precision, rounded anew once an update (Micikevicius et al. 2018, arXiv:1710.03740). Autocast would
    round the same weights again in every pass.

    Args:
        network: the bare module; only its parameters move.
        optimizer: a fused one, over what `flatten` made of the network.
        reduction: how the gradients are added.
        share: images of a global batch that this rank has.
        backward: (loss, inputs=parameters) -> their gradients; Accelerator.backward, which knows of loss scaling.
        guard: judges the gradients.
        dtype: of the passes.
        captured: play the update back as a CUDA graph.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        reduction: Reduction,
        share: int,
        backward: Callable[..., None],
        guard: Guard,
        dtype: torch.dtype = torch.float32,
        captured: bool = False,
    ) -> None:
        self.network = network
        self.working = network
        """What computes: the network, or its copy in half precision."""
        self.optimizer = optimizer
        self.reduction = reduction
        self.backward = backward
        self.guard = guard
        size = share // reduction.parts
        self.parts = [slice(i * size, (i + 1) * size) for i in range(reduction.parts)]
        (weights,) = optimizer.param_groups[0]["params"]
        self._weights, self._rounded = weights.detach(), None
        if dtype != torch.float32:
            self.working = copy.deepcopy(network).to(dtype)
            self._rounded = flatten(self.working).detach()
        self._parameters = list(self.working.parameters())
        self._sent = weights.new_zeros(reduction.rows, len(weights) + guard.ranks)
        self.gradients = self._sent[:, : len(weights)]
        self._pieces = [pieces_of(self.working, gradients) for gradients in self.gradients]
        self._sums = self._sent[0, len(weights) :]  # of each rank, for the guard
        weights.grad = self.gradients[0]
        self._step = optimizer.step
        if not guard.scaled:
            # Accelerate's own step, which looks for a package on the disk each time, is for the GradScaler.
            bare = getattr(optimizer, "optimizer", optimizer)
            self._step = bare.step
            # The channel of torch's fused optimizers for "leave this update out", decided on the device. A
            # GradScaler uses it itself.
            setattr(bare, "found_inf", guard.veto)  # noqa: B010  # untyped
        self._captured = CapturedFunction(self._apply) if captured else None

    def full_precision(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        """The network in fp32, whatever the precision of the passes, at the same weights; gradients reach them."""
        if self._rounded is None:
            return self.working(images)
        weights = {name: parameter.float() for name, parameter in self.working.named_parameters()}
        return torch.func.functional_call(self.working, weights, (images.float(),))

    def __call__(self, loss_of: PartLoss, *inputs: Float[Tensor, "n ..."]) -> Stats:
        """Do one update.

        Args:
            loss_of: called once for each part, in order; the same function of its inputs in every step.
            inputs: of this rank's whole share.

        Returns:
            Each figure, (parts,); valid until the next call.
        """
        stats = (self._captured or self._apply)(loss_of, *inputs)
        self.guard.record(self._sums)
        return stats

    def refresh(self) -> None:
        """Take over weights, and a state of the optimizer, that somebody else has put in place."""
        self._round()
        if self._captured is not None:
            self._captured.forget()

    def _apply(self, loss_of: PartLoss, *inputs: Float[Tensor, "n ..."]) -> Stats:
        apart = self.reduction.rows > 1
        figures, losses = [], []
        for i, part in enumerate(self.parts):
            own = [tensor[part] for tensor in inputs]
            if self.reduction.exact:
                # Kernels may round otherwise where memory is aligned otherwise, as it is for the same part on another
                # number of processes.
                own = [tensor.clone() for tensor in own]
            loss, stats = loss_of(*own)
            weighted = loss if self.reduction.weight == 1 else loss * self.reduction.weight
            self.backward(weighted, inputs=self._parameters)  # the other network's gradients are not even computed
            self._collect_gradients(i if apart else 0, beside=i > 0 and not apart)
            figures.append(stats)
            losses.append(loss.detach())
        if not self.guard.scaled:
            losses.append(self.gradients.sum())
        self._sums.zero_()
        torch.sum(torch.stack(losses), 0, out=self._sums[self.guard.rank])
        self.reduction(self._sent)
        self.guard.check(self._sums)
        if self.guard.scaled:  # the scaler leaves out what is not finite
            self.gradients[0].add_(torch.where(self.guard.veto > 0, torch.nan, 0.0))
        self._step()
        self._round()
        return {name: torch.stack([stats[name] for stats in figures]) for name in figures[0]}

    def _round(self) -> None:
        """Round the weights for what computes."""
        if self._rounded is not None:
            self._rounded.copy_(self._weights)

    def _collect_gradients(self, row: int, beside: bool) -> None:
        """Take the gradients from the parameters, which get new ones each time: into a row, or added to what is there.

        They are added here, in fp32, and not by autograd in the precision of the passes.
        """
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        (torch._foreach_add_ if beside else torch._foreach_copy_)(self._pieces[row], gradients)
        for parameter in self._parameters:
            parameter.grad = None
