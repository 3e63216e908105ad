"""Being asked to stop: signals, the launcher's end, and all ranks deciding it at the same step."""

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

from gan_dist.distributed.signals import END_OF_JOB, heard_by, launcher_ended, signaled_when_launcher_ends

_SAME_WISH = 2.0  # seconds: a terminal and a launcher that both pass on one Ctrl-C are one wish


class StopRequest:
    """Whether this process was asked to stop. Asked a second time by a signal, it ends at once.

    The end of the launcher and SIGHUP ask too, but never count as the first or the second time: after a Ctrl-C the
    launcher ends before its worker has saved, and a terminal may be closed meanwhile.
    """

    def __init__(self) -> None:
        self._reason = ""
        self._asked_at: float | None = None
        self._launcher_ended_at: float | None = None

    @property
    def pending(self) -> bool:
        return bool(self._reason)

    @property
    def reason(self) -> str:
        """Who asked first; empty if nobody did. The kernel may tell of a launcher's end before it has ended."""
        if self._reason == signal.SIGTERM.name and launcher_ended():
            self._reason = "the launcher ended"
        return self._reason

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals over for the time of the block. Only a main thread can; elsewhere this does nothing."""
        with heard_by(self._on_signal, signal.SIGINT, *END_OF_JOB), signaled_when_launcher_ends(signal.SIGTERM):
            yield

    def ask(self, reason: str) -> None:
        """Ask the run to stop, as a signal does; the first reason counts."""
        self._reason = self._reason or reason

    def _on_signal(self, number: int) -> None:
        now = time.monotonic()
        self.ask(signal.Signals(number).name)
        if number == signal.SIGTERM and self._tells_of_launcher(now):
            return
        if number == signal.SIGHUP:
            return
        if self._asked_at is None:
            self._asked_at = now
        elif now - self._asked_at > _SAME_WISH:
            os._exit(128 + number)  # the last whole checkpoint stays

    def _tells_of_launcher(self, now: float) -> bool:
        """Whether a SIGTERM is the kernel's, for the end of the launcher. It may send one for each of its threads."""
        if self._launcher_ended_at is None and launcher_ended(timeout=1.0):
            self._launcher_ended_at = now
        return self._launcher_ended_at is not None and now - self._launcher_ended_at < _SAME_WISH


@runtime_checkable
class Meeting(Protocol):
    """A collective that every rank comes to in every step, and that carries a wish along."""

    wish: bool
    """What this rank wishes at the next meeting."""
    stop_requested_anywhere: bool
    """Whether any rank wished at the last one."""


class StopAgreement:
    """All ranks learn at the same step that one of them was asked to stop.

    Every step each rank puts in its word, and learns of the others' words of the step before: nothing waits for it.
    Where the ranks have no meeting that carries the word along, it is exchanged beside the arithmetic, in a group of
    its own on the CPU, so that no GPU waits and a lost process is noticed whatever connects the GPUs.

    Args:
        request: where this process hears that it should stop.
        patience: seconds that it waits for the other processes.
        meeting: what carries the word, if something does.
    """

    def __init__(self, request: StopRequest, timeout: float, meeting: Meeting | None = None) -> None:
        self._request = request
        self._meeting = meeting
        self._group: Any = None
        if dist.is_initialized() and dist.get_world_size() > 1 and meeting is None:
            self._group = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=timeout))
        self._word = torch.zeros(1, dtype=torch.int32)
        self._exchange: dist.Work | None = None

    def reached(self) -> bool:
        """Whether to stop after this step: the same answer on every rank. Every rank must ask at every step."""
        if self._meeting is not None:
            self._meeting.wish = self._request.pending
            return self._meeting.stop_requested_anywhere
        if self._group is None:
            return self._request.pending
        stop = False
        if self._exchange is not None:
            self._exchange.wait()
            stop = self._word.item() > 0
        self._word.fill_(self._request.pending)
        self._exchange = dist.all_reduce(self._word, group=self._group, async_op=True)
        return stop

    def close(self) -> None:
        """End the exchange under way. Every rank must reach this after the same number of steps."""
        if self._exchange is not None:
            self._exchange.wait()
