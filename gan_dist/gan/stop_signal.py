"""Stop requests of the ranks, which travel with the gradients of a step: no collective of their own."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@runtime_checkable
class StopSignal(Protocol):
    """Tells all ranks in how many steps no rank had been asked to stop."""

    @property
    def columns(self) -> int:
        """How many numbers it adds to the gradients of the update that carries it."""

    def connect(self, own: Float[Tensor, " columns"]) -> None:
        """Use the memory from which an update copies this rank's numbers in every step."""

    def receive(self, reduced: Float[Tensor, " columns"]) -> None:
        """Count a step. A part of the update, without a wait.

        Args:
            reduced: the sum of the ranks' numbers, or a positive multiple of it; identical on every rank.
        """

    def request(self) -> None:
        """Send this rank's request with the next step and all later ones."""

    @property
    def steps_before(self) -> int:
        """Number of counted steps before the first one with a request, among those that the device has finished."""


class LocalStopSignal:
    """The signal of a run with one process, which asks nobody."""

    columns = 0

    def __init__(self) -> None:
        self._requested = False

    def connect(self, own: Float[Tensor, " columns"]) -> None:
        pass

    def receive(self, reduced: Float[Tensor, " columns"]) -> None:
        pass

    def request(self) -> None:
        self._requested = True

    @property
    def steps_before(self) -> int:
        return 0 if self._requested else 2**62


class ReducedStopSignal:
    """The signal of several ranks: each adds a number above 0 to a sum over the ranks once it was asked to stop.

    It never takes the request back, so the first step with a request follows from one number: how many steps had none.
    The device counts them and copies the count to the host behind every step. The host reads it without waiting. A
    count that is newer than the host assumes has the same meaning.

    Args:
        device: of the gradients.
    """

    columns = 1

    def __init__(self, device: torch.device) -> None:
        self._count: Int64[Tensor, " 1"] = torch.zeros(1, dtype=torch.int64, device=device)
        self._clear = torch.zeros_like(self._count)
        self._on_host = self._count if device.type == "cpu" else make_pinned(self._count)
        self._own = torch.zeros(1, device=device)

    def connect(self, own: Float[Tensor, " columns"]) -> None:
        self._own = own

    def receive(self, reduced: Float[Tensor, " columns"]) -> None:
        torch.logical_not(reduced, out=self._clear)  # faster than == and the conversion of its result
        self._count.add_(self._clear)
        if self._on_host is not self._count:
            self._on_host.copy_(self._count, non_blocking=True)

    def request(self) -> None:
        self._own.fill_(1)

    @property
    def steps_before(self) -> int:
        return int(self._on_host.item())


def make_pinned(tensor: Tensor) -> Tensor:
    """Host memory like a tensor of the device, filled with zeros, into which the device copies without a wait."""
    return torch.zeros(tensor.shape, dtype=tensor.dtype, pin_memory=True)
