"""What a run has recorded so far, smoothed for the doctor: medians over windows of steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

from gan_dist.config import Config
from gan_dist.gan.losses import LOSSES

Row = Mapping[str, Any]
"""A line of metrics.jsonl or evaluations.jsonl. A figure may be missing, or None if it was finite at no step."""

# A row's figures are noisy, above all the gradient norm of one step. So they are averaged over windows of WINDOW steps,
# and the median of RECENT windows is the figure's current level. Nothing is judged before there are twice as many
# windows, nor an evaluation of that time: in the first 1,000 steps, a run that will become good has a third of the real
# images' diversity, and its loss swings as much as that of a run that never will.
WINDOW = 100
RECENT = 10
FIRST_STEP = 2 * RECENT * WINDOW
MAX_DIGITS = 6  # of the number of a class


@dataclass(frozen=True)
class History:
    """The recorded figures of a run."""

    rows: Sequence[Row]
    """Lines of metrics.jsonl."""
    evaluation: Row
    """The latest evaluation at FIRST_STEP or later; empty if there is none."""
    first_evaluation: Row
    """The first one."""
    config: Config
    floor: Mapping[str, float]
    """The figures of real images."""
    classes: Sequence[str] = ()
    """Names of the classes, if they are known."""
    _windows: dict[str, list[float]] = field(default_factory=dict)

    @property
    def step(self) -> int:
        return self.rows[-1]["step"]

    def describe_class(self, label: str) -> str:
        """A class in a message: its number, and its name unless that is the same."""
        number = class_number(label)
        name = self.classes[number] if number is not None and number < len(self.classes) else label
        return f"class {label}" + ("" if name == label else f" ({name})")

    @property
    def chance_loss(self) -> float:
        """D's loss for random guessing; NaN, which exceeds no threshold, for a loss without a scale.

        D's loss relative to it shows how far D is ahead, for any loss. The scores don't: with hinge or least squares, a
        D that separates the images perfectly stops at a logit of 1, score 0.73.
        """
        chance = LOSSES[self.config.train.loss].chance
        return math.nan if chance is None else chance

    def windows(self, name: str) -> list[float]:
        """Means of a figure over the latest 2 * RECENT windows, oldest first; empty while there are fewer.

        NaN for a window without a finite value.
        """
        if name not in self._windows:
            size = rows_per_window(self.config)
            first = len(self.rows) - 2 * RECENT * size
            starts = range(first, len(self.rows), size) if first >= 0 else ()
            self._windows[name] = [mean(self.rows[start : start + size], name) for start in starts]
        return self._windows[name]

    def recent(self, name: str) -> float:
        """The median of a figure over the latest RECENT windows; NaN if it is unknown or there are too few windows."""
        return _median(self.windows(name)[RECENT:])

    def previous(self, name: str) -> float:
        """The same over the RECENT windows before."""
        return _median(self.windows(name)[:RECENT])

    def initial(self, name: str) -> float:
        """The mean of a figure over the first window of the run."""
        return mean(self.rows[: rows_per_window(self.config)], name)

    def evaluated(self, name: str) -> float:
        """A figure of the latest evaluation; NaN if it is unknown."""
        return figure(self.evaluation, name)


def class_number(text: str) -> int | None:
    """The number of a class, from a part of the name of a figure such as classes/3; None if it is not such a number."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS else None


def rows_per_window(config: Config) -> int:
    return max(1, WINDOW // config.log.every_steps)


def steps_missing(rows: Sequence[Row], config: Config) -> int:
    """Number of steps until the metrics of a run can be judged; 0 if they can be already."""
    return max(0, 2 * RECENT * rows_per_window(config) - len(rows)) * config.log.every_steps


def figure(row: Row, name: str) -> float:
    """The value of a figure; NaN, which exceeds no threshold, if it is missing or not finite."""
    value = row.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan


def mean(rows: Sequence[Row], name: str) -> float:
    """The mean of a figure over the rows that have it; NaN if none has."""
    known = [value for row in rows if not math.isnan(value := figure(row, name))]
    return mean_of(known) if known else math.nan


def mean_of(values: Sequence[float]) -> float:
    """The mean of finite numbers, at least one."""
    try:
        return fmean(values)
    except OverflowError:  # their sum is not a float, but their mean is
        largest = max(map(abs, values))
        return largest * fmean(value / largest for value in values)


def _median(windows: Sequence[float]) -> float:
    known = [window for window in windows if not math.isnan(window)]
    return median(known) if known else math.nan
