"""What a person sees: tables, a live bar on a terminal, plain lines in a log file. Silent on every rank but 0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text


class Console:
    """Rank 0's voice.

    Args:
        speaks: False makes an object that does nothing.
    """

    def __init__(self, speaks: bool) -> None:
        self.speaks = speaks
        self.rich = RichConsole()
        self._bar: Progress | None = None

    def announce(self, line: str) -> None:
        """Say one line, whole, above the bar if there is one."""
        if self.speaks:
            self.rich.print(Text(line), soft_wrap=True)

    def table(self, title: str, rows: Mapping[str, Any]) -> None:
        """Show a line, whole, and names and values side by side below it."""
        if not self.speaks:
            return
        self.announce(title)
        table = Table(show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows.items():
            table.add_row(name, Text(str(value)))
        self.rich.print(table)

    def begin(self, step: int, steps: int) -> None:
        """Start the bar, on a terminal."""
        if self.speaks and self.rich.is_terminal:
            self._bar = _TwoLineProgress(
                TextColumn("{task.fields[place]}"),
                BarColumn(bar_width=None),
                TaskProgressColumn(),
                console=self.rich,
                refresh_per_second=2,
                expand=True,
            )
            self._bar.add_task("", total=steps, completed=step, place=f"step {step:,}/{steps:,}", figures="")
            self._bar.start()

    def progress(self, row: Mapping[str, Any], steps: int, epochs: float) -> None:
        """Show a log point: a line of metrics.jsonl, and how many steps and epochs the run is going to have."""
        if not self.speaks:
            return
        images_left = row["images_seen"] * (steps / row["step"] - 1)
        seconds_left = images_left / row["images_per_second"]
        place = f"epoch {row['epoch']:.2f}/{epochs:.4g}  step {row['step']:,}/{steps:,}"
        figures = (
            f"{row['images_per_second']:,.0f} images/s  {_clock(seconds_left)} left  "
            f"loss D {_figure(row['loss/discriminator'], 3)} G {_figure(row['loss/generator'], 3)}  "
            f"score real {_figure(row['score/real'], 2)} fake {_figure(row['score/fake'], 2)}"
        )
        if self._bar is None:
            print(f"{place}  {figures}", flush=True)
        else:
            self._bar.update(self._bar.task_ids[0], completed=row["step"], place=place, figures=figures)

    def end(self) -> None:
        """Take the bar down, its last state stays on the screen."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class _TwoLineProgress(Progress):
    """A bar that leaves the figures a line of their own: they fit on a terminal of 80 columns."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            yield Text(task.fields["figures"], no_wrap=True)


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
