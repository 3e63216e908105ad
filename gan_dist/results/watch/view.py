"""What is seen of a run at a moment, and the object that looks at it repeatedly."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from gan_dist.config import InputError
from gan_dist.evaluation.history import Row
from gan_dist.files import BadFile
from gan_dist.outputs.lock import is_held
from gan_dist.results.doctor import examine
from gan_dist.results.recorded import RecordedRun, RunReader
from gan_dist.results.report.pictures import read_picture
from gan_dist.results.verdict import Judged, judge
from gan_dist.results.watch.picture import Grid
from gan_dist.results.watch.state import RunState, state_of

MOMENTS = 20  # at which a run is diagnosed: enough to tell that a problem is resolved


@dataclass(frozen=True)
class View:
    """A run at a moment."""

    path: Path
    problem: str
    """Why the run can't be read; empty if it can."""
    judged: Judged | None = None
    """None if it can't be read."""
    state: RunState | None = None
    """None if it can't be read."""
    grid: Grid | None = None
    """None: there is no readable picture."""
    grid_title: str = ""
    silent_seconds: float = 0.0
    """Since the latest line of metrics.jsonl was written, by the clock of this host."""

    @property
    def run(self) -> RecordedRun | None:
        return None if self.judged is None else self.judged.run


class Watcher:
    """Looks at a run repeatedly. What did not change since the last time is not computed again.

    Args:
        path: the run folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader = RunReader(path)
        self._judged: tuple[Sequence[object], Judged] | None = None
        self._picture: tuple[Sequence[object], Image.Image | None] = ((), None)

    def look(self) -> View:
        """Read the run as it is now. A run that was removed, replaced or resumed is no error."""
        try:
            run = self._reader.read()
        except (InputError, OSError) as error:  # OSError: a network file system that is away for a moment
            return View(self._path, str(error))
        grid, title = self._newest_grid(run)
        return View(
            self._path,
            "",
            self._judge(run),
            state_of(run, is_held(self._path)),
            grid,
            title,
            _seconds_since_change(run.folder.metrics),
        )

    def _judge(self, run: RecordedRun) -> Judged:
        """The doctor's findings and the trend; those of the last time if the figures are the same."""

        def end(rows: Sequence[Row]) -> tuple[int, object]:
            return len(rows), rows[-1] if rows else None

        key = (*end(run.rows), *end(run.evaluations), run.evaluation, run.floor, run.config, run.classes)
        if self._judged is None or self._judged[0] != key:
            return self._remember(key, judge(run, examine(run, MOMENTS)))
        earlier = self._judged[1]
        return Judged(run, earlier.examination, earlier.row, earlier.floor, earlier.trend)

    def _remember(self, key: Sequence[object], judged: Judged) -> Judged:
        self._judged = key, judged
        return judged

    def _newest_grid(self, run: RecordedRun) -> tuple[Grid | None, str]:
        """The newest readable grid of generated images, or that of real images; and its title."""
        side = None if run.spec is None else (run.spec.shape[2], run.spec.shape[1])
        wanted = [(run.folder.epoch_samples(epoch), f"same latents, epoch {epoch:,}") for epoch in run.epochs[:-3:-1]]
        for file, title in [*wanted, (run.folder.real_samples, "real images")]:
            picture = self._read(file)
            if picture is not None:
                return Grid(picture, side, run.config.model.conditional), title
        return None, ""

    def _read(self, file: Path) -> Image.Image | None:
        """A picture; None if it is missing or damaged. A file that did not change is not decoded again."""
        try:
            status = os.stat(file)
        except OSError:
            return None
        key = file, status.st_ino, status.st_mtime_ns, status.st_size
        if self._picture[0] != key:
            try:
                self._picture = key, read_picture(file)
            except BadFile:
                self._picture = key, None
        return self._picture[1]


def _seconds_since_change(file: Path) -> float:
    try:
        return max(time.time() - os.stat(file).st_mtime, 0.0)
    except OSError:
        return 0.0
