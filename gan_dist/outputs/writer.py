"""Rank 0's writing: at once, or beside the training; and what happens when the disk refuses."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Writer:
    """Does what writes to the run's folder. After the first failure it does nothing more.

    So no checkpoint can be newer than a line of metrics that is missing: the run goes on from before the failure.

    Args:
        on_failure: called once, with the reason; from another thread, if it was written beside the training.
    """

    def __init__(self, on_failure: Callable[[str], None]) -> None:
        self.error: OSError | None = None
        self._on_failure = on_failure
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="disk")
        self._under_way: Future[None] | None = None

    def save(self, work: Callable[[], object]) -> None:
        """Write, and come back when it is done."""
        if self.error is None:
            try:
                work()
            except OSError as error:
                self.error = error
                self._on_failure(f"{error.strerror or error}")

    def save_async(self, work: Callable[[], object]) -> None:
        """Write beside the training: one thing after the other, never two at once."""
        self.wait()
        self._under_way = self._thread.submit(self.save, work)

    def wait(self) -> None:
        """Come back when nothing is under way. What went wrong in it, other than the disk, is raised here."""
        if self._under_way is not None:
            self._under_way.result()
            self._under_way = None
