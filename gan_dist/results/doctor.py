"""The problems of a run over its whole length, as `gan-dist doctor` prints them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from gan_dist.config.text import printable
from gan_dist.evaluation.doctor import NEEDED, DoctorReport, Finding, Verdict, diagnose
from gan_dist.evaluation.history import Row, figure
from gan_dist.results.recorded import RecordedRun, read_run

MAX_MOMENTS = (
    500  # evenly spaced moments at which a run is diagnosed; first steps of findings are known to this precision
)
BOOKKEEPING = ("step", "epoch", "images_seen", "images_per_second")
# The figures of an evaluation that are printed.
PRINTED = (
    *("distance/frechet", "precision", "recall", "density", "coverage", "diversity/features", "classes/from_uniform"),
    *("nearest/ratio", "score/train", "score/held_out"),
)


@dataclass(frozen=True)
class Occurrence:
    """A finding, and the steps at which it occurred."""

    finding: Finding
    """As it was found last."""
    first_step: int
    last_step: int | None
    """None if it persists at the run's end."""
    periods: Sequence[tuple[int, int]] = ()
    """First and last step of each uninterrupted period in which it was found."""

    def describe(self) -> str:
        """Three lines for the console."""
        steps = f"since step {self.first_step:,}"
        if self.last_step is not None:
            steps = f"steps {self.first_step:,} to {self.last_step:,}"
        return f"{self.finding.name}, {steps}\n    {self.finding.evidence}\n    {self.finding.advice}"


@dataclass(frozen=True)
class Examination:
    """A run's records, and all findings from them."""

    run: Path
    rows: Sequence[Row]
    """Lines of metrics.jsonl."""
    evaluations: Sequence[Row]
    """Lines of evaluations.jsonl."""
    floor: Mapping[str, float]
    """The figures of real images."""
    occurrences: list[Occurrence]
    """All findings over the run, ordered by their first step."""
    report: DoctorReport
    """The state at the run's end."""

    def latest_figures(self) -> str:
        """The latest figures: one line for the training, and one for the generated images."""
        names = [name for name in self.rows[-1] if name not in BOOKKEEPING]
        lines = [self._figures(self.rows, names)]
        if self.evaluations:
            lines.append(self._figures(self.evaluations, [name for name in PRINTED if name in self.evaluations[-1]]))
        return "\n".join(lines)

    def _figures(self, rows: Sequence[Row], names: list[str]) -> str:
        texts = []
        for name in names:
            value, real = figure(rows[-1], name), figure(self.floor, name)
            comparison = "" if math.isnan(real) else f" (real images {real:.4g})"
            texts.append(f"{name} {'-' if math.isnan(value) else format(value, '.4g')}{comparison}")
        return f"step {rows[-1]['step']:,}: " + ", ".join(texts)


def examine_run(run: Path) -> Examination:
    """Diagnose a run, which may still be training, at moments over its whole length.

    Raises:
        InputError: the folder does not hold a run, or its configuration is damaged.
    """
    return examine(read_run(run))


def examine(run: RecordedRun, most: int | None = None) -> Examination:
    """Diagnose a run that has been read already, at `most` moments at most; None: MAX_MOMENTS."""
    rows, evaluations = run.rows, run.evaluations
    known_besides = (run.config, run.floor, run.classes)
    found: dict[str, Occurrence] = {}
    previous = -1
    for count in moments(len(rows), most):
        step, at_end = rows[count - 1]["step"], count == len(rows)
        known = [row for row in evaluations if row["step"] <= step or at_end]
        for finding in diagnose(rows[:count], known, *known_besides).findings:
            earlier = found[finding.name].periods if finding.name in found else []
            if earlier and earlier[-1][1] == previous:
                periods = [*earlier[:-1], (earlier[-1][0], step)]
            else:
                periods = [*earlier, (step, step)]
            found[finding.name] = Occurrence(finding, periods[0][0], None if at_end else step, periods)
        previous = step
    report = diagnose(rows, evaluations, *known_besides)
    return Examination(run.path, rows, evaluations, run.floor, list(found.values()), report)


def moments(rows: int, most: int | None = None) -> Iterator[int]:
    """At most `most` (None: MAX_MOMENTS) evenly spaced numbers of rows; the last is all of them."""
    count = min(rows, MAX_MOMENTS if most is None else most)
    return (rows * moment // count for moment in range(1, count + 1))


def print_examination(examination: Examination) -> None:
    """Print the findings of a run, what is missing to judge it, and its latest figures."""
    run, rows, report, console = examination.run, examination.rows, examination.report, Console()

    def show(text: str) -> None:
        for line in text.split("\n"):
            console.print(Text(printable(line)), soft_wrap=True)

    missing = " and ".join(report.missing)
    if not rows:
        return show(f"{run}: {report.verdict.value}: metrics.jsonl has no lines yet")
    step = f"at step {rows[-1]['step']:,}"
    if report.verdict is Verdict.TOO_EARLY:
        show(f"{run}: {report.verdict.value} {step}: this needs {missing}")
    else:
        show(f"{run}: {report.verdict.value} {step}")
    for occurrence in examination.occurrences:
        if occurrence.last_step is None:
            show(occurrence.describe())
    if report.verdict is Verdict.PROBLEMS and missing:
        show(f"too early to tell whether there are more: this needs {missing}")
    if report.not_judged:
        reasons = ", ".join(f"{name} (needs {NEEDED[name]})" for name in report.not_judged)
        show(f"not judged, since the evaluations of these data lack a figure: {reasons}")
    if report.preliminary:
        show(f"so far, {report.preliminary}")
    show("latest figures\n" + examination.latest_figures())
    if resolved := [occurrence for occurrence in examination.occurrences if occurrence.last_step is not None]:
        show("resolved problems")
        for occurrence in resolved:
            show(occurrence.describe())
    return None
