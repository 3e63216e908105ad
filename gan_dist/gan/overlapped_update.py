"""An update whose gradients are reduced by DistributedDataParallel while the backward pass still runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gan_dist.gan.update import PartLoss, PartStats, Update, views_of

Wrap = Callable[[nn.Module], nn.Module]
"""A module -> a DistributedDataParallel of it, as `Accelerator.prepare_model` makes it."""


class Passes(nn.Module):
    """All passes of a part through the network that is updated, as one module.

    DistributedDataParallel expects one forward pass for each backward pass, but a loss may call the discriminator
    several times, and its penalty with other weights. So the loss is the module's output. The other network is called
    inside, without hooks and without communication.

    Args:
        network: its parameters are those of the module.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, part_loss: PartLoss, *inputs: Tensor | None) -> tuple[Tensor, PartStats]:
        return part_loss(*inputs)


class _Sent(NamedTuple):
    """A bucket that is being reduced."""

    work: Any
    numbers: Tensor
    parameters: list[Tensor]


class OverlappedUpdate(Update):
    """Updates one network as Update does, and gives the same result to rounding.

    A communication hook adds each bucket of gradients over the ranks in fp32. The last bucket carries the numbers of
    the guard and of the stop signal, so an update has as many collectives as buckets.

    Args:
        wrap: called once, with the Passes of the network.
        arguments: as in Update; its reduction has one row and adds nothing itself.
    """

    def __init__(self, *arguments: Any, wrap: Wrap, **options: Any) -> None:
        super().__init__(*arguments, **options)
        assert self.reduction.rows == 1, "shards are added in a fixed order, buckets are not"
        self._places: dict[Tensor, Tensor] = dict(zip(self._parameters, self._gradient_views[0], strict=True))
        self._sent: list[_Sent] = []
        wrapped = wrap(Passes(self.forward_network))
        assert isinstance(wrapped, DistributedDataParallel)
        vector = self.weights if self._rounded is None else self._rounded
        assert self._parameters[0].data_ptr() == vector.data_ptr(), "the parameters must stay views of the vector"
        # Not the method itself: torch compares annotations with types, and here they are strings.
        wrapped.register_comm_hook(None, lambda _, bucket: self._send_bucket(bucket))
        self._passes = wrapped

    def _reduce_gradients(self, part_loss: PartLoss, inputs: Sequence[Tensor | None]) -> list[PartStats]:
        figures, losses = [], []
        for i, part in enumerate(self.parts):
            last = i == len(self.parts) - 1
            with contextlib.nullcontext() if last else self._passes.no_sync():
                loss, stats = self._passes(part_loss, *(None if tensor is None else tensor[part] for tensor in inputs))
                figures.append(stats)
                losses.append(loss.detach())
                if last:
                    self._numbers.copy_(self._own_numbers)
                    torch.sum(torch.stack(losses), 0, out=self._sums[self.guard.rank])
                self.backward(loss * self.reduction.weight, inputs=self._parameters)
            if not last:
                self._collect_gradients(0, add=i > 0)
        self._receive_buckets()
        return figures

    def _send_bucket(self, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        """The communication hook: start to reduce a bucket. It is called for each one, in the same order on all ranks.

        Returns:
            The bucket as it is: `_receive_buckets` takes the sum, which may have a higher precision.
        """
        parameters, numbers = bucket.parameters(), bucket.buffer().float()
        if len(self.parts) > 1:
            for parameter, gradient in zip(parameters, _split(numbers, parameters), strict=True):
                gradient.add_(self._places[parameter])  # of the earlier parts
        if not self.guard.scaled:
            self._sums[self.guard.rank].add_(numbers.sum())
        if bucket.is_last():
            numbers = torch.cat([numbers, self._numbers])
        self._sent.append(_Sent(dist.all_reduce(numbers, async_op=True), numbers, parameters))
        buffer = bucket.buffer()
        ready: torch.futures.Future[Tensor] = torch.futures.Future(
            devices=None if buffer.device.type == "cpu" else [buffer.device]
        )
        ready.set_result(buffer)
        return ready

    def _receive_buckets(self) -> None:
        """Wait for the buckets, and write their sums to the vectors of the update."""
        gradients: dict[Tensor, Tensor] = {}
        for work, numbers, parameters in self._sent:
            work.wait()  # on CUDA the stream waits, not the host
            gradients.update(zip(parameters, _split(numbers, parameters), strict=True))
        self._numbers.copy_(self._sent[-1].numbers[-len(self._numbers) :])
        self._sent.clear()
        torch.cat([gradients[parameter].flatten() for parameter in self._parameters], out=self.gradients[0])
        for parameter in self._parameters:
            parameter.grad = None


def _split(numbers: Float[Tensor, " numbers"], parameters: Sequence[Tensor]) -> list[Tensor]:
    """The gradients in a bucket, in the shapes of their parameters."""
    return views_of(numbers[: sum(parameter.numel() for parameter in parameters)], parameters)
