"""What is wrong with a run, and since when: the doctor over its whole course, for a person."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from gan_dist.config import InputError
from gan_dist.evaluation.doctor import DoctorReport, Finding, Verdict, diagnose, examine
from gan_dist.evaluation.history import Row, figure
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_config, read_floor, read_json_lines

MOMENTS = 500  # of a run's course that are looked at, evenly spread: since when something is so, is known to that
BOOKKEEPING = ("step", "epoch", "images_seen", "images_per_second")
SHOWN = (
    *("distance/frechet", "precision", "recall", "density", "coverage", "diversity/features", "classes/from_uniform"),
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
    courses: list[Course]
    """Everything that was ever said, in the order in which it was first said."""
    diagnosis: DoctorReport
    """Of the run's end."""

    def looked_at(self) -> str:
        """The newest figures, one line for the training and one for the images."""
        names = [name for name in self.rows[-1] if name not in BOOKKEEPING]
        lines = [self._figures(self.rows, names)]
        if self.evaluations:
            lines.append(self._figures(self.evaluations, [name for name in SHOWN if name in self.evaluations[-1]]))
        return "\n".join(lines)

    def _figures(self, rows: Sequence[Row], names: list[str]) -> str:
        said = []
        for name in names:
            value, real = figure(rows[-1], name), figure(self.floor, name)
            beside = "" if math.isnan(real) else f" (real images {real:.4g})"
            said.append(f"{name} {'-' if math.isnan(value) else format(value, '.4g')}{beside}")
        return f"step {rows[-1]['step']:,}: " + ", ".join(said)


def examine_run(run: Path) -> Examination:
    """Look at the whole course of a run, which may still be training.

    Raises:
        InputError: the folder holds no run, or a damaged one.
    """
    folder = RunFolder(run)
    if not folder.holds_a_run():
        raise InputError(f"{run} holds no run: there is no {folder.config.name} in it; give the folder of a run")
    config = read_config(folder.config)
    rows, evaluations = read_json_lines(folder.metrics), read_json_lines(folder.evaluations)
    floor = read_floor(folder.floor)
    said: dict[str, Course] = {}
    for count in moments(len(rows)):
        step = rows[count - 1]["step"]
        known = [row for row in evaluations if row["step"] <= step or count == len(rows)]
        for finding in examine(rows[:count], known, config, floor):
            since = said[finding.name].since if finding.name in said else step
            said[finding.name] = Course(finding, since, None if count == len(rows) else step)
    return Examination(run, rows, evaluations, floor, list(said.values()), diagnose(rows, evaluations, config, floor))


def moments(rows: int) -> Iterator[int]:
    """At most MOMENTS numbers of rows to look at, evenly spread; the last is all of them."""
    shown = min(rows, MOMENTS)
    return (rows * moment // shown for moment in range(1, shown + 1))


def report(examination: Examination) -> None:
    """Print what the doctor says of a run."""
    run, rows, console = examination.run, examination.rows, Console()

    def say(text: str) -> None:
        console.print(Text(text), soft_wrap=True)

    diagnosis = examination.diagnosis
    missing = " and ".join(diagnosis.missing)
    if not rows:
        return say(f"{run}: {diagnosis.verdict.value}: no line in metrics.jsonl yet, nothing to look at")
    over = [course for course in examination.courses if course.until is not None]
    step = f"at step {rows[-1]['step']:,}"
    if diagnosis.verdict is Verdict.SOMETHING_WRONG:
        say(f"{run}: what is wrong {step}")
        for course in examination.courses:
            if course.until is None:
                say(course.describe())
        if missing:
            say(f"too early to tell whether more is wrong: it takes {missing}")
    elif diagnosis.verdict is Verdict.TOO_EARLY:
        say(f"{run}: too early to tell {step}: it takes {missing}")
    else:
        say(f"{run}: nothing wrong {step}")
    if diagnosis.so_far:
        say(f"so far {diagnosis.so_far}")
    say("looked at\n" + examination.looked_at())
    if over:
        say("what was wrong before and is no more")
        for course in over:
            say(course.describe())
    return None
