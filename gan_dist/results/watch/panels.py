"""The parts of a frame: title and progress, charts, figures, verdict and findings."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.text import Text

from gan_dist.evaluation.history import Row, figure, mean_of
from gan_dist.results.compare import DEFAULT_FIGURES
from gan_dist.results.figures import Measured, general_figures, info, measured, number, value_text
from gan_dist.results.report.curves import NOT_DRAWN, THROUGHPUT, metric_charts
from gan_dist.results.report.single import clock
from gan_dist.results.trend import distance_name
from gan_dist.results.verdict import Judged, can_stop, how_good, verdict
from gan_dist.results.watch.plot import Chart, Curve, Point
from gan_dist.results.watch.state import SILENT_SECONDS, RunState
from gan_dist.results.watch.text import TONES, Abilities, fit, joined, styled, wrapped
from gan_dist.results.watch.view import View

MAX_AVERAGED = 16  # lines in a point of a curve; of more, so many evenly spaced ones, so a long run costs no more
MAX_LABEL = 16  # characters of a curve's label
SHORT_LABELS = {"discriminator": "D", "generator": "G"}
NAME_WIDTH, VALUE_WIDTH, INTERVAL_WIDTH, REAL_WIDTH = 16, 7, 14, 7  # columns of the table of figures
FIGURES_WIDTH = NAME_WIDTH + VALUE_WIDTH + INTERVAL_WIDTH + REAL_WIDTH


def title_line(view: View, width: int) -> Text:
    """The run, what it is, and what it does."""
    judged, state = view.judged, view.state
    name = styled("/".join(view.path.absolute().parts[-2:]), "bold")
    if judged is None or state is None:
        return fit(name, width)
    config = judged.run.config
    what = f"{config.model.architecture} on {config.data.name}, seed {config.train.seed}"
    return fit(joined(name, styled(what, "dim"), styled(state.description, TONES[state.tone])), width)


def progress_line(state: RunState, view: View, width: int, abilities: Abilities) -> Text:
    """Step, epoch, speed, time left, and a bar in the rest of the line."""
    assert view.run is not None
    total, last = state.total_steps, view.run.rows[-1] if view.run.rows else {}
    parts = [f"step {state.step:,}" + (f" of {total:,}" if total else "")]
    if not math.isnan(epoch := figure(last, "epoch")):
        parts.append(f"epoch {epoch:.2f}")
    if state.is_training and view.silent_seconds > SILENT_SECONDS and view.run.rows:
        parts.append(f"no new line for {clock(view.silent_seconds)}")  # during an evaluation, or it hangs
    else:
        parts += [f"{state.images_per_second:,.0f} images/s"] if state.images_per_second > 0 else []
        parts += [f"{clock(state.seconds_left)} left"] if state.seconds_left >= 0 else []
    line = styled("  ".join(parts))
    room = width - line.cell_len - 7
    if total and room >= 5:
        share = min(state.step / total, 1.0)
        filled = round(share * room)
        full, empty = ("━", "─") if abilities.unicode else ("#", ".")
        line.append("  ").append(full * filled, "green").append(empty * (room - filled), "dim")
        line.append(f" {math.floor(100 * share)}%".rjust(5))
    return fit(line, width)


def verdict_lines(judged: Judged, width: int, all_questions: bool) -> list[Text]:
    """The answers to the report's questions: all of them, or how good the images are and whether to stop."""
    statements = verdict(judged) if all_questions else [how_good(judged), can_stop(judged)]
    answers = [styled(statement.answer, TONES[statement.tone]) for statement in statements]
    if all_questions:
        questions = [styled(f"{statement.question:35}", "dim") for statement in statements]
        return [fit(joined(*pair, gap=""), width) for pair in zip(questions, answers, strict=True)]
    answers[1] = styled(f"Can I stop? {statements[1].answer}", TONES[statements[1].tone])
    line = joined(*answers)
    return [line] if line.cell_len <= width else [fit(answer, width) for answer in answers]


def note_lines(judged: Judged, width: int) -> list[Text]:
    """Damaged files, and the doctor's findings or what is missing to judge the run."""
    report = judged.examination.report
    lines = [line for damage in judged.run.damage for line in wrapped(damage, width, TONES["caution"])]
    for finding in report.findings:
        lines += wrapped(f"{finding.name}: {finding.evidence}; {finding.advice}", width, TONES["bad"])
    if not report.findings:
        missing = f": needs {' and '.join(report.missing)}" if report.missing else ""
        early = f" So far, {report.preliminary}." if report.preliminary else ""
        lines += wrapped(f"doctor: {report.verdict.value}{missing}.{early}", width)
    return lines


def figure_lines(judged: Judged, rows: int) -> list[Text]:
    """The latest evaluation as a table of at most so many rows: value, 95 % interval, and real images."""
    row, floor = judged.row, judged.floor
    known = [(name, found) for name in general_figures(row) if (found := measured(row, name))]
    if not known:
        scheduled = judged.run.config.evaluate
        when = "none is scheduled" if scheduled.every_epochs is None else f"every {scheduled.every_epochs} epoch(s)"
        if scheduled.every_epochs is not None and scheduled.every_seconds is not None:
            when += f", {scheduled.every_seconds:g} s apart"
        return [fit(styled(f"no evaluation yet ({when})", "dim"), FIGURES_WIDTH)][:rows]
    if len(known) > rows - 1:
        wanted = [name for name in DEFAULT_FIGURES if "/f" not in name or name == distance_name(row)]
        known = sorted(known, key=lambda entry: (*wanted, entry[0]).index(entry[0]))[: max(rows - 1, 0)]
    at = f"at step {row['step']:,}" if "step" in row else "gan-dist evaluate"
    header = _table_row(at, "value", "95 % interval", "real")
    header.stylize("dim")
    return [header, *(_figure_line(name, found, figure(floor, name)) for name, found in known)][:rows]


def _figure_line(name: str, found: Measured, real: float) -> Text:
    texts = [value_text(found), f"{value_text(found, found.low)}-{value_text(found, found.high)}"]
    if any(len(text) >= width for text, width in zip(texts, (VALUE_WIDTH, INTERVAL_WIDTH), strict=True)):
        texts = [number(found.value), f"{number(found.low)}-{number(found.high)}"]
    known = "" if math.isnan(real) else value_text(found, real)
    known = known if len(known) < REAL_WIDTH else number(real)
    return _table_row(info(name).title, texts[0], texts[1] if found.has_interval else "", known)


def _table_row(name: str, *values: str) -> Text:
    line = fit(styled(name), NAME_WIDTH, fill=True)
    for value, width in zip(values, (VALUE_WIDTH, INTERVAL_WIDTH, REAL_WIDTH), strict=True):
        line.append(fit(styled(f" {value:>{width - 1}}"), width))
    return line


def charts(judged: Judged, points: int) -> list[Chart]:
    """All charts of a run that have points, the most important first."""
    run = judged.run
    names = [name for name in run.rows[-1] if name not in NOT_DRAWN] if run.rows else []
    found = [
        Chart(spec.title, curves, spec.logarithmic, spec.low, spec.high)
        for spec in (*metric_charts([name for name in names if name not in THROUGHPUT.figures]), THROUGHPUT)
        if (curves := [curve for name in spec.figures if (curve := _metric_curve(run.rows, name, points))])
    ]
    distance = distance_name(judged.row)
    if len(run.evaluations) > 1:
        evaluated = [Point(row["step"], known.value) for row in run.evaluations if (known := measured(row, distance))]
        logarithmic = bool(evaluated) and min(point.value for point in evaluated) > 0
        if len(evaluated) > 1:
            found.insert(2, Chart(info(distance).title, [Curve("", evaluated)], logarithmic))
    return found


def _metric_curve(rows: Sequence[Row], name: str, points: int) -> Curve | None:
    """A figure of metrics.jsonl, averaged over equally many lines if there are more than `points`."""
    size = max(-(-len(rows) // max(points, 1)), 1)
    stride = -(-size // MAX_AVERAGED)
    found = []
    for first in range(0, len(rows), size):
        group = rows[first : first + size]
        known = [value for row in group[::-stride] if not math.isnan(value := figure(row, name))]
        if known:
            found.append(Point(group[-1]["step"], mean_of(known)))
    _, group_name, last = name.rpartition("/")
    label = SHORT_LABELS.get(last, last)[:MAX_LABEL] if group_name else ""  # the title says it
    return Curve(label, found) if found else None
