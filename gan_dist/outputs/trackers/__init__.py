"""Experiment trackers. A new one is a file with a `Backend`, and a line in `TRACKERS`."""

from __future__ import annotations

from collections.abc import Callable

from accelerate import Accelerator

from gan_dist.config import Config
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.trackers.background import Backend, BackgroundTracker
from gan_dist.outputs.trackers.protocol import NoTracker, Tracker
from gan_dist.outputs.trackers.wandb import make_wandb

TRACKERS: dict[str, Callable[[Config, Accelerator, RunFolder], Backend | None]] = {
    "wandb": make_wandb,
}
"""Name -> function that makes the backend; it returns None if the configuration turns the tracker off."""


def make_tracker(
    config: Config, accelerator: Accelerator, folder: RunFolder, announce: Callable[[str], None]
) -> Tracker:
    """Returns the first tracker of `TRACKERS` that the configuration turns on; off on every rank but 0.

    Args:
        config: of the run.
        accelerator: of this process.
        folder: of the run; a tracker may keep files in it.
        announce: called with one line for each message.
    """
    if accelerator.is_main_process:
        for make_backend in TRACKERS.values():
            backend = make_backend(config, accelerator, folder)
            if backend is not None:
                return BackgroundTracker(backend, announce)
    return NoTracker()
