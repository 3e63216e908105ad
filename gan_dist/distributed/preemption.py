"""Stop requests: signals and the end of the launcher."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

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
