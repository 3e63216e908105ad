"""What is exported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gan_dist.config import Weights


class ExportFailed(Exception):
    """The input is valid, but no correct output could be made. The message is one line. Nothing was written."""


@dataclass(frozen=True)
class ExportRequest:
    """The arguments of `gan-dist export`."""

    run: Path
    output: Path
    weights: Weights = "average"
    force: bool = False
    """Whether an existing output is replaced."""
    discriminator: bool = False
    """html: whether the page has the discriminator, too."""
    repo: str | None = None
    """hub: USER/NAME."""
    license: str | None = None
    """hub: its identifier there."""
    dry_run: bool = False
    """hub: whether the output is a folder on disk."""
