"""Waits for the device with a deadline, so that a lost rank is noticed behind a collective that never ends.

A copy to the host waits until the device has finished, without a timeout. NCCL's watchdog does not see collectives
inside a CUDA graph (pytorch/pytorch#102542), and where it does see one, it ends the process without naming a rank.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor

from gan_dist.distributed.peers import Peers

POLL_SECONDS = 1e-4
PATIENCE = 10  # timeouts that the device may take while all ranks are alive
RUN_AHEAD = 4  # steps; a stop request takes effect after at most twice as many, and one

Gather = Callable[[Tensor], Tensor]


@runtime_checkable
class DeviceWait(Protocol):
    """Waits for all work that this process has given to its device."""

    def __call__(self) -> None:
        """Wait before a copy to the host that follows a collective of the device.

        Raises:
            dist.DistError: a rank is lost.
        """


class NoWait:
    """The copy itself waits: the device is the CPU, whose collectives have a timeout, or there are no other ranks."""

    def __call__(self) -> None:
        pass


class BoundedWait:
    """Polls an event behind the work. If it does not come in time, the other ranks are pinged.

    The device may have much work before the event, so a late one is an error only if a rank is lost. After PATIENCE
    timeouts it is one in any case: then the ranks wait for each other.

    Args:
        device: of this process.
        timeout: seconds to wait before a ping.
        unresponsive_ranks: pings the other ranks; returns those that do not answer.
    """

    def __init__(
        self, device: torch.device, timeout: float, unresponsive_ranks: Callable[[], Sequence[int]] | None = None
    ) -> None:
        self.device = device
        self.timeout = timeout
        self.unresponsive_ranks = unresponsive_ranks or _unresponsive_peers

    def __call__(self) -> None:
        event: Any = torch.Event(self.device)
        event.record()
        self.until(event)

    def until(self, event: Any) -> None:
        """Wait for a recorded event.

        Raises:
            dist.DistError: a rank is lost.
        """
        for _ in range(PATIENCE):
            if self._finished(event):
                return
            if lost := self.unresponsive_ranks():
                raise dist.DistNetworkError(f"the device waits for rank {', '.join(map(str, lost))}, which is lost")
        raise dist.DistNetworkError(f"the device has not finished after {PATIENCE * self.timeout:,.0f} s")

    def _finished(self, event: Any) -> bool:
        """Returns whether the event comes within the timeout."""
        deadline = time.monotonic() + self.timeout
        while not event.query():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True


def make_wait(device: torch.device, ranks: int, timeout: float) -> DeviceWait:
    """How this process waits for its device. Arguments as in `BoundedWait`."""
    return NoWait() if device.type == "cpu" or ranks == 1 else BoundedWait(device, timeout)


@runtime_checkable
class RunAhead(Protocol):
    """Called once in every step, behind its work: limits how far the host runs ahead of the device."""

    @property
    def steps(self) -> int:
        """Number of latest steps that the device may not have finished after a call."""

    def __call__(self) -> None:
        """Wait until the device has finished all steps but the latest `steps`.

        Raises:
            dist.DistError: a rank is lost.
        """


class NoRunAhead:
    """A step has ended when its last collective returns, as on the CPU; or there are no other ranks to agree with."""

    steps = 0

    def __call__(self) -> None:
        pass


class BoundedRunAhead:
    """Records an event behind each step and waits for that of an earlier one, with the deadline of a BoundedWait.

    Args:
        wait: of the device.
        steps: see RunAhead. Enough that the device always has work, and few enough to stop soon.
    """

    def __init__(self, wait: BoundedWait, steps: int = RUN_AHEAD) -> None:
        self.steps = steps
        self._wait = wait
        self._pending: deque[Any] = deque()
        self._unused: list[Any] = [torch.Event(wait.device) for _ in range(steps + 1)]

    def __call__(self) -> None:
        event = self._unused.pop()
        event.record()
        self._pending.append(event)
        if len(self._pending) > self.steps:
            earliest = self._pending.popleft()
            self._wait.until(earliest)
            self._unused.append(earliest)


def make_run_ahead(wait: DeviceWait) -> RunAhead:
    """How far the host may run ahead of a device that is waited for in this way."""
    return BoundedRunAhead(wait) if isinstance(wait, BoundedWait) else NoRunAhead()


def gather_in_time(gather: Gather, wait: DeviceWait) -> Gather:
    """A gather whose result can be copied to the host without an unbounded wait."""

    def gather_and_wait(tensor: Tensor) -> Tensor:
        gathered = gather(tensor)
        wait()
        return gathered

    return gather_and_wait


def _unresponsive_peers() -> list[int]:
    return Peers.current.unresponsive_ranks() if Peers.current is not None else []
