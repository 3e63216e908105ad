"""A thread that makes calls which may raise or hang, in order and with a bounded queue."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

QUEUED_BYTES = 64 * 2**20  # limit of all calls that wait
_CALL_BYTES = 2048  # about the figures of one log point


class Worker:
    """Makes calls in a thread, one after the other.

    After a call that raised, the calls in the queue are dropped. The thread is a daemon: it does not delay the end of
    the process.

    Args:
        last: called after the other calls, once the worker is closed or a call has raised.
    """

    def __init__(self, last: Callable[[], None]) -> None:
        self.error: BaseException | None = None
        """The first exception of a call."""
        self._last = last
        self._changed = threading.Condition()
        self._calls: deque[tuple[Callable[[], object], int]] = deque()
        self._bytes = 0
        self._began: float | None = None  # of the current call, on time.monotonic
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="tracker-calls", daemon=True)
        self._thread.start()

    def put(self, call: Callable[[], object], size: int = 0) -> bool:
        """Queue a call.

        Args:
            call: takes no arguments; its result is dropped.
            size: bytes that it holds in addition to some figures.

        Returns:
            False if the queue is full; the call is then dropped.
        """
        size += _CALL_BYTES
        with self._changed:
            if self._calls and self._bytes + size > QUEUED_BYTES:
                return False
            self._calls.append((call, size))
            self._bytes += size
            self._changed.notify_all()
        return True

    def is_stuck(self, seconds: float) -> bool:
        """Returns whether the current call has taken longer than `seconds`."""
        began = self._began
        return began is not None and time.monotonic() - began > seconds

    def close(self) -> None:
        """Let the thread end after the calls in the queue."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def join(self, seconds: float) -> bool:
        """Wait up to `seconds` for the end of the thread. Returns whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (call := self._next()) is not None:
            self._make(call)
        self._make(self._last)

    def _next(self) -> Callable[[], object] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._calls or self._closed or self.error)
            if self.error is not None or not self._calls:
                self._calls.clear()
                return None
            call, size = self._calls.popleft()
            self._bytes -= size
            self._began = time.monotonic()
            return call

    def _make(self, call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:  # wandb raises SystemExit if its service ended with an error
            self.error = self.error or error
        with self._changed:
            self._began = None
            self._changed.notify_all()
