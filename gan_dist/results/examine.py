"""What is wrong with a run, and since when: the doctor over its whole course, for a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from gan_dist.config import InputError, from_dict
from gan_dist.evaluation.doctor import Finding, examine
from gan_dist.evaluation.seen import Row, first_judged
from gan_dist.run.folder import RunFolder, read_json, read_json_lines

MOMENTS = 500  # of a run's course that are looked at, evenly spread: since when something is so, is known to that
BOOKKEEPING = ("step", "epoch", "images_seen", "images_per_second")
SHOWN = (
    *("distance/frechet", "precision", "recall", "diversity/features", "classes/from_uniform"),
    *("nearest/ratio", "score/train", "score/held_out"),
)  # of an evaluation


@dataclass(frozen=True)
class Course:
    """A finding in the course of a run."""

    finding: Finding
    """As it was said last."""
    since: int
    """The first step at which it was said."""
    until: int | None
    """The last one; None: it is so at the run's end."""

    def describe(self) -> str:
        """Three lines for a person."""
        when = f"since step {self.since:,}" if self.until is None else f"steps {self.since:,} to {self.until:,}"
        return f"{self.finding.name}, {when}\n    {self.finding.evidence}\n    {self.finding.advice}"


@dataclass(frozen=True)
class Examination:
    """What the doctor says of a run."""

    run: Path
    rows: Sequence[Row]
    """Of metrics.jsonl."""
    evaluations: Sequence[Row]
    floor: Row
    """The evaluation's figures of real images."""
    judged_from: int
    """The step before which nothing is judged."""
    courses: list[Course]
    """Everything that was ever said, in the order in which it was first said."""

    @property
    def findings(self) -> list[Finding]:
        """What is wrong at the run's end."""
        return [course.finding for course in self.courses if course.until is None]

    def looked_at(self) -> str:
        """The newest figures, one line for the training and one for the images."""
        lines = [self._figures(self.rows, [name for name in self.rows[-1] if name not in BOOKKEEPING])]
        if self.evaluations:
            lines.append(self._figures(self.evaluations, [name for name in SHOWN if name in self.evaluations[-1]]))
        return "\n".join(lines)

    def _figures(self, rows: Sequence[Row], names: list[str]) -> str:
        said = []
        for name in names:
            value = rows[-1][name]
            real = f" (real images {self.floor[name]:.4g})" if name in self.floor else ""
            said.append(f"{name} {'-' if value is None else format(value, '.4g')}{real}")
        return f"step {rows[-1]['step']:,}: " + ", ".join(said)


def examine_run(run: Path) -> Examination:
    """Look at the whole course of a run, which may still be training.

    Raises:
        InputError: the folder holds no run, or a damaged one.
    """
    folder = RunFolder(run)
    if not folder.holds_a_run():
        raise InputError(f"{run} holds no run: there is no {folder.config.name} in it; give the folder of a run")
    config = from_dict(read_json(folder.config))
    rows, evaluations = read_json_lines(folder.metrics), read_json_lines(folder.evaluations)
    floor = read_json(folder.floor) if folder.floor.exists() else {}
    said: dict[str, Course] = {}
    for count in moments(len(rows)):
        step = rows[count - 1]["step"]
        known = [row for row in evaluations if row["step"] <= step or count == len(rows)]
        for finding in examine(rows[:count], known, config, floor):
            since = said[finding.name].since if finding.name in said else step
            said[finding.name] = Course(finding, since, None if count == len(rows) else step)
    return Examination(run, rows, evaluations, floor, first_judged(config), list(said.values()))


def moments(rows: int) -> Iterator[int]:
    """At most MOMENTS numbers of rows to look at, evenly spread; the last is all of them."""
    shown = min(rows, MOMENTS)
    return (rows * moment // shown for moment in range(1, shown + 1))


def report(examination: Examination) -> None:
    """Print what the doctor says of a run."""
    run, rows, console = examination.run, examination.rows, Console()

    def say(text: str) -> None:
        console.print(Text(text), soft_wrap=True)

    if not rows:
        return say(f"{run}: no line in metrics.jsonl yet, nothing to look at")
    over = [course for course in examination.courses if course.until is not None]
    if examination.findings:
        say(f"{run}: what is wrong at step {rows[-1]['step']:,}")
        for course in examination.courses:
            if course.until is None:
                say(course.describe())
    else:
        say(f"{run}: nothing wrong at step {rows[-1]['step']:,}")
        if rows[-1]["step"] < examination.judged_from:
            say(f"it is early: most can be judged from step {examination.judged_from:,} on only")
    say("looked at\n" + examination.looked_at())
    if over:
        say("what was wrong before and is no more")
        for course in over:
            say(course.describe())
    return None
