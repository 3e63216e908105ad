"""Curves as text: in Braille characters with 2 x 4 dots each, or in ASCII."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from rich.text import Text

from gan_dist.results.figures import number
from gan_dist.results.watch.text import Abilities, Size, fit, joined, styled

BRAILLE = 0x2800  # the character without dots
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # bit of each dot, by row and column
STYLES = ("cyan", "magenta", "yellow", "green")  # of the curves of a chart
LINES, ASCII_LINES = "━┅╌┈", "*+ox"  # the same in its title
AXIS = 8  # columns of the numbers beside the plot, with a space


class Point(NamedTuple):
    """A point of a curve."""

    step: int
    value: float


@dataclass(frozen=True)
class Curve:
    """A curve with its label."""

    label: str
    points: Sequence[Point]
    """In order, with finite values; at least one."""


@dataclass(frozen=True)
class Chart:
    """Curves that are drawn together."""

    title: str
    curves: Sequence[Curve]
    logarithmic: bool = False
    low: float | None = None
    high: float | None = None
    """Ends of the vertical axis; None: from the values."""


def draw_chart(chart: Chart, size: Size, last_step: int, abilities: Abilities) -> list[Text]:
    """A chart as lines: a title with the latest values, and the curves from step 0 to `last_step`."""
    lines = LINES if abilities.unicode else ASCII_LINES
    title = styled(chart.title, "bold")
    for i, curve in enumerate(chart.curves):
        label = " ".join(filter(None, (lines[i % len(lines)], curve.label, number(curve.points[-1].value))))
        title = joined(title, styled(label, STYLES[i % len(STYLES)]))
    values = [point.value for curve in chart.curves for point in curve.points]
    low = min(values) if chart.low is None else chart.low
    high = max(values) if chart.high is None else chart.high
    logarithmic = chart.logarithmic and low > 0
    rows, columns = size.rows - 1, size.columns - AXIS
    if rows < 1 or columns < 1:
        return [fit(title, size.columns)][: size.rows]
    positions = [
        [(point.step / max(last_step, 1), _height(point.value, low, high, logarithmic)) for point in curve.points]
        for curve in chart.curves
    ]
    drawn = draw_curves(positions, Size(columns, rows), abilities)
    labels = {0: _label(high)} | ({rows - 1: _label(low)} if rows > 1 else {})
    axis = [styled(f"{labels.get(row, ''):>{AXIS - 1}} ", "dim") for row in range(rows)]
    plot = [joined(label, line, gap="") for label, line in zip(axis, drawn, strict=True)]
    return [fit(line, size.columns) for line in (title, *plot)]


def draw_curves(curves: Sequence[Sequence[tuple[float, float]]], size: Size, abilities: Abilities) -> list[Text]:
    """Draw connected points. Without colours, every curve but the first one is dotted.

    Args:
        curves: points (x, y), each from 0 to 1; others are moved to the edge.
        size: of the result.
        abilities: of the terminal.
    """
    across, down = (2, 4) if abilities.unicode else (1, 1)
    bits: dict[tuple[int, int], int] = {}
    owners: dict[tuple[int, int], int] = {}
    for owner, curve in enumerate(curves):
        dots = [
            (_dot(x, size.columns * across), _dot(1 - y, size.rows * down))  # y is upwards
            for x, y in curve
        ]
        for index, (x, y) in enumerate(_path(dots)):
            if owner and index % 2 and abilities.unicode and not abilities.colours:
                continue
            cell = x // across, y // down
            bits[cell] = bits.get(cell, 0) | DOTS[y % down][x % across]
            owners[cell] = owner
    lines = []
    for row in range(size.rows):
        line = styled("")
        for column in range(size.columns):
            cell = column, row
            letter = " "
            if cell in bits:
                letter = chr(BRAILLE + bits[cell]) if abilities.unicode else ASCII_LINES[owners[cell] % 4]
            line.append(letter, STYLES[owners[cell] % len(STYLES)] if cell in owners else None)
        lines.append(line)
    return lines


def _height(value: float, low: float, high: float, logarithmic: bool) -> float:
    """Where a value is between the ends of the axis, from 0 to 1."""
    if logarithmic:
        value, low, high = math.log(max(value, low)), math.log(low), math.log(high)
    share = (value - low) / (high - low) if high > low and math.isfinite(high - low) else 0.5
    return min(max(share, 0.0), 1.0)


def _label(value: float) -> str:
    text = number(value)
    return text if len(text) < AXIS else f"{value:.0e}"


def _dot(share: float, dots: int) -> int:
    return min(max(round(share * (dots - 1)), 0), dots - 1)


def _path(dots: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The dots of the lines between successive dots."""
    yield from dots[:1]
    for (x0, y0), (x1, y1) in pairwise(dots):
        steps = max(abs(x1 - x0), abs(y1 - y0))
        for i in range(1, steps + 1):
            yield round(x0 + (x1 - x0) * i / steps), round(y0 + (y1 - y0) * i / steps)
