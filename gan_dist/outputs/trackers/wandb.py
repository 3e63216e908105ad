"""The backend of Weights & Biases."""

from __future__ import annotations

import contextlib
import netrc
import os
import re
import shlex
import signal
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from accelerate import Accelerator

from gan_dist.config import Config
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.trackers.background import Backend, Opened
from gan_dist.outputs.trackers.protocol import DISABLED

_OWN_SHARE = 0.8  # of wandb.timeout for wandb's own waiting; the rest is for its cleanup
_INTERRUPTED_SECONDS = 0.5  # for an interrupted service to write its file
_PREFIX = re.compile(r"^(wandb: )?((WARNING|ERROR) )?")


def make_wandb(config: Config, accelerator: Accelerator, folder: RunFolder) -> Backend | None:
    """Returns the backend; None if wandb.mode, or WANDB_MODE where that is auto, disables it."""
    mode: str | None = config.wandb.mode
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or None
    return None if mode == DISABLED else WandbBackend(config, accelerator, folder, mode)


class WandbBackend:
    """Weights & Biases through Accelerate's tracker.

    Args:
        config: of the run.
        accelerator: its trackers are used; its rank must be 0.
        folder: W&B's own files are in its wandb/.
        mode: of wandb.init; None: online if there is an API key, else offline.
    """

    title = "W&B"
    timeout_field = "wandb.timeout"

    def __init__(self, config: Config, accelerator: Accelerator, folder: RunFolder, mode: str | None) -> None:
        self.timeout = config.wandb.timeout
        self.warning: str | None = None
        self.config = config.wandb
        self.accelerator = accelerator
        self.folder = folder
        self.mode = mode
        self._run: Any = None  # wandb's, or None
        self._sync_dir: Path | None = None

    def load(self) -> None:
        import wandb  # noqa: F401, here because the import takes a second

    def modes(self) -> Sequence[str]:
        mode = self.mode or ("online" if has_api_key() else "offline")
        return ("online", "offline") if mode == "online" else (mode,)

    def open(self, mode: str, run_config: dict[str, Any], resume_id: str | None) -> Opened:
        import wandb

        self.accelerator.log_with, self.accelerator.trackers = ["wandb"], []
        seconds = _OWN_SHARE * self.timeout
        try:
            _silence(None)
            init_kwargs = {
                "mode": mode,
                "name": self.config.name or self.folder.path.absolute().name,
                "dir": str(self.folder.path),
                "id": resume_id,
                "resume": "allow" if resume_id else None,
                # silent: no prompts and no banners; the tracker announces the one line that matters.
                "settings": wandb.Settings(
                    silent=True,
                    console="off",
                    init_timeout=seconds,
                    finish_timeout=seconds,
                    finish_timeout_raises=True,
                ),
            }
            self.accelerator.init_trackers(self.config.project, config=run_config, init_kwargs={"wandb": init_kwargs})
            self._run = self.accelerator.get_tracker("wandb", unwrap=True)
            self._run.define_metric("train/step")
            self._run.define_metric("*", step_metric="train/step")
        except BaseException:
            self._run, self.accelerator.trackers = None, []
            wandb.teardown()  # otherwise the next attempt in this process fails like this one
            raise
        _silence(_Messages(self))
        self._sync_dir = Path(self._run.sync_dir)
        if mode == "online":
            return Opened(self._run.id, f"W&B: {self._run.url}")
        return Opened(self._run.id, f"W&B is offline; to upload this run: {self._sync_command()}")

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        self.accelerator.log({"train/step": step, **values})

    def log_image(self, step: int, name: str, png: bytes) -> None:
        import wandb

        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{name}.png"
            file.write_bytes(png)
            self.log(step, {name: wandb.Image(str(file), file_type="png")})

    def alert(self, title: str, text: str) -> None:
        self._run.alert(title=title, text=text)

    def close(self, exit_code: int) -> None:
        """Finish the run, end the service and remove wandb's exit handler."""
        import wandb

        run, self._run = self._run, None
        try:
            if run is not None:
                run.finish(exit_code=exit_code)
        finally:
            wandb.teardown()

    def interrupt(self) -> None:
        """End wandb's service process, also if it is suspended. It writes its file if it still can."""
        services = []
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                if child.name() == "wandb-core":
                    child.send_signal(signal.SIGINT)
                    services.append(child)
        for service in psutil.wait_procs(services, timeout=_INTERRUPTED_SECONDS)[1]:
            with contextlib.suppress(psutil.Error):
                service.kill()

    def advice(self) -> str:
        """How to upload the run, if there is a file to upload."""
        if self._sync_dir is None or not any(self._sync_dir.glob("*.wandb")):
            return ""
        return f"; to upload what W&B has recorded: {self._sync_command()}"

    def _sync_command(self) -> str:
        return f"wandb sync {shlex.quote(str(self._sync_dir))}"


class _Messages:
    """Receives what wandb would print."""

    def __init__(self, backend: WandbBackend) -> None:
        self.backend = backend

    def info(self, message: str) -> None:
        pass

    def warning(self, message: str) -> None:
        self.backend.warning = _PREFIX.sub("", message.strip().splitlines()[0]).rstrip(".")

    error = warning


def has_api_key() -> bool:
    """Returns whether W&B can log in without a prompt: with a key in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    import wandb

    try:
        host = urlsplit(wandb.setup().settings.base_url).hostname
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host or "") is not None
    except Exception:  # no netrc file, a damaged one, or settings that W&B rejects: there is no key
        return False


def _silence(messages: _Messages | None) -> None:
    """Make wandb print nothing. It passes its messages to `messages` instead.

    Also disables wandb's telemetry: if the server fails, it prints retries and delays the end of the process.
    """
    import wandb

    with contextlib.suppress(ImportError):  # some versions of wandb do not have it
        from wandb.analytics.opentelemetry.opentelemetry_proxy import disable

        disable()
    silent = wandb.Settings(silent=True)
    wandb.setup(silent)
    wandb.termsetup(silent, messages)
