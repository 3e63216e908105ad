"""Whether the distance of a run still decreases: a power law fitted to its latest evaluations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import fmean

from gan_dist.evaluation.history import Row
from gan_dist.results.figures import comparable, measured

MIN_EVALUATIONS = 4  # of a fit: fewer have no meaningful scatter
RECENT = 0.5  # of the images seen: the evaluations since then are fitted
# Change of the distance when the images seen double. If the whole interval is above it, the run is on a plateau.
PLATEAU = -0.1
# 97.5 % quantiles of Student's t for 1, 2, … degrees of freedom; 1.96 + 2.5/n approximates further ones to 1 %.
T_QUANTILES = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


class Course(Enum):
    """What a distance does."""

    TOO_FEW = "too few evaluations"
    IMPROVING = "improving"
    PLATEAU = "plateau"
    WORSENING = "worsening"
    UNCLEAR = "unclear"


@dataclass(frozen=True)
class Trend:
    """The course of a distance over the latest evaluations."""

    course: Course
    evaluations: int
    """How many were fitted, or, if they are too few, how many there are."""
    since_step: int
    """The first one's step."""
    change: float
    """Relative change of the distance when the images seen double, such as -0.2. NaN if too few."""
    low: float
    high: float
    """95 % confidence interval of `change`."""


def distance_name(row: Row) -> str:
    """The figure by which a run is judged: FID if it was computed, else the Fréchet distance."""
    return "inception/fid" if measured(row, "inception/fid") else "distance/frechet"


def trend_of(evaluations: Sequence[Row]) -> Trend:
    """Fit log(distance) = a + b log(images seen) to the evaluations of the latest half of the images seen.

    A distance follows a power law of the images seen while a run improves. b has an interval from the scatter around
    the line (ordinary least squares, Student's t). The intervals of the evaluations are not used: successive ones have
    the same latents and real images, so that their common error does not affect the slope.

    Args:
        evaluations: lines of evaluations.jsonl, in order.
    """
    points = _points(evaluations)
    if points:
        seen = points[-1][1]
        points = [point for point in points if point[1] >= RECENT * seen] or points
    if len(points) < MIN_EVALUATIONS:
        step = points[0][0] if points else 0
        return Trend(Course.TOO_FEW, len(points), step, math.nan, math.nan, math.nan)
    slope, width = _slope([math.log(point[1]) for point in points], [math.log(point[2]) for point in points])
    change, low, high = (2.0 ** min(max(power, -50), 50) - 1 for power in (slope, slope - width, slope + width))
    return Trend(_course(low, high), len(points), points[0][0], change, low, high)


def _points(evaluations: Sequence[Row]) -> list[tuple[int, float, float]]:
    """(step, images seen, distance) of the evaluations that are comparable with the last one."""
    if not evaluations:
        return []
    last, name = evaluations[-1], distance_name(evaluations[-1])
    found = []
    for row in evaluations:
        images, distance = measured(row, "images_seen"), measured(row, name)
        if images and distance and min(images.value, distance.value) > 0 and comparable(row, last, name):
            found.append((row["step"], images.value, distance.value))
    return found


def _slope(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """The slope of a regression line, and half the width of its 95 % interval.

    Args:
        x, y: coordinates of n > 2 points; x are not all equal.
    """
    middle_x, middle_y = fmean(x), fmean(y)
    squares = sum((value - middle_x) ** 2 for value in x)
    if squares == 0:
        return 0.0, math.inf
    slope = sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True)) / squares
    residuals = sum((b - middle_y - slope * (a - middle_x)) ** 2 for a, b in zip(x, y, strict=True))
    freedom = len(x) - 2
    quantile = T_QUANTILES[freedom - 1] if freedom <= len(T_QUANTILES) else 1.96 + 2.5 / freedom
    return slope, quantile * math.sqrt(residuals / freedom / squares)


def _course(low: float, high: float) -> Course:
    """The course from the interval of the change."""
    if low > 0:
        return Course.WORSENING
    if low > PLATEAU:
        return Course.PLATEAU
    return Course.IMPROVING if high < 0 else Course.UNCLEAR
