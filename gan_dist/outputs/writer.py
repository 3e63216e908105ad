"""Writes to the run folder on rank 0, also in the background, and handles a failing disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

MAX_PENDING = 32  # lines and grids; a grid of 64 small images has 200 KB


class Writer:
    """Calls functions that write to the run folder. After the first OSError, it ignores further calls.

    So no checkpoint can be newer than a missing line of metrics: the run resumes from before the failure.

    Args:
        on_failure: called once with the reason; by another thread if `save_async` failed.
    """

    def __init__(self, on_failure: Callable[[str], None]) -> None:
        self.error: OSError | None = None
        self._on_failure = on_failure
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="disk")
        self._pending: deque[tuple[Future[None], bool]] = deque()

    def save(self, work: Callable[[], object]) -> None:
        """Call `work` and return when it is done."""
        if self.error is None:
            try:
                work()
            except OSError as error:
                self.error = error
                self._on_failure(f"{error.strerror or error}")

    def save_async(self, work: Callable[[], object], large: bool = False) -> None:
        """Call `work` in the background, after earlier work. Waits for earlier work only if too much is pending.

        Args:
            work: takes no arguments; its result is dropped.
            large: it holds much memory, as a checkpoint does; one such work is pending at a time.

        Raises:
            Exception: of earlier work, other than OSError.
        """
        while self._pending and (
            self._pending[0][0].done()
            or len(self._pending) >= MAX_PENDING
            or (large and any(is_large for _, is_large in self._pending))
        ):
            self._pending.popleft()[0].result()
        self._pending.append((self._thread.submit(self.save, work), large))

    def wait(self) -> None:
        """Wait for work in the background. Raises its exceptions other than OSError."""
        while self._pending:
            self._pending.popleft()[0].result()
