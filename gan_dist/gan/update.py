"""One update of one network: the gradient of the global batch, then the optimizer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.optim import Optimizer

from gan_dist.data.batch import Labels
from gan_dist.gan.guard import NonfiniteGuard
from gan_dist.gan.reduction import Reduction
from gan_dist.gan.slices import vector_of
from gan_dist.gan.stop_signal import LocalStopSignal, StopSignal

PartStats = dict[str, Float[Tensor, ""]]
Stats = dict[str, Float[Tensor, " parts"]]
PartLoss = Callable[..., tuple[Float[Tensor, ""], PartStats]]
"""Inputs of one part of this rank's share -> the mean loss, with its graph, and the figures, detached."""


def flatten(network: nn.Module) -> nn.Parameter:
    """Store a network's weights in one vector and make its parameters views of it.

    An optimizer over the vector updates all weights in one pass, which is much faster than one parameter at a time.
    Call it on the device where the network trains: a move to another device breaks the views.

    Returns:
        The vector, (weights,).
    """
    parameters = list(network.parameters())
    flat = torch.cat([parameter.detach().flatten() for parameter in parameters])
    for parameter, view in zip(parameters, views_of(flat, parameters), strict=True):
        parameter.data = view
    return nn.Parameter(flat)


def views_of(flat: Float[Tensor, " weights"], parameters: Sequence[Tensor]) -> list[Tensor]:
    """Views of a vector, in the shapes and order of some parameters."""
    parts = flat.split([parameter.numel() for parameter in parameters])
    return [part.view_as(parameter) for parameter, part in zip(parameters, parts, strict=True)]


class Update:
    """Updates one network, unless the guard vetoes it.

    The gradients of all weights are reduced over the ranks as one vector, in one collective. The guard's number of each
    rank follows them, and a stop signal if the update carries it.

    In mixed precision the weights, the sum of their gradients and the optimizer are fp32. The passes use a copy of the
    network in half precision, rounded once per update (Micikevicius et al. 2018, arXiv:1710.03740). Autocast would
    round the same weights in every pass.

    Args:
        network: the bare module; only its parameters change.
        optimizer: a fused one, over the vector that `flatten` returned for the network, or its slices.
        reduction: adds the gradients.
        share: number of images of a global batch on this rank.
        backward: called as backward(loss, inputs=parameters); Accelerator.backward, which applies loss scaling.
        guard: checks the gradients.
        dtype: of the passes.
        stop: carried by the last update of a step; None: not by this one.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        reduction: Reduction,
        share: int,
        backward: Callable[..., None],
        guard: NonfiniteGuard,
        dtype: torch.dtype = torch.float32,
        stop: StopSignal | None = None,
    ) -> None:
        self.network = network
        self.forward_network = network
        """Computes the passes: the network itself, or its copy in half precision."""
        self.optimizer = optimizer
        self.reduction = reduction
        self.backward = backward
        self.guard = guard
        self.stop = stop or LocalStopSignal()
        size = share // reduction.parts
        self.parts = [slice(i * size, (i + 1) * size) for i in range(reduction.parts)]
        slices = optimizer.param_groups[0]["params"]
        self.weights: Float[Tensor, " weights"] = vector_of(slices)
        """All weights of the network, in fp32; its parameters are views of them."""
        self._rounded = None
        if dtype != torch.float32:
            self.forward_network = copy.deepcopy(network).to(dtype)
            self._rounded = flatten(self.forward_network).detach()
        self._parameters = list(self.forward_network.parameters())
        weights, more = len(self.weights), guard.ranks + self.stop.columns
        self._reduced = self.weights.new_zeros(reduction.rows, weights + more)
        self.gradients = self._reduced[:, :weights]
        self._gradient_views = [views_of(gradients, self._parameters) for gradients in self.gradients]
        # Behind the gradients: a sum of each rank, for the guard; then the stop signal.
        self._numbers = self._reduced[0, weights:]
        self._sums, self._stop = self._numbers.split([guard.ranks, self.stop.columns])
        self._own_numbers = torch.zeros_like(self._numbers)  # of this rank, before the guard's sum
        self.stop.connect(self._own_numbers[guard.ranks :])
        for part, gradient in zip(slices, self.gradients[0].split([len(part) for part in slices]), strict=True):
            part.grad = gradient
        self._step = optimizer.step
        if not guard.scaled:
            # Accelerate's step is needed for a GradScaler only; it searches for a package on disk each time.
            bare = getattr(optimizer, "optimizer", optimizer)
            self._step = bare.step
            # torch's fused optimizers skip the update if found_inf is 1, without a synchronization. A GradScaler sets
            # it itself.
            setattr(bare, "found_inf", guard.veto)  # noqa: B010  # untyped

    def full_precision(self, images: Float[Tensor, "n c h w"], labels: Labels | None = None) -> Float[Tensor, " n"]:
        """The network's logits in fp32, at the weights of the passes. Gradients flow to these weights."""
        if self._rounded is None:
            return self.forward_network(images, labels)
        weights = {name: parameter.float() for name, parameter in self.forward_network.named_parameters()}
        return torch.func.functional_call(self.forward_network, weights, (images.float(), labels))

    def __call__(self, part_loss: PartLoss, *inputs: Shaped[Tensor, "n ..."] | None) -> Stats:
        """Do one update. It waits for nothing and changes tensors in place only, so a CUDA graph can contain it.

        Args:
            part_loss: called once for each part, in order; the same function of its inputs in every step.
            inputs: of this rank's whole share; None, in every step or in none, is passed on.

        Returns:
            Name -> figure, (parts,).
        """
        figures = self._reduce_gradients(part_loss, inputs)
        self.guard.check(self._sums)
        self.stop.receive(self._stop)
        if self.guard.scaled:  # the scaler skips updates that are not finite
            self.gradients[0].add_(torch.where(self.guard.veto > 0, torch.nan, 0.0))
        self._step()
        self.refresh()
        self.guard.record(self._sums)
        return {name: torch.stack([stats[name] for stats in figures]) for name in figures[0]}

    def _reduce_gradients(self, part_loss: PartLoss, inputs: Sequence[Tensor | None]) -> list[PartStats]:
        """Compute the gradient of the global batch and the numbers behind it.

        Returns:
            The figures of each part.
        """
        apart = self.reduction.rows > 1
        figures, losses = [], []
        for i, part in enumerate(self.parts):
            own = [None if tensor is None else tensor[part] for tensor in inputs]
            if self.reduction.exact:
                # Kernels may round differently if the memory alignment differs, as it would for the same part on
                # another number of processes.
                own = [None if tensor is None else tensor.clone() for tensor in own]
            loss, stats = part_loss(*own)
            weighted = loss if self.reduction.weight == 1 else loss * self.reduction.weight
            self.backward(weighted, inputs=self._parameters)  # none for the other network
            self._collect_gradients(i if apart else 0, add=i > 0 and not apart)
            figures.append(stats)
            losses.append(loss.detach())
        if not self.guard.scaled:
            losses.append(self.gradients.sum())
        self._numbers.copy_(self._own_numbers)
        torch.sum(torch.stack(losses), 0, out=self._sums[self.guard.rank])
        self.reduction(self._reduced)
        return figures

    def refresh(self) -> None:
        """Copy the weights to the half-precision network. Must be called after they were changed from outside."""
        if self._rounded is not None:
            self._rounded.copy_(self.weights)

    def _collect_gradients(self, row: int, add: bool) -> None:
        """Move the parameters' gradients to a row of `gradients`, or add them to it.

        They are added here, in fp32, because autograd would add them in the precision of the passes.
        """
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        assert len(gradients) == len(self._parameters), "a parameter does not take part in the loss"
        if self._rounded is None and not add:  # one kernel; slower than copies if it has to convert
            torch.cat([gradient.flatten() for gradient in gradients], out=self.gradients[row])
        else:
            for view, gradient in zip(self._gradient_views[row], gradients, strict=True):
                view.add_(gradient) if add else view.copy_(gradient)
        for parameter in self._parameters:
            parameter.grad = None
