"""Which trackers need a package that may not be installed."""

from __future__ import annotations

from gan_dist.config.extras import require_packages
from gan_dist.config.sections import Config

EXTRAS = {"tensorboard": "tensorboard", "trackio": "trackio"}
"""Tracker -> package that it imports, which is also the name of the extra that installs it."""


def check_trackers(config: Config) -> None:
    """Check that the packages of the trackers are installed, without importing them.

    Raises:
        InputError: one is not; the message has its pip line.
    """
    for name in config.tracking.names:
        if (package := EXTRAS.get(name)) is not None:
            require_packages(f"tracking.with={name}", package, [package])
