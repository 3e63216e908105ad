"""Being asked to stop: signals, the launcher's death, and all ranks deciding it at the same step."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist

from gan_dist.signals import END_OF_JOB, heard_by

_SAME_WISH = 2.0  # seconds: a terminal and a launcher that both pass on one Ctrl-C are one wish
_PR_SET_PDEATHSIG = 1


class StopRequest:
    """Whether somebody asked this process to stop. The second time it is asked, it ends at once."""

    def __init__(self) -> None:
        self.reason = ""
        self._asked_at = 0.0

    @property
    def pending(self) -> bool:
        return bool(self.reason)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals over for the time of the block. Only a main thread can; elsewhere this does nothing."""
        with heard_by(self._on_signal, signal.SIGINT, *END_OF_JOB):
            if threading.current_thread() is threading.main_thread():
                _die_with_the_launcher()
            yield

    def ask(self, reason: str) -> None:
        """Ask the run to stop, as a signal does; the first reason counts."""
        self.reason = self.reason or reason

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self._asked_at:
            self.ask(signal.Signals(number).name)
            self._asked_at = now
        elif now - self._asked_at > _SAME_WISH:
            os._exit(128 + number)  # the last whole checkpoint stays


@runtime_checkable
class Meeting(Protocol):
    """A collective that every rank comes to in every step, and that carries a wish along."""

    wish: bool
    """What this rank wishes at the next meeting."""
    wished: bool
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

    def __init__(self, request: StopRequest, patience: float, meeting: Meeting | None = None) -> None:
        self._request = request
        self._meeting = meeting
        self._group: Any = None
        if dist.is_initialized() and dist.get_world_size() > 1 and meeting is None:
            self._group = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=patience))
        self._word = torch.zeros(1, dtype=torch.int32)
        self._exchange: dist.Work | None = None

    def reached(self) -> bool:
        """Whether to stop after this step: the same answer on every rank. Every rank must ask at every step."""
        if self._meeting is not None:
            self._meeting.wish = self._request.pending
            return self._meeting.wished
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


def _die_with_the_launcher() -> None:
    """Have the kernel send SIGTERM when the launcher dies, which otherwise would leave this process behind.

    Only under a launcher: a process started from a shell must outlive it (nohup). Linux only.
    """
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
    if launched and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == 1:  # it died before we asked
            os.kill(os.getpid(), signal.SIGTERM)
