"""What a person sees: tables, a live bar on a terminal, plain lines in a log file. Silent on every rank but 0."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rich.console import Console as RichConsole
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

REFRESHES = 4  # of the bar in a second
WIDEST = 80  # columns of the bar: a wider terminal may become narrower, which would break longer lines in two

UNLIMITED = 100_000  # columns of a log file


class Progress(NamedTuple):
    """Where a run stands, also between two log points."""

    step: int
    """Completed steps."""
    epoch: float
    images_per_second: float | None = None
    """None: nothing is known yet."""
    seconds_left: float | None = None
    """Until the run ends, evaluations included."""


class Console:
    """Rank 0's voice.

    Args:
        speaks: False makes an object that does nothing.
    """

    def __init__(self, speaks: bool) -> None:
        self.speaks = speaks
        self.rich = RichConsole()
        if not self.rich.is_terminal:
            self.rich.width = UNLIMITED
        self._bar: Live | None = None
        self._progress: Callable[[], Progress] | None = None
        self._steps = 1
        self._epochs = 1.0
        self._row: Mapping[str, Any] | None = None
        """The last log point of this session."""

    def announce(self, line: str) -> None:
        """Say one line, whole, above the bar if there is one."""
        if self.speaks:
            self.rich.print(Text(line), soft_wrap=True)

    def table(self, title: str, rows: Mapping[str, Any]) -> None:
        """Show a line, whole, and names and values side by side below it.

        On a terminal long values go on in the next line; in a log file the table is as wide as it needs to be.
        """
        if not self.speaks:
            return
        self.announce(title)
        table = Table(show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows.items():
            table.add_row(name, Text(str(value)))
        self.rich.print(table)

    def begin(self, steps: int, epochs: float, progress: Callable[[], Progress]) -> None:
        """Start the bar, on a terminal that can show one.

        Args:
            steps, epochs: what the run is going to have in the end.
            progress: where it stands; the bar asks from a thread of its own.
        """
        if not self.speaks:
            return
        self._steps, self._epochs, self._progress, self._row = steps, epochs, progress, None
        if self.rich.is_interactive:
            self._bar = Live(get_renderable=self._draw, console=self.rich, refresh_per_second=REFRESHES)
            self._bar.start()

    def progress(self, row: Mapping[str, Any]) -> None:
        """Show a log point, a line of metrics.jsonl: in the bar, or as a line."""
        if not self.speaks:
            return
        assert self._progress is not None
        self._row = row
        if self._bar is None:
            now = self._progress()
            print(f"{self._place(now)}  {self._figures(now)}", flush=True)

    def end(self) -> None:
        """Take the bar down, its last state stays on the screen."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _draw(self) -> Group:
        """The bar, and below it the figures: both fit on a terminal of 80 columns."""
        assert self._progress is not None
        now, width = self._progress(), min(self.rich.width, WIDEST) - 1
        line = Table.grid(padding=(0, 1), expand=True)
        line.width = width
        line.add_column(no_wrap=True)
        line.add_column(ratio=1)
        line.add_column(no_wrap=True)
        bar = ProgressBar(total=self._steps, completed=now.step)
        line.add_row(self._place(now), bar, f"{100 * now.step // self._steps:>3}%")
        figures = Text(self._figures(now), no_wrap=True)
        figures.truncate(width)
        return Group(line, figures)

    def _place(self, now: Progress) -> str:
        return f"epoch {now.epoch:.2f}/{self._epochs:.4g}  step {now.step:,}/{self._steps:,}"

    def _figures(self, now: Progress) -> str:
        """Speed, time left, and what the last log point says."""
        if now.images_per_second is None or now.seconds_left is None:
            return ""
        speed = self._row["images_per_second"] if self._row else now.images_per_second
        figures = f"{speed:,.0f} images/s  {_clock(now.seconds_left)} left"
        if self._row is None:
            return figures
        return (
            f"{figures}  "
            f"loss D {_figure(self._row['loss/discriminator'], 3)} G {_figure(self._row['loss/generator'], 3)}  "
            f"score real {_figure(self._row['score/real'], 2)} fake {_figure(self._row['score/fake'], 2)}"
        )


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
