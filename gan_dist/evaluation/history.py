"""What a run has written so far, as the doctor looks at it: noisy rows taken together, and nothing judged too early."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

from gan_dist.config import Config

Row = Mapping[str, Any]
"""A line of metrics.jsonl or evaluations.jsonl. A figure may be missing, and None where no step of it was finite."""

# A row's figures are noisy, above all the norm of one step's gradient: rows are taken together to windows of WINDOW
# steps, and what a figure persistently is, is the median of RECENT windows. Nothing is judged before there are twice as
# many, nor an evaluation of that time: in its first 1,000 steps a run that is going to be good has a third of the real
# images' diversity, and a loss that swings like one that never will be.
WINDOW = 100
RECENT = 10
FIRST_STEP = 2 * RECENT * WINDOW

# D's loss while it can't tell real from fake. Shares of it say how far D is ahead, whatever the loss; the scores don't:
# a hinge or least-squares D that has won stops at a logit of 1, score 0.73. Wasserstein's has no scale.
BALANCE = {"bce": 2 * math.log(2), "relativistic": math.log(2), "hinge": 2.0, "least-squares": 0.25}


@dataclass(frozen=True)
class History:
    """What a run has written so far, as the findings look at it."""

    rows: Sequence[Row]
    evaluation: Row
    """The newest that can be judged, else empty."""
    first_evaluation: Row
    config: Config
    floor: Mapping[str, float]
    _windows: dict[str, list[float]] = field(default_factory=dict)

    @property
    def step(self) -> int:
        return self.rows[-1]["step"]

    @property
    def balance(self) -> float:
        """D's loss while it can't tell real from fake; NaN, which passes no threshold, for a loss without a scale."""
        return BALANCE.get(self.config.train.loss, math.nan)

    def windows(self, name: str) -> list[float]:
        """Means of a figure over the newest 2 * RECENT windows, the oldest first; none while it is too early to judge.

        NaN for a window without a finite step.
        """
        if name not in self._windows:
            size = rows_per_window(self.config)
            first = len(self.rows) - 2 * RECENT * size
            starts = range(first, len(self.rows), size) if first >= 0 else ()
            self._windows[name] = [mean(self.rows[start : start + size], name) for start in starts]
        return self._windows[name]

    def recent(self, name: str) -> float:
        """What a figure persistently is; NaN where it is unknown, or too early to say."""
        return _median(self.windows(name)[RECENT:])

    def before(self, name: str) -> float:
        """What it was in the windows before those."""
        return _median(self.windows(name)[:RECENT])

    def beginning(self, name: str) -> float:
        """What it was in the first window."""
        return mean(self.rows[: rows_per_window(self.config)], name)

    def image(self, name: str) -> float:
        """A figure of the images; NaN where it is unknown."""
        return figure(self.evaluation, name)


def rows_per_window(config: Config) -> int:
    return max(1, WINDOW // config.log.every_steps)


def steps_missing(rows: Sequence[Row], config: Config) -> int:
    """Steps until the course of a run can be judged; 0 as soon as it can."""
    return max(0, 2 * RECENT * rows_per_window(config) - len(rows)) * config.log.every_steps


def figure(row: Row, name: str) -> float:
    """NaN, which passes no threshold, where it is missing or not finite."""
    value = row.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan


def mean(rows: Sequence[Row], name: str) -> float:
    """Of the rows that have the figure; NaN if none has."""
    known = [value for row in rows if not math.isnan(value := figure(row, name))]
    return fmean(known) if known else math.nan


def _median(windows: Sequence[float]) -> float:
    known = [window for window in windows if not math.isnan(window)]
    return median(known) if known else math.nan
