"""The backend of trackio: a local dashboard with W&B's interface. Its database is on this machine, in TRACKIO_DIR.

Uses trackio itself: Accelerate's tracker would print, and log the processor's load.
"""

from __future__ import annotations

import contextlib
import io
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from accelerate import Accelerator
from PIL import Image as Picture

from gan_dist.config import Config
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.trackers.background import Backend, Opened
from gan_dist.outputs.trackers.media import Histogram, Image, Media, Page, Table

_RENAMED = ("step",)  # names that trackio reserves; it has the step itself


def make_trackio(config: Config, accelerator: Accelerator, folder: RunFolder) -> Backend | None:
    """Returns the backend."""
    return TrackioBackend(config, folder)


class TrackioBackend:
    """trackio. Project, name and group are those of W&B's settings.

    Args:
        config: of the run.
        folder: its name is the default name of the run.
    """

    title = "trackio"
    timeout = 60.0  # finish() waits up to 30 s
    timeout_field = "the limit of trackio"
    media: tuple[type, ...] = (Image, Histogram, Table, Page)

    def __init__(self, config: Config, folder: RunFolder) -> None:
        self.config = config.wandb
        self.folder = folder
        self.warning: str | None = None
        self._run: Any = None

    def load(self) -> None:
        """Import trackio. From here on it prints nothing: its messages would break the lines of the progress."""
        import trackio
        import trackio.run
        import trackio.utils

        for module in (trackio, trackio.run, trackio.utils):
            vars(module)["print"] = self._receive
        vars(trackio.run)["_emit_nonfatal_warning"] = self._warn

    def modes(self) -> Sequence[str]:
        return ("local",)

    def open(self, mode: str, run_config: dict[str, Any], resume_id: str | None) -> Opened:
        import trackio

        # Names are not unique in trackio; a run is resumed by its name.
        name = resume_id or f"{self.config.name or self.folder.path.absolute().name}-{uuid.uuid4().hex[:6]}"
        self._run = trackio.init(
            project=self.config.project,
            name=name,
            group=self.config.group,
            config=run_config,
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        received = self._received(name)
        return Opened(name, f"trackio: run {name}; trackio show --project {self.config.project}", received)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        self._run.log({name: value for name, value in values.items() if name not in _RENAMED}, step=step)

    def log_media(self, step: int, name: str, media: Media) -> None:
        import trackio

        value: Any
        match media:
            case Image(png, caption):
                with Picture.open(io.BytesIO(png)) as picture:
                    value = trackio.Image(picture.convert("RGB"), caption=caption)
            case Histogram(counts, edges):
                value = trackio.Histogram(np_histogram=(list(counts), list(edges)))
            case Table(columns, rows):
                value = trackio.Table(columns=list(columns), data=[list(row) for row in rows])
            case Page(html):
                value = trackio.Html(html, inject=False)
        self._run.log({name: value}, step=step)

    def alert(self, step: int, title: str, text: str) -> None:
        self._run.alert(title=title, text=text, step=step)

    def close(self, exit_code: int) -> None:
        run, self._run = self._run, None
        if run is not None:
            from trackio import context_vars

            run.finish()
            context_vars.current_run.set(None)

    def interrupt(self) -> None: ...

    def advice(self) -> str:
        return ""

    def _received(self, name: str) -> int | None:
        """The last step in the database."""
        with contextlib.suppress(Exception):  # an internal interface of trackio; the run folder tells, too
            from trackio.sqlite_storage import SQLiteStorage

            return SQLiteStorage.get_last_step(self.config.project, run=name) or 0
        return None

    def _receive(self, *words: Any, **options: Any) -> None:
        """Takes the place of print."""

    def _warn(self, message: str, *arguments: Any, **options: Any) -> None:
        """Takes the place of a function that passes warnings on to Python."""
        self.warning = message.partition("\n")[0]
