"""Console output of rank 0: tables, a live progress bar on a terminal, plain lines in a log file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rich.console import Console as RichConsole
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gan_dist.config.text import MAX_MESSAGE, printable

REFRESHES_PER_SECOND = 4  # of the bar
MAX_BAR_WIDTH = 80  # columns: a wider terminal may become narrower, which would break longer lines
LOG_FILE_WIDTH = 100_000  # columns


class Progress(NamedTuple):
    """The progress of a run, also between two log points."""

    step: int
    """Completed steps."""
    epoch: float
    images_per_second: float | None = None
    """None: not known yet."""
    seconds_left: float | None = None
    """Until the end of the run, including evaluations."""


class Console:
    """Prints what the user sees.

    Args:
        enabled: False on every rank but 0: no method does anything.
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        # In a notebook, rich sends its output to the front end, which does not accept it from a process that
        # `notebook_launcher` forked. There, the output is that of a log file, although Jupyter sets FORCE_COLOR.
        notebook = RichConsole().is_jupyter
        self.rich = RichConsole(force_jupyter=False, force_terminal=False if notebook else None)
        if not self.rich.is_terminal:
            self.rich.width = LOG_FILE_WIDTH
        self._bar: Live | None = None
        self._progress: Callable[[], Progress] | None = None
        self._steps = 1
        self._epochs = 1.0
        self._row: Mapping[str, Any] | None = None
        """The latest log point of this session."""

    def announce(self, line: str) -> None:
        """Print one unwrapped line, above the bar if there is one."""
        if self.enabled:
            self.rich.print(Text(printable(line, MAX_MESSAGE)), soft_wrap=True)

    def table(self, title: str, rows: Mapping[str, Any]) -> None:
        """Print an unwrapped line and a table of names and values.

        On a terminal, long values are wrapped; in a log file, the table is as wide as necessary.
        """
        if not self.enabled:
            return
        self.announce(title)
        table = Table(show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows.items():
            table.add_row(name, Text(str(value)))
        self.rich.print(table)

    def begin(self, steps: int, epochs: float, progress: Callable[[], Progress]) -> None:
        """Start the bar if the console is an interactive terminal.

        Args:
            steps, epochs: of the whole run.
            progress: returns the current progress; called by the thread of the bar.
        """
        if not self.enabled:
            return
        self._steps, self._epochs, self._progress, self._row = steps, epochs, progress, None
        if self.rich.is_interactive:
            self._bar = Live(get_renderable=self._draw, console=self.rich, refresh_per_second=REFRESHES_PER_SECOND)
            self._bar.start()

    def progress(self, row: Mapping[str, Any]) -> None:
        """Show a log point, a row of metrics.jsonl, in the bar or as a line."""
        if not self.enabled:
            return
        assert self._progress is not None
        self._row = row
        if self._bar is None:
            now = self._progress()
            print(f"{self._position(now)}  {self._figures(now)}", flush=True)

    def end(self) -> None:
        """Stop the bar. Its last state remains on the screen."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _draw(self) -> Group:
        """Returns the bar and the line of figures below it; both fit into 80 columns."""
        assert self._progress is not None
        now, width = self._progress(), min(self.rich.width, MAX_BAR_WIDTH) - 1
        line = Table.grid(padding=(0, 1), expand=True)
        line.width = width
        line.add_column(no_wrap=True)
        line.add_column(ratio=1)
        line.add_column(no_wrap=True)
        bar = ProgressBar(total=self._steps, completed=now.step)
        line.add_row(self._position(now), bar, f"{100 * now.step // self._steps:>3}%")
        figures = Text(self._figures(now), no_wrap=True)
        figures.truncate(width)
        return Group(line, figures)

    def _position(self, now: Progress) -> str:
        return f"epoch {now.epoch:.2f}/{self._epochs:.4g}  step {now.step:,}/{self._steps:,}"

    def _figures(self, now: Progress) -> str:
        """Returns the speed, the remaining time, and the figures of the latest log point."""
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
