"""Several trackers as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gan_dist.outputs.trackers.media import Media
from gan_dist.outputs.trackers.protocol import DISABLED, Tracker, Values


class SeveralTrackers(Tracker):
    """Passes every call to each of its trackers. They do not depend on each other: one may fail, the others go on.

    Args:
        trackers: at least one.
    """

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = trackers
        self._earlier: Mapping[str, str] = {}

    @property
    def mode(self) -> str:  # type: ignore[override]
        modes = [tracker.mode for tracker in self.trackers if tracker.mode != DISABLED]
        return ", ".join(modes) if modes else DISABLED

    @property
    def ids(self) -> Mapping[str, str]:  # type: ignore[override]
        """Those of trackers that are off in this session are kept for a later one."""
        return {**self._earlier, **{name: id for tracker in self.trackers for name, id in tracker.ids.items()}}

    def start(self, run_config: dict[str, Any], resume_ids: Mapping[str, str], logged_through: int) -> None:
        """Open the run, one tracker after the other: each waits up to its own limit."""
        self._earlier = resume_ids
        for tracker in self.trackers:
            tracker.start(run_config, resume_ids, logged_through)

    def log(self, step: int, values: Values) -> None:
        for tracker in self.trackers:
            tracker.log(step, values)

    def log_earlier(self, rows: Sequence[tuple[int, Values]]) -> None:
        for tracker in self.trackers:
            tracker.log_earlier(rows)

    def log_media(self, step: int, name: str, media: Media, final: bool = False) -> None:
        for tracker in self.trackers:
            tracker.log_media(step, name, media, final)

    def log_picture(self, step: int, name: str, file: Path, caption: str, final: bool = False) -> None:
        for tracker in self.trackers:
            tracker.log_picture(step, name, file, caption, final)

    def accepts(self, kind: type) -> bool:
        return any(tracker.accepts(kind) for tracker in self.trackers)

    def skip_through(self, step: int) -> None:
        for tracker in self.trackers:
            tracker.skip_through(step)

    def alert(self, step: int, title: str, text: str) -> None:
        for tracker in self.trackers:
            tracker.alert(step, title, text)

    def finish(self, exit_code: int) -> None:
        for tracker in self.trackers:
            tracker.finish(exit_code)

    def describe(self) -> dict[str, Any]:
        return {name: entry for tracker in self.trackers for name, entry in tracker.describe().items()}
