"""A tracker whose calls are made by a thread, so that a slow, hung or failing dashboard never delays or ends a run."""

from __future__ import annotations

import atexit
import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from gan_dist.files import first_line
from gan_dist.outputs.trackers.media import Image, Media, size_of
from gan_dist.outputs.trackers.protocol import DISABLED, Tracker, Values
from gan_dist.outputs.trackers.worker import QUEUED_BYTES, Worker

T = TypeVar("T")
_INTERRUPTED_SECONDS = 1.0  # for an interrupted call to return
_ROWS = 100  # in one call
_NOTHING_LOST = "metrics.jsonl has all figures"


class Opened(NamedTuple):
    """A run that a backend has opened."""

    id: str
    announcement: str
    """Where to see the run, in one line."""
    received: int | None = None
    """The last step of which the dashboard, or a file that will be sent to it, has figures. None: not known."""


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

    @property
    def media(self) -> tuple[type, ...]:
        """The kinds of media that it can show."""

    def load(self) -> None:
        """Import the client. Called without a time limit, in the thread of the trainer."""

    def modes(self) -> Sequence[str]:
        """Returns the modes to try, in order, such as "online" and then "offline"."""

    def open(self, mode: str, run_config: dict[str, Any], resume_id: str | None) -> Opened:
        """Open a run. May be called again after a failure."""

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Send figures: numbers, and some names."""

    def log_media(self, step: int, name: str, media: Media) -> None:
        """Send a medium whose kind is in `media`."""

    def alert(self, step: int, title: str, text: str) -> None:
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
        name: in the table of trackers.
        backend: makes the calls.
        announce: called with one line for each message, by the thread that calls the tracker.
    """

    def __init__(self, name: str, backend: Backend, announce: Callable[[str], None]) -> None:
        self.name = name
        self.backend = backend
        self.announce = announce
        self.mode = DISABLED
        self.ids: Mapping[str, str] = {}
        self.logged_through = 0
        self._worker: Worker | None = None
        self._exit_code = 1  # until `finish` sets it
        self._limit = f"{backend.timeout:g} s ({backend.timeout_field})"

    def start(self, run_config: dict[str, Any], resume_ids: Mapping[str, str], logged_through: int) -> None:
        """Open the run in the first mode that works. Waits up to the backend's timeout for each mode."""
        resume_id = resume_ids.get(self.name)
        self.ids = {} if resume_id is None else {self.name: resume_id}
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

    def log(self, step: int, values: Values) -> None:
        if step > self.logged_through:
            self._put(lambda: self.backend.log(step, _measured(values)))

    def log_earlier(self, rows: Sequence[tuple[int, Values]]) -> None:
        """A call of the backend sends several rows: they are in memory anyway, and the number of calls is limited."""
        lacking = [(step, values) for step, values in rows if step > self.logged_through]
        for first in range(0, len(lacking), _ROWS):
            self._put(partial(self._log_rows, lacking[first : first + _ROWS]))

    def log_media(self, step: int, name: str, media: Media, final: bool = False) -> None:
        if (final or self._is_new(step)) and isinstance(media, self.backend.media):
            self._put(lambda: self.backend.log_media(step, name, media), size_of(media))

    def log_picture(self, step: int, name: str, file: Path, caption: str, final: bool = False) -> None:
        if not self.accepts(Image) or not (final or self._is_new(step)):
            return
        try:
            png = file.read_bytes()
        except OSError as error:
            self._disable(f"failed ({first_line(error)})")
            return
        self.log_media(step, name, Image(png, caption), final)

    def accepts(self, kind: type) -> bool:
        return self.mode != DISABLED and kind in self.backend.media

    def skip_through(self, step: int) -> None:
        self.logged_through = max(self.logged_through, step)

    def alert(self, step: int, title: str, text: str) -> None:
        if step > self.logged_through:
            self._put(lambda: self.backend.alert(step, title, text))

    def describe(self) -> dict[str, Any]:
        id = self.ids.get(self.name)
        return {self.name: {"mode": self.mode, "id": id, "logged_through": self.logged_through}}

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
            problem = f"did not accept all data in time; a slow network needs more than {self._limit}"
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
        self.mode, self.ids = mode, {self.name: opened.id}
        if opened.received is not None:
            self.logged_through = opened.received
        # Registered after the client's own handler, so called before it: that one may wait without a limit.
        atexit.register(self.finish, 1)
        self.announce(opened.announcement)
        return True

    def _is_new(self, step: int) -> bool:
        """Whether no earlier session sent media of a step; those of step 0 belong to a new run."""
        return step > self.logged_through or self.logged_through == 0

    def _log_rows(self, rows: Sequence[tuple[int, Values]]) -> None:
        for step, values in rows:
            self.backend.log(step, _measured(values))

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


def _measured(values: Values) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


class _Unresponsive(Exception):
    """A call does not return, even after an interrupt."""
