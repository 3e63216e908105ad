"""Experiment trackers. A new one is a file with a `Backend`, and a line in `TRACKERS`."""

from __future__ import annotations

from collections.abc import Callable

from accelerate import Accelerator

from gan_dist.config import Config
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.trackers.background import Backend, BackgroundTracker
from gan_dist.outputs.trackers.protocol import NoTracker, Tracker
from gan_dist.outputs.trackers.several import SeveralTrackers
from gan_dist.outputs.trackers.tensorboard import make_tensorboard
from gan_dist.outputs.trackers.trackio import make_trackio
from gan_dist.outputs.trackers.wandb import make_wandb

TRACKERS: dict[str, Callable[[Config, Accelerator, RunFolder], Backend | None]] = {
    "wandb": make_wandb,
    "tensorboard": make_tensorboard,
    "trackio": make_trackio,
}
"""Name -> function that makes the backend; it returns None if the configuration turns the tracker off."""


def make_tracker(
    config: Config, accelerator: Accelerator, folder: RunFolder, announce: Callable[[str], None]
) -> Tracker:
    """Returns the trackers that the configuration names as one; off on every rank but 0.

    Args:
        config: of the run.
        accelerator: of this process.
        folder: of the run; a tracker may keep files in it.
        announce: called with one line for each message.
    """
    names = config.tracking.names if accelerator.is_main_process else ()
    backends = {name: TRACKERS[name](config, accelerator, folder) for name in names}
    trackers = [BackgroundTracker(name, backend, announce) for name, backend in backends.items() if backend is not None]
    return SeveralTrackers(trackers) if trackers else NoTracker()
