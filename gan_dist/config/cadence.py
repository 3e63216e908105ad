"""How many outputs a limit by the clock leaves."""

from __future__ import annotations

import math


def at_most(due: int, seconds: float, every_seconds: float | None) -> int:
    """How many of the outputs that are due are written, at most.

    Args:
        due: number of outputs that the schedule has.
        seconds: of training in that time.
        every_seconds: the limit; None: there is none.
    """
    return due if every_seconds is None else min(due, math.ceil(max(seconds, 0.0) / every_seconds))
