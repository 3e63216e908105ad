"""Writes to the run folder on rank 0, also in the background, and handles a failing disk."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


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
        self._pending: Future[None] | None = None

    def save(self, work: Callable[[], object]) -> None:
        """Call `work` and return when it is done."""
        if self.error is None:
            try:
                work()
            except OSError as error:
                self.error = error
                self._on_failure(f"{error.strerror or error}")

    def save_async(self, work: Callable[[], object]) -> None:
        """Call `work` in the background, after earlier work has finished."""
        self.wait()
        self._pending = self._thread.submit(self.save, work)

    def wait(self) -> None:
        """Wait for work in the background. Raises its exceptions other than OSError."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None
