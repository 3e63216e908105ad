"""What the trainer requires of an experiment tracker, and the tracker that is off."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

DISABLED = "disabled"  # the mode in which nothing is sent


@runtime_checkable
class Tracker(Protocol):
    """Sends the figures and images of a run to a dashboard. Only rank 0 starts one.

    No method raises or waits without a limit, whatever happens to the dashboard: metrics.jsonl has all figures.
    """

    mode: str
    """How the figures are sent, such as "online"; "disabled" if they are not."""
    id: str | None
    """Identifies the run on the dashboard, so that `start` can resume it; None if there is none."""
    logged_through: int
    """The last step that was sent. `log` and `log_samples` ignore this step and earlier ones."""

    def start(self, run_config: dict[str, Any], resume_id: str | None, logged_through: int) -> None:
        """Open the run on the dashboard.

        Args:
            run_config: the resolved configuration.
            resume_id: `id` of the run to resume; None starts a new one.
            logged_through: the last step that an earlier session sent.
        """

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Send the figures of a step. None means not measured and is left out."""

    def log_samples(self, step: int, picture: Path) -> None:
        """Send the sample grid of a step, a PNG file with its current content."""

    def alert(self, title: str, text: str) -> None:
        """Notify those who watch the run."""

    def finish(self, exit_code: int) -> None:
        """Send what is still queued and close the run. Further calls do nothing."""

    def describe(self) -> dict[str, Any]:
        """Returns the entry of environment.json."""
        return {"mode": self.mode, "id": self.id, "logged_through": self.logged_through}


class NoTracker(Tracker):
    """Sends nothing."""

    def __init__(self) -> None:
        self.mode = DISABLED
        self.id: str | None = None
        self.logged_through = 0

    def start(self, run_config: dict[str, Any], resume_id: str | None, logged_through: int) -> None:
        self.logged_through = logged_through if resume_id else 0

    def log(self, step: int, values: Mapping[str, Any]) -> None: ...

    def log_samples(self, step: int, picture: Path) -> None: ...

    def alert(self, title: str, text: str) -> None: ...

    def finish(self, exit_code: int) -> None: ...
