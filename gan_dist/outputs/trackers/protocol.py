"""What the trainer requires of an experiment tracker, and the tracker that is off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from gan_dist.outputs.trackers.media import Media

DISABLED = "disabled"  # the mode in which nothing is sent
Values = Mapping[str, Any]  # name -> number; None means not measured, and is left out


@runtime_checkable
class Tracker(Protocol):
    """Sends the figures and media of a run to a dashboard. Only rank 0 starts one.

    No method raises or waits without a limit, whatever happens to the dashboard: metrics.jsonl has all figures.
    """

    mode: str
    """How the figures are sent, such as "online"; "disabled" if they are not."""
    ids: Mapping[str, str]
    """Name of a tracker -> what identifies the run there, so that `start` can resume it."""

    def start(self, run_config: dict[str, Any], resume_ids: Mapping[str, str], logged_through: int) -> None:
        """Open the run on the dashboard.

        Args:
            run_config: the resolved configuration, and what else runs are filtered by.
            resume_ids: `ids` of the earlier sessions; a tracker without one starts a new run.
            logged_through: the last step that an earlier session sent, for trackers that do not know it themselves.
        """

    def log(self, step: int, values: Values) -> None:
        """Send the figures of a step. Steps that an earlier session sent are ignored."""

    def log_earlier(self, rows: Sequence[tuple[int, Values]]) -> None:
        """Send the figures of the steps before this session, of which a tracker takes those that it lacks."""

    def log_media(self, step: int, name: str, media: Media, final: bool = False) -> None:
        """Send a medium of a step, if the dashboard can show its kind.

        Args:
            step: of the medium.
            name: key on the dashboard; media of several steps have the same one.
            media: what to show.
            final: it belongs to the end of a session. Otherwise, a step that an earlier session sent is ignored.
        """

    def log_picture(self, step: int, name: str, file: Path, caption: str, final: bool = False) -> None:
        """Send a PNG file with its current content, as `log_media`."""

    def accepts(self, kind: type) -> bool:
        """Whether media of a kind are shown, for those that are expensive to make."""

    def skip_through(self, step: int) -> None:
        """Ignore the steps up to this one from now on: they were sent, and the run repeats them."""

    def alert(self, step: int, title: str, text: str) -> None:
        """Notify those who watch the run. Steps that an earlier session sent are ignored."""

    def finish(self, exit_code: int) -> None:
        """Send what is still queued and close the run. Further calls do nothing."""

    def describe(self) -> dict[str, Any]:
        """Returns the entry of environment.json: name of a tracker -> mode, id, and the last step that it had."""


class NoTracker(Tracker):
    """Sends nothing."""

    def __init__(self) -> None:
        self.mode = DISABLED
        self.ids: Mapping[str, str] = {}

    def start(self, run_config: dict[str, Any], resume_ids: Mapping[str, str], logged_through: int) -> None:
        self.ids = resume_ids

    def log(self, step: int, values: Values) -> None: ...

    def log_earlier(self, rows: Sequence[tuple[int, Values]]) -> None: ...

    def log_media(self, step: int, name: str, media: Media, final: bool = False) -> None: ...

    def log_picture(self, step: int, name: str, file: Path, caption: str, final: bool = False) -> None: ...

    def accepts(self, kind: type) -> bool:
        return False

    def skip_through(self, step: int) -> None: ...

    def alert(self, step: int, title: str, text: str) -> None: ...

    def finish(self, exit_code: int) -> None: ...

    def describe(self) -> dict[str, Any]:
        return {}
