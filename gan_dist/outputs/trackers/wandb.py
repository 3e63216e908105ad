"""Weights & Biases, when it works. Rank 0 only."""

from __future__ import annotations

import atexit
import contextlib
import netrc
import os
import re
import shlex
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psutil
from accelerate import Accelerator

from gan_dist.config import WandbConfig
from gan_dist.files import first_line
from gan_dist.outputs.folder import RunFolder

T = TypeVar("T")
_OWN_SHARE = 0.8  # of wandb.timeout is what wandb itself may wait for its server; the rest is for its cleaning up
_INTERRUPTED = 0.5  # seconds that an interrupted service has to write its file
_UNWINDING = 1.0  # seconds that a call has to come back when its service is gone
_WAITING_BYTES = 64 * 2**20  # of figures and pictures that wait for W&B, at most
_ROW_BYTES = 2048  # about what the figures of a log point occupy
_WANDB_PREFIX = re.compile(r"^(wandb: )?((WARNING|ERROR) )?")


class WandbTracker:
    """Weights & Biases through Accelerate's tracker. Whatever fails or hangs in it ends the tracking, never the run.

    A thread makes every call into wandb, in order. The training hands the calls over and does not wait for them; only
    `start` and `finish` wait, for the configured time.

    Args:
        accelerator: its trackers are used; its rank must be 0.
        config: what the user wants.
        folder: W&B's own files go to its wandb/.
        announce: called with one line for whatever the user should know, always from the thread that calls the tracker.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        config: WandbConfig,
        folder: RunFolder,
        announce: Callable[[str], None],
    ) -> None:
        self.accelerator = accelerator
        self.config = config
        self.folder = folder
        self.announce = announce
        self.mode = "disabled"
        self.id: str | None = None
        self.logged_through = 0
        self._worker: _Worker | None = None
        self._run: Any = None  # wandb's, or None; only the worker uses it
        self._warnings = _Warnings()
        self._sync_dir: Path | None = None
        self._exit_code = 1  # as long as nobody says otherwise with `finish`

    def start(self, run_config: dict[str, Any], resume_id: str | None, logged_through: int) -> None:
        """Open the run on the dashboard, or go on with it; offline if there is no key or no server.

        Waits for W&B for at most the configured time, and as long again for the second of two tries.

        Args:
            run_config: the resolved configuration.
            resume_id: the W&B run to go on with; None: a new one.
            logged_through: the last step that this run was sent already; those up to it are not sent again.
        """
        self.logged_through = logged_through if resume_id else 0
        wanted: str | None = self.config.mode
        if wanted == "auto":
            wanted = os.environ.get("WANDB_MODE") or None
        if wanted == "disabled":
            return
        import wandb  # noqa: F401, only where it is used: it takes a second, which is none of the server's

        self._worker = _Worker(last=self._close)
        try:
            if wanted is None:
                wanted = "online" if self._ask(has_api_key) else "offline"
            for mode in ("online", "offline") if wanted == "online" else (wanted,):
                if self._try(mode, run_config, resume_id):
                    return
        except _NoAnswer as error:
            self.announce(f"W&B is unavailable ({error}); metrics.jsonl has all figures")
        worker, self._worker = self._worker, None
        worker.close()
        worker.join(_UNWINDING)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Send a step's figures; they are plotted over train/step."""
        if step > self.logged_through:
            row = _row(step, values)
            self._send(lambda: self.accelerator.log(row))

    def alert(self, title: str, text: str) -> None:
        """Tell whoever watches the dashboard."""
        self._send(lambda: self._run.alert(title=title, text=text))

    def log_samples(self, step: int, picture: Path) -> None:
        """Send the grid of generated images of a step, as the file is now."""
        if self.mode == "disabled" or step <= self.logged_through:
            return
        try:
            content = picture.read_bytes()
        except OSError as error:
            self._give_up(f"failed ({first_line(error)})")
            return

        def send() -> None:
            import wandb

            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder) / picture.name
                copy.write_bytes(content)
                self.accelerator.log(_row(step, {"samples": wandb.Image(str(copy), file_type="png")}))

        self._send(send, len(content))

    def finish(self, exit_code: int) -> None:
        """End the run on the dashboard: wait for what is still under way, for at most the configured time.

        Nothing of W&B is left running in this process or beside it. Calling it again does nothing.
        """
        if self._worker is None:
            return
        worker, self._worker = self._worker, None
        atexit.unregister(self.finish)
        self._exit_code = exit_code
        worker.close()
        in_time = worker.join(self.config.timeout)
        if not in_time:
            _end_service()
            worker.join(_UNWINDING)
        problem = None
        if not in_time or isinstance(worker.error, TimeoutError):  # ours, or wandb's own
            problem = f"did not take everything within {self.config.timeout:g} s (wandb.timeout)"
        elif worker.error is not None:
            problem = f"failed ({first_line(worker.error)})"
        elif self._warnings.last is not None:
            problem = f"warns: {self._warnings.last}"
        if problem and self.mode != "disabled":
            self.announce(f"W&B {problem}; metrics.jsonl has all figures{self._how_to_sync()}")
        self.mode = "disabled"

    def describe(self) -> dict[str, Any]:
        """What environment.json says of it."""
        return {"mode": self.mode, "id": self.id, "logged_through": self.logged_through}

    def _try(self, mode: str, run_config: dict[str, Any], resume_id: str | None) -> bool:
        """Open the run in one mode, and say how that went.

        Raises:
            _NoAnswer: W&B hangs, so that no other mode can be tried.
        """
        try:
            run = self._ask(lambda: self._open(mode, run_config, resume_id))
        except _NoAnswer:
            raise
        except Exception as error:  # whatever W&B, the network or the disk does: the run goes on
            self.announce(f"W&B {mode} is unavailable ({first_line(error)})")
            return False
        self.mode, self.id, self._sync_dir = mode, run.id, Path(run.sync_dir)
        # Registered after wandb's own handler, so called before it, which would wait without a limit.
        atexit.register(self.finish, 1)
        if mode == "online":
            self.announce(f"W&B: {run.url}")
        else:
            self.announce(f"W&B is offline; to see this run on the dashboard: wandb sync {shlex.quote(run.sync_dir)}")
        return True

    def _ask(self, call: Callable[[], T]) -> T:
        """Have the worker make a call, and wait for its result.

        Raises:
            TimeoutError: it took longer than the configured time, and was cut off; there is a new worker.
            _NoAnswer: it took longer, and can't be cut off.
            Exception: what the call raised.
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
        # Cancelled, the future refuses a late answer, which ends the worker.
        if not wait([future], self.config.timeout).done and future.cancel():
            _end_service()
            late = f"no answer within {self.config.timeout:g} s (wandb.timeout)"
            if not self._worker.join(_UNWINDING):
                raise _NoAnswer(late)
            self._worker = _Worker(last=self._close)
            raise TimeoutError(late)
        return future.result()

    def _open(self, mode: str, run_config: dict[str, Any], resume_id: str | None) -> Any:
        """Called by the worker. Returns wandb's run."""
        import wandb

        self.accelerator.trackers = []
        within = _OWN_SHARE * self.config.timeout
        try:
            _quieten(None)
            self.accelerator.init_trackers(
                self.config.project,
                config=run_config,
                init_kwargs={
                    "wandb": {
                        "mode": mode,
                        "name": self.config.name or self.folder.path.absolute().name,
                        "dir": str(self.folder.path),
                        "id": resume_id,
                        "resume": "allow" if resume_id else None,
                        # silent: no prompts and no banners; we say the one line that matters.
                        "settings": wandb.Settings(
                            silent=True,
                            console="off",
                            init_timeout=within,
                            finish_timeout=within,
                            finish_timeout_raises=True,
                        ),
                    }
                },
            )
            self._run = self.accelerator.get_tracker("wandb", unwrap=True)
            self._run.define_metric("train/step")
            self._run.define_metric("*", step_metric="train/step")
        except BaseException:
            self._run, self.accelerator.trackers = None, []
            wandb.teardown()  # without it a second try in this process fails as the first did
            raise
        _quieten(self._warnings)
        return self._run

    def _close(self) -> None:
        """Called by the worker as its last call: send what is left, end the service, take wandb's exit handler away."""
        import wandb

        run, self._run = self._run, None
        try:
            if run is not None:
                run.finish(exit_code=self._exit_code)
        finally:
            wandb.teardown()

    def _send(self, call: Callable[[], object], size: int = 0) -> None:
        """Hand a call over, if W&B is well."""
        if self.mode == "disabled" or self._worker is None:
            return
        if self._worker.error is not None:
            self._give_up(f"failed ({first_line(self._worker.error)})")
        elif self._worker.stuck(self.config.timeout):
            self._give_up(f"has not answered for {self.config.timeout:g} s (wandb.timeout)")
            # The call under way fails when the service is gone; the training does not wait for that.
            threading.Thread(target=_end_service, name="wandb-end", daemon=True).start()
        elif not self._worker.put(call, size):
            self._give_up("takes figures more slowly than they come")

    def _give_up(self, what: str) -> None:
        self.announce(f"W&B {what} and is off from here on; metrics.jsonl goes on{self._how_to_sync()}")
        self.mode = "disabled"
        if self._worker is not None:
            self._worker.close()

    def _how_to_sync(self) -> str:
        if self._sync_dir is None or not any(self._sync_dir.glob("*.wandb")):
            return ""
        return f"; to upload what W&B has recorded: wandb sync {shlex.quote(str(self._sync_dir))}"


class _NoAnswer(Exception):
    """wandb does not come back from a call, even without its service."""


class _Warnings:
    """Takes what wandb would have printed, in place of the terminal."""

    def __init__(self) -> None:
        self.last: str | None = None

    def info(self, message: str) -> None:
        pass

    def warning(self, message: str) -> None:
        self.last = _WANDB_PREFIX.sub("", message.strip().splitlines()[0]).rstrip(".")

    error = warning


class _Worker:
    """A thread that makes calls, one after the other, in the order in which they were put.

    The first call that raises is the last one; those behind it are dropped. The thread never holds up the end of the
    process.

    Args:
        last: called when the worker is closed and all other calls are made, and after a call that raised.
    """

    def __init__(self, last: Callable[[], None]) -> None:
        self.error: BaseException | None = None
        """What a call raised, the first one that did."""
        self._last = last
        self._changed = threading.Condition()
        self._calls: deque[tuple[Callable[[], object], int]] = deque()
        self._bytes = 0
        self._began: float | None = None  # the call under way, on time.monotonic
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="wandb-calls", daemon=True)
        self._thread.start()

    def put(self, call: Callable[[], object], size: int = 0) -> bool:
        """Have a call made.

        Args:
            call: takes no arguments; its result is dropped.
            size: bytes that it holds, beside some figures.

        Returns:
            False if too many bytes are waiting already: then it is not going to be made.
        """
        size += _ROW_BYTES
        with self._changed:
            if self._calls and self._bytes + size > _WAITING_BYTES:
                return False
            self._calls.append((call, size))
            self._bytes += size
            self._changed.notify_all()
        return True

    def stuck(self, seconds: float) -> bool:
        """Whether the call under way has taken longer than that."""
        began = self._began
        return began is not None and time.monotonic() - began > seconds

    def close(self) -> None:
        """Have the thread end when the calls that are waiting are made."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def join(self, seconds: float) -> bool:
        """Wait for so many seconds until the thread has ended; says whether it has."""
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
        except BaseException as error:  # wandb raises SystemExit where its service ended with an error
            self.error = self.error or error
        with self._changed:
            self._began = None
            self._changed.notify_all()


def has_api_key() -> bool:
    """Whether W&B could log in without asking anybody: a key in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    import wandb

    try:
        host = urlsplit(wandb.setup().settings.base_url).hostname
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host or "") is not None
    except Exception:  # no such file, a damaged one, settings that W&B refuses: then there is no key
        return False


def _quieten(notes: _Warnings | None) -> None:
    """Have wandb print nothing: what it would print goes to `notes`.

    Its telemetry is switched off: when the server has trouble it prints retries and delays the end of the process.
    """
    import wandb

    with contextlib.suppress(ImportError):  # not every version of wandb has it
        from wandb.analytics.opentelemetry.opentelemetry_proxy import disable

        disable()
    silent = wandb.Settings(silent=True)
    wandb.setup(silent)
    wandb.termsetup(silent, notes)


def _end_service() -> None:
    """End the service process that wandb started here, even if it is stopped. It writes its file, if it still can."""
    services = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if child.name() == "wandb-core":
                child.send_signal(signal.SIGINT)
                services.append(child)
    for service in psutil.wait_procs(services, timeout=_INTERRUPTED)[1]:
        with contextlib.suppress(psutil.Error):
            service.kill()


def _row(step: int, values: Mapping[str, Any]) -> dict[str, Any]:
    return {"train/step": step, **{name: value for name, value in values.items() if value is not None}}
