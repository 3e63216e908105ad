"""Stop requests: signals and the end of the launcher, and how all ranks stop at the same step."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import time
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist

from gan_dist.distributed.signals import END_OF_JOB, handle_signals, launcher_ended, signal_when_launcher_ends

_SAME_REQUEST_SECONDS = 2.0  # a terminal and a launcher may both forward one Ctrl-C


class StopRequest:
    """Whether this process was asked to stop. A second signal ends it at once.

    The end of the launcher and SIGHUP are requests too, but count as neither the first nor the second signal: after a
    Ctrl-C, the launcher ends before its worker has saved, and a terminal may be closed in the meantime.
    """

    def __init__(self) -> None:
        self._reason = ""
        self._signaled_at: float | None = None
        self._launcher_ended_at: float | None = None

    @property
    def pending(self) -> bool:
        return bool(self._reason)

    @property
    def reason(self) -> str:
        """The first request; empty if there was none. The kernel may signal a launcher's end before it has ended."""
        if self._reason == signal.SIGTERM.name and launcher_ended():
            self._reason = "the launcher ended"
        return self._reason

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals during the block. Does nothing outside the main thread, which alone can set handlers."""
        with handle_signals(self._on_signal, signal.SIGINT, *END_OF_JOB), signal_when_launcher_ends(signal.SIGTERM):
            yield

    def ask(self, reason: str) -> None:
        """Request a stop, as a signal does. The first reason is kept."""
        self._reason = self._reason or reason

    def _on_signal(self, number: int) -> None:
        now = time.monotonic()
        self.ask(signal.Signals(number).name)
        if number == signal.SIGTERM and self._is_from_launcher_end(now):
            return
        if number == signal.SIGHUP:
            return
        if self._signaled_at is None:
            self._signaled_at = now
        elif now - self._signaled_at > _SAME_REQUEST_SECONDS:
            os._exit(128 + number)  # the latest complete checkpoint remains

    def _is_from_launcher_end(self, now: float) -> bool:
        """Whether the kernel sent a SIGTERM for the launcher's end. It may send one for each of its threads."""
        if self._launcher_ended_at is None and launcher_ended(timeout=1.0):
            self._launcher_ended_at = now
        return self._launcher_ended_at is not None and now - self._launcher_ended_at < _SAME_REQUEST_SECONDS


@runtime_checkable
class StopCarrier(Protocol):
    """A collective that every rank calls in every step and that transmits one flag along with its data."""

    stop_requested: bool
    """This rank's flag in the next call."""
    stop_requested_anywhere: bool
    """Whether any rank's flag was set in the last call."""


class StopAgreement:
    """Makes all ranks stop at the same step after one of them was asked to.

    In every step, each rank sends its flag and receives the flags of the previous step, so that nothing waits. Without
    a collective that carries the flag, it is exchanged in a CPU group of its own: no GPU waits, and a lost process is
    noticed whatever connects the GPUs.

    Args:
        request: of this process.
        timeout: seconds to wait for the other processes.
        carrier: transmits the flag, if there is one.
    """

    def __init__(self, request: StopRequest, timeout: float, carrier: StopCarrier | None = None) -> None:
        self._request = request
        self._carrier = carrier
        self._group: Any = None
        if dist.is_initialized() and dist.get_world_size() > 1 and carrier is None:
            self._group = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=timeout))
        self._flag = torch.zeros(1, dtype=torch.int32)
        self._exchange: dist.Work | None = None

    def reached(self) -> bool:
        """Returns whether to stop after this step, the same on every rank. Every rank must call it in every step."""
        if self._carrier is not None:
            self._carrier.stop_requested = self._request.pending
            return self._carrier.stop_requested_anywhere
        if self._group is None:
            return self._request.pending
        stop = False
        if self._exchange is not None:
            self._exchange.wait()
            stop = self._flag.item() > 0
        self._flag.fill_(self._request.pending)
        self._exchange = dist.all_reduce(self._flag, group=self._group, async_op=True)
        return stop

    def close(self) -> None:
        """Complete the current exchange. Every rank must call it after the same number of steps."""
        if self._exchange is not None:
            self._exchange.wait()
