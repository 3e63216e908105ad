"""The backend of Weights & Biases."""

from __future__ import annotations

import contextlib
import json
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

import numpy as np
import psutil
from accelerate import Accelerator

from gan_dist.config import Config
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.trackers.background import Backend, Opened
from gan_dist.outputs.trackers.media import Dataset, Histogram, Image, Lines, Media, Model, Page, Table
from gan_dist.outputs.trackers.protocol import DISABLED
from gan_dist.outputs.trackers.wandb_files import STEP, last_recorded_step
from gan_dist.outputs.trackers.wandb_server import Server

# Pattern of figures -> what W&B's table of runs shows of them. All others: the last value.
SUMMARIES = {
    "distance/*": "min,last",
    "inception/*": "min,last",
    "loss/*": "last",
}
_MEDIA = (Image, Histogram, Table, Lines, Page)

# Of wandb.timeout, for wandb's own waiting: at the start, for the upload of a generator, and for the end of a run.
_INIT_SHARE, _UPLOAD_SHARE, _FINISH_SHARE = 0.8, 0.25, 0.2
_FINISH_SECONDS = 6.0  # at least, if wandb.timeout allows: the file of an interrupted run may lack the last figures
# For an answer of the server, before W&B's client would wait longer for it: at the start, and at the end.
_ANSWER_SECONDS, _LATE_ANSWER_SECONDS = 4.0, 1.5
_INTERRUPTED_SECONDS = 0.5  # for an interrupted service to write its file
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_.-]")  # of artifacts
_REFUSED = "<no message>"  # of wandb's error if the server gave a status and no text
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
        self._sync_dir: Path | None = None  # of this session
        self._server = Server()
        self._id = ""

    @property
    def media(self) -> tuple[type, ...]:
        return (*_MEDIA, *((Dataset, Model) if self.config.artifacts else ()))

    def load(self) -> None:
        import wandb  # noqa: F401, here because the import takes a second

    def modes(self) -> Sequence[str]:
        mode = self.mode or ("online" if has_api_key() else "offline")
        return ("online", "offline") if mode == "online" else (mode,)

    def open(self, mode: str, run_config: dict[str, Any], resume_id: str | None) -> Opened:
        import wandb

        self.accelerator.log_with, self.accelerator.trackers = ["wandb"], []
        try:
            _silence(None)
            if mode == "online":
                self._server.require(_ANSWER_SECONDS)
            kwargs = {"wandb": self._init_kwargs(mode, resume_id)}
            self.accelerator.init_trackers(self.config.project, config=run_config, init_kwargs=kwargs)
            self._run = self.accelerator.get_tracker("wandb", unwrap=True)
            self._define_metrics()
        except BaseException as error:
            self._run = None
            wandb.teardown()  # otherwise the next attempt in this process fails like this one
            if str(error) == _REFUSED:
                raise ConnectionError("the server refused it; is the API key valid? wandb login --relogin") from error
            raise
        finally:
            self.accelerator.trackers = []  # another tracker may use the list
        _silence(_Messages(self))
        self._sync_dir, self._id = Path(self._run.sync_dir), self._run.id
        received = self._received(resume_id)
        if mode == "online":
            return Opened(self._run.id, f"W&B: {self._run.url}", received)
        return Opened(self._run.id, f"W&B is offline; to upload this run: {self._sync_command()}", received)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        self._run.log({STEP: step, **values})

    def log_media(self, step: int, name: str, media: Media) -> None:
        if isinstance(media, Dataset):
            self._use_dataset(name, media)
            return
        if isinstance(media, Model):
            self._log_artifact(name, media)
            return
        with tempfile.TemporaryDirectory() as folder:  # W&B copies the file before `log` returns
            self.log(step, {name: _as_wandb(name, media, Path(folder))})

    def alert(self, step: int, title: str, text: str) -> None:
        self._run.alert(title=title, text=text, level="WARN")

    def close(self, exit_code: int) -> None:
        """Finish the run, end the service and remove wandb's exit handler."""
        import wandb

        run, self._run = self._run, None
        try:
            if run is not None:
                run.finish(exit_code=exit_code)
        except TimeoutError:
            self.interrupt()  # its file is complete, and `teardown` would wait for the server once more
            with contextlib.suppress(Exception):
                wandb.teardown()
            raise
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

    def _init_kwargs(self, mode: str, resume_id: str | None) -> dict[str, Any]:
        """The arguments of wandb.init, except the project."""
        import wandb

        finish = max(_FINISH_SHARE * self.timeout, min(_FINISH_SECONDS, _INIT_SHARE * self.timeout))
        return {
            "mode": mode,
            "entity": self.config.entity,
            "name": self.config.name or self.folder.path.absolute().name,
            "group": self.config.group,
            "job_type": self.config.job_type,
            "tags": list(self.config.tag_names) or None,
            "notes": self.config.notes,
            "dir": str(self.folder.path),
            "id": resume_id,
            "resume": "allow" if resume_id else None,
            # silent: no prompts and no banners; the tracker announces the one line that matters.
            "settings": wandb.Settings(
                silent=True,
                console="off",
                init_timeout=_INIT_SHARE * self.timeout,
                finish_timeout=finish,
                finish_timeout_raises=True,
            ),
        }

    def _define_metrics(self) -> None:
        """The x axis of all figures, and what the table of runs shows of each. The first pattern that fits counts."""
        self._run.define_metric(STEP)
        # A sweep reads its objective from the summary as a number; with a summary of its own it would be a mapping.
        summaries = {} if self._run.sweep_id else SUMMARIES
        for pattern, summary in summaries.items():
            self._run.define_metric(pattern, step_metric=STEP, summary=summary)
        self._run.define_metric("*", step_metric=STEP)

    def _received(self, resume_id: str | None) -> int | None:
        """The last step that the server has, or that a file has, which the user may upload; None if neither tells."""
        if resume_id is None:
            return None
        found = [last_recorded_step(self.folder.wandb, resume_id), self._run.summary.get(STEP)]
        steps = [step for step in found if isinstance(step, int)]
        return max(steps) if steps else None

    def _use_dataset(self, name: str, dataset: Dataset) -> None:
        """Declare a data set as the run's input, so that W&B shows which models come from it. Not possible offline."""
        import wandb

        if self._run.offline:
            return
        self._server.require(_LATE_ANSWER_SECONDS)
        name = _NOT_IN_NAMES.sub("-", f"{name}-{dataset.name}")
        artifact = wandb.Artifact(name, type="dataset", metadata=dict(dataset.description))
        with artifact.new_file("dataset.json") as file:  # equal contents are one version, whichever run sends them
            json.dump(dataset.description, file, indent=2, sort_keys=True)
        self._run.use_artifact(artifact)

    def _log_artifact(self, name: str, model: Model) -> None:
        """Upload a file as a version of an artifact of the run."""
        import wandb

        artifact = wandb.Artifact(f"{name}-{self._run.id}", type="model", metadata=dict(model.metadata))
        artifact.add_file(str(model.file))
        if self._run.offline:
            self._run.log_artifact(artifact, aliases=[model.alias])
            return
        self._server.require(_LATE_ANSWER_SECONDS)
        self._run.log_artifact(artifact, aliases=[model.alias]).wait(int(_UPLOAD_SHARE * self.timeout) + 1)

    def _sync_command(self) -> str:
        """The command that uploads this session. Of a resumed run also earlier ones, which W&B orders by their time."""
        assert self._sync_dir is not None
        earlier = [folder for folder in self._sync_dir.parent.glob(f"*-{self._id}") if folder != self._sync_dir]
        if not earlier:
            return f"wandb sync {shlex.quote(str(self._sync_dir))}"
        return f"wandb sync {shlex.quote(str(self._sync_dir.parent))}/*-{self._id}"


def _as_wandb(name: str, media: Media, folder: Path) -> Any:
    """W&B's object for a medium, which may refer to a file in `folder`."""
    import wandb

    match media:
        case Image(png, caption):
            file = folder / "image.png"
            file.write_bytes(png)
            return wandb.Image(str(file), file_type="png", caption=caption)
        case Histogram(counts, edges):
            return wandb.Histogram(np_histogram=(np.asarray(counts), np.asarray(edges)))
        case Table(columns, rows):
            return wandb.Table(columns=list(columns), data=[list(row) for row in rows])
        case Lines(steps, lines):
            ys = [list(values) for values in lines.values()]
            return wandb.plot.line_series(list(steps), ys, list(lines), title=name.partition("/")[2], xname="step")
        case Page(html):
            return wandb.Html(html, inject=False)
    raise AssertionError(media)


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
