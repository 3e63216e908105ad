"""Composes a frame: a view of a run as lines that fit into a terminal."""

from __future__ import annotations

from rich.text import Text

from gan_dist.results.verdict import Judged
from gan_dist.results.watch.panels import (
    FIGURES_WIDTH,
    charts,
    figure_lines,
    note_lines,
    progress_line,
    title_line,
    verdict_lines,
)
from gan_dist.results.watch.picture import draw_grid
from gan_dist.results.watch.plot import draw_chart
from gan_dist.results.watch.state import RunState
from gan_dist.results.watch.text import Abilities, Size, fit, joined, shortened_to, styled, to_ascii, wrapped
from gan_dist.results.watch.view import View

TALL = 30  # rows from which all questions of the verdict and more findings are shown
MAX_NOTES = 3  # rows of findings in lower terminals
CHART_ROWS = 5  # of the lowest chart
HIGHEST_CHART = 14
FEW_FIGURES = 6  # rows of the table in lower terminals: its header and five figures
MORE_FIGURES = 11
GAP = 2  # columns between the curves and the picture
PICTURE_SHARE = 0.42  # of the width, for the picture


def compose(view: View, size: Size, abilities: Abilities, footer: str = "") -> list[Text]:
    """A view of a run as text.

    Args:
        view: what is shown.
        size: of the terminal. From 80 x 24 on, everything is shown; in a smaller one, the lower parts are missing.
        abilities: of the terminal.
        footer: the last line; empty: none.

    Returns:
        At most `size.rows` lines of at most `size.columns` cells.
    """
    rows = max(size.rows - bool(footer), 0)
    lines = [title_line(view, size.columns)]
    if view.judged is None or view.state is None:
        lines += wrapped(view.problem, size.columns, "bold red")
        lines = shortened_to(lines, rows, size.columns)
    else:
        lines += _content(view, view.judged, view.state, Size(size.columns, rows - 1), abilities)
    lines = [fit(line, size.columns) for line in lines[:rows]]
    if footer and size.rows:
        lines += [styled("")] * (rows - len(lines))
        lines.append(fit(styled(footer, "dim"), size.columns))
    return lines if abilities.unicode else [to_ascii(line) for line in lines]


def _content(view: View, judged: Judged, state: RunState, size: Size, abilities: Abilities) -> list[Text]:
    """Everything but the title."""
    tall = size.rows >= TALL
    head = [progress_line(state, view, size.columns, abilities)]
    head += verdict_lines(judged, size.columns, all_questions=tall)
    notes = shortened_to(note_lines(judged, size.columns), size.rows // 4 if tall else MAX_NOTES, size.columns)
    body = Size(size.columns, size.rows - len(head) - len(notes))
    return [*head, *_body(view, judged, body, abilities), *notes]


def _body(view: View, judged: Judged, size: Size, abilities: Abilities) -> list[Text]:
    """Curves and figures on the left, the picture on the right."""
    if size.rows < 1:
        return []
    right = max(min(int(size.columns * PICTURE_SHARE), size.columns - FIGURES_WIDTH - GAP), 0)
    picture = _picture(view, Size(right, size.rows), abilities)
    right = max((line.cell_len for line in picture), default=0)
    left = _left(judged, Size(size.columns - right - (GAP if right else 0), size.rows), abilities)
    lines = []
    for row in range(size.rows):
        line = left[row] if row < len(left) else styled("")
        if row < len(picture):
            line = joined(fit(line, size.columns - right - GAP, fill=True), picture[row], gap=" " * GAP)
        lines.append(line)
    return lines


def _left(judged: Judged, size: Size, abilities: Abilities) -> list[Text]:
    """Charts, with the table of figures below them."""
    if not judged.run.rows:
        every = judged.run.config.log.every_steps
        return wrapped(f"No metrics yet: a line is written every {every:,} steps.", size.columns)
    drawn = charts(judged, points=2 * size.columns)
    few = figure_lines(judged, FEW_FIGURES if size.rows < TALL else MORE_FIGURES)
    count = min(len(drawn), max((size.rows - len(few)) // CHART_ROWS, 1))
    table = figure_lines(judged, max(size.rows - count * CHART_ROWS, len(few)))
    height = min((size.rows - len(table)) // count, HIGHEST_CHART) if count else 0
    lines: list[Text] = []
    for chart in drawn[:count]:
        lines += draw_chart(chart, Size(size.columns, height), judged.run.step, abilities)
    return [*lines, *table]


def _picture(view: View, size: Size, abilities: Abilities) -> list[Text]:
    """The newest grid below its title."""
    if view.grid is None or size.columns < 8 or size.rows < 4:
        return []
    title = fit(styled(view.grid_title, "bold"), size.columns)
    return [title, *draw_grid(view.grid, Size(size.columns, size.rows - 1), abilities)]
