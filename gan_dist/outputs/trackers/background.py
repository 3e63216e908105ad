"""A tracker whose calls are made by a thread, so that a slow, hung or failing dashboard never delays or ends a run."""

from __future__ import annotations

import atexit
import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from gan_dist.files import first_line
from gan_dist.outputs.trackers.protocol import DISABLED, Tracker
from gan_dist.outputs.trackers.worker import QUEUED_BYTES, Worker

T = TypeVar("T")
_INTERRUPTED_SECONDS = 1.0  # for an interrupted call to return
_NOTHING_LOST = "metrics.jsonl has all figures"


class Opened(NamedTuple):
    """A run that a backend has opened."""

    id: str
    announcement: str
    """Where to see the run, in one line."""


@runtime_checkable
class Backend(Protocol):
    """The client of one kind of dashboard. Its calls may raise anything and hang.

    One thread makes them all, in order, except those that say otherwise.
    """

    title: str
    """Its name in messages."""
    timeout: float
    """Maximum time of a call in seconds."""
    timeout_field: str
    """The configuration field that sets `timeout`."""
    warning: str | None
    """The last warning of the client, in one line. Read by other threads."""

    def load(self) -> None:
        """Import the client. Called without a time limit, in the thread of the trainer."""

    def modes(self) -> Sequence[str]:
        """Returns the modes to try, in order, such as "online" and then "offline"."""

    def open(self, mode: str, run_config: dict[str, Any], resume_id: str | None) -> Opened:
        """Open a run. May be called again after a failure."""

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Send figures."""

    def log_image(self, step: int, name: str, png: bytes) -> None:
        """Send an image, the content of a PNG file."""

    def alert(self, title: str, text: str) -> None:
        """Notify those who watch the run."""

    def close(self, exit_code: int) -> None:
        """Send everything and leave nothing behind in this process. The last call, also if no run is open."""

    def interrupt(self) -> None:
        """Make the current call return, if possible. Called by another thread."""

    def advice(self) -> str:
        """Returns what to do after a failure, to be appended to a message; may be empty. Called by other threads."""


class BackgroundTracker(Tracker):
    """Tracks with a backend in a thread. The first failure ends the tracking and is announced in one line.

    The trainer queues calls and continues. Only `start` and `finish` wait, for a limited time.

    Args:
        backend: makes the calls.
        announce: called with one line for each message, by the thread that calls the tracker.
    """

    def __init__(self, backend: Backend, announce: Callable[[str], None]) -> None:
        self.backend = backend
        self.announce = announce
        self.mode = DISABLED
        self.id: str | None = None
        self.logged_through = 0
        self._worker: Worker | None = None
        self._exit_code = 1  # until `finish` sets it
        self._limit = f"{backend.timeout:g} s ({backend.timeout_field})"

    def start(self, run_config: dict[str, Any], resume_id: str | None, logged_through: int) -> None:
        """Open the run in the first mode that works. Waits up to the backend's timeout for each mode."""
        self.logged_through = logged_through if resume_id else 0
        try:
            self.backend.load()
            self._worker = self._new_worker()
            for mode in self._call(self.backend.modes):
                if self._open(mode, run_config, resume_id):
                    return
        except (Exception, SystemExit) as error:  # whatever the client, the network or the disk does: the run continues
            self.announce(f"{self.backend.title} is unavailable ({first_line(error)}); {_NOTHING_LOST}")
        if self._worker is not None:
            worker, self._worker = self._worker, None
            worker.close()
            worker.join(_INTERRUPTED_SECONDS)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        if step > self.logged_through:
            measured = {name: value for name, value in values.items() if value is not None}
            self._put(lambda: self.backend.log(step, measured))

    def log_samples(self, step: int, picture: Path) -> None:
        if self.mode == DISABLED or step <= self.logged_through:
            return
        try:
            png = picture.read_bytes()
        except OSError as error:
            self._disable(f"failed ({first_line(error)})")
            return
        self._put(lambda: self.backend.log_image(step, "samples", png), len(png))

    def alert(self, title: str, text: str) -> None:
        self._put(lambda: self.backend.alert(title, text))

    def finish(self, exit_code: int) -> None:
        """Send what is still queued and close the run. Waits up to the backend's timeout."""
        if self._worker is None:
            return
        worker, self._worker = self._worker, None
        atexit.unregister(self.finish)
        self._exit_code = exit_code
        worker.close()
        in_time = worker.join(self.backend.timeout)
        if not in_time:
            self._interrupt()
            worker.join(_INTERRUPTED_SECONDS)
        problem = None
        if not in_time or isinstance(worker.error, TimeoutError):  # the client may have a limit of its own
            problem = f"did not accept all data within {self._limit}"
        elif worker.error is not None:
            problem = f"failed ({first_line(worker.error)})"
        elif self.backend.warning is not None:
            problem = f"warned: {self.backend.warning}"
        if problem and self.mode != DISABLED:
            self.announce(f"{self.backend.title} {problem}; {_NOTHING_LOST}{self._advice()}")
        self.mode = DISABLED

    def _open(self, mode: str, run_config: dict[str, Any], resume_id: str | None) -> bool:
        """Open the run in one mode and announce the result.

        Raises:
            _Unresponsive: no other mode can be tried.
        """
        try:
            opened = self._call(lambda: self.backend.open(mode, run_config, resume_id))
        except _Unresponsive:
            raise
        except (Exception, SystemExit) as error:
            self.announce(f"{self.backend.title} {mode} is unavailable ({first_line(error)})")
            return False
        self.mode, self.id = mode, opened.id
        # Registered after the client's own handler, so called before it: that one may wait without a limit.
        atexit.register(self.finish, 1)
        self.announce(opened.announcement)
        return True

    def _new_worker(self) -> Worker:
        return Worker(last=lambda: self.backend.close(self._exit_code))

    def _call(self, call: Callable[[], T]) -> T:
        """Make a call in the worker and return its result.

        Raises:
            TimeoutError: the call took too long and was interrupted; there is a new worker.
            _Unresponsive: the call took too long and cannot be interrupted.
            Exception, SystemExit: of the call.
        """
        assert self._worker is not None
        future: Future[T] = Future()

        def answer() -> None:
            try:
                result = call()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._worker.put(answer)
        # A cancelled future refuses a late result, which ends the worker.
        if not wait([future], self.backend.timeout).done and future.cancel():
            self._interrupt()
            late = f"no answer within {self._limit}"
            if not self._worker.join(_INTERRUPTED_SECONDS):
                raise _Unresponsive(late)
            self._worker = self._new_worker()
            raise TimeoutError(late)
        return future.result()

    def _put(self, call: Callable[[], object], size: int = 0) -> None:
        """Queue a call, unless tracking is off or has to be turned off."""
        if self.mode == DISABLED or self._worker is None:
            return
        if self._worker.error is not None:
            self._disable(f"failed ({first_line(self._worker.error)})")
        elif self._worker.is_stuck(self.backend.timeout):
            self._disable(f"did not answer within {self._limit}")
            self._interrupt(wait=0.0)  # the current call fails then; the trainer does not wait for it
        elif not self._worker.put(call, size):
            self._disable(f"is too slow: {QUEUED_BYTES / 2**20:g} MiB are waiting to be sent")

    def _disable(self, problem: str) -> None:
        self.announce(f"{self.backend.title} {problem}; tracking is off, {_NOTHING_LOST}{self._advice()}")
        self.mode = DISABLED
        if self._worker is not None:
            self._worker.close()

    def _interrupt(self, wait: float = _INTERRUPTED_SECONDS) -> None:
        def interrupt() -> None:
            with contextlib.suppress(Exception):
                self.backend.interrupt()

        thread = threading.Thread(target=interrupt, name="tracker-interrupt", daemon=True)
        thread.start()
        thread.join(wait)

    def _advice(self) -> str:
        with contextlib.suppress(Exception):
            return self.backend.advice()
        return ""


class _Unresponsive(Exception):
    """A call does not return, even after an interrupt."""
