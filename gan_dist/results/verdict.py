"""The verdict on a run in words: how good it is, how far from real images, whether it is healthy, and whether to stop.

Every statement is a pure function of figures. A new one is a function and a line in STATEMENTS.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from gan_dist.evaluation.doctor import NEEDED, Verdict
from gan_dist.evaluation.history import Row, figure
from gan_dist.results.doctor import Examination
from gan_dist.results.figures import as_row, comparable, info, interval_text, measured, number, value_text
from gan_dist.results.recorded import RecordedRun
from gan_dist.results.trend import MIN_EVALUATIONS, PLATEAU, Course, Trend, distance_name, trend_of

Tone = Literal["good", "caution", "bad", "unknown"]

CLOSE = 3.0  # times the distance of real images. MNIST after 25 minutes of one core: 1.8; photographs: 5
FAR = 30.0  # the teaching notebook's GAN: 350
# Figures that are compared with those of real images -> what a low one means.
WEAKNESSES = {
    "coverage": "parts of the real images are not generated",
    "precision": "some images could not be real",
    "recall": "the images vary less than real ones",
}


@dataclass(frozen=True)
class Statement:
    """The answer to a question about a run."""

    question: str
    answer: str
    """A short phrase."""
    detail: str
    """One or two sentences with the figures."""
    tone: Tone


@dataclass(frozen=True)
class Judged:
    """A run with the evaluation by which it is judged."""

    run: RecordedRun
    examination: Examination
    row: Row
    """The latest evaluation; without one in evaluations.jsonl, that of evaluation.json. Empty if there is none."""
    floor: Mapping[str, float]
    """The same figures of real images."""
    trend: Trend


def judge(run: RecordedRun, examination: Examination) -> Judged:
    """Choose the evaluation by which a run is judged, and its trend."""
    row, floor = latest_evaluation(run)
    return Judged(run, examination, row, floor, trend_of(run.evaluations))


def latest_evaluation(run: RecordedRun) -> tuple[Row, Mapping[str, float]]:
    """The latest evaluation of a run, and the same figures of real images."""
    if run.evaluations:
        return run.evaluations[-1], run.floor
    if run.evaluation:
        real = as_row({"figures": run.evaluation.get("real")})
        return as_row(run.evaluation), {name: value for name, value in real.items() if name != "intervals"}
    return {}, {}


def best_evaluation(run: RecordedRun) -> Row:
    """The evaluation with the smallest distance of those that are comparable with the latest; empty without any."""
    if not run.evaluations:
        return {}
    last, name = run.evaluations[-1], distance_name(run.evaluations[-1])
    known = [row for row in run.evaluations if measured(row, name) and comparable(row, last, name)]
    return min(known, key=lambda row: figure(row, name), default={})


def how_good(judged: Judged) -> Statement:
    """The distance, relative to that of real images."""
    question, name = "How good are the images?", distance_name(judged.row)
    found = measured(judged.row, name)
    if found is None:
        how = f"gan-dist evaluate {judged.run.path} evaluates it now; --evaluate.every-epochs N does while it trains."
        return Statement(question, "Not evaluated yet", f"The losses do not show how good images are. {how}", "unknown")
    title, interval = info(name).title, interval_text(found)
    detail = f"{title} {value_text(found)}" + (f" (95 % interval {interval})" if interval else "")
    real = figure(judged.floor, name)
    if not real > 0:
        return Statement(question, "No figure of real images to compare with", f"{detail}.", "unknown")
    ratio = found.value / real
    detail += f"; real images have {number(real)}, so it is {number(round(ratio, 1))} times theirs."
    if any(finding.name == "generator-copies" for finding in judged.examination.report.findings):
        detail += " The distance does not show that they are copies."
        return Statement(question, "Copies of training images", detail, "bad")
    if _reaches_real_images(judged, name):
        return Statement(question, "As good as real images, within the interval", detail, "good")
    if ratio < CLOSE:
        return Statement(question, "Close to real images", detail, "good")
    if ratio < FAR:
        return Statement(question, "Clearly distinguishable from real images", detail, "caution")
    return Statement(question, "Far from real images", detail, "bad")


def how_far(judged: Judged) -> Statement:
    """Coverage, precision and recall as shares of those of real images, and which is the weakest."""
    question = "How far are they from real images?"
    shares = {name: figure(judged.row, name) / real for name in WEAKNESSES if (real := figure(judged.floor, name)) > 0}
    shares = {name: share for name, share in shares.items() if not math.isnan(share)}
    if not shares:
        return Statement(
            question, "Unknown", "There is no coverage, precision or recall with that of real images.", "unknown"
        )
    detail = ", ".join(
        f"{name} {value_text(found)} (real images {value_text(found, figure(judged.floor, name))})"
        for name in shares
        if (found := measured(judged.row, name))
    )
    weakest = min(shares, key=lambda name: shares[name])
    tone: Tone = "good" if shares[weakest] > 0.9 else "caution" if shares[weakest] > 0.5 else "bad"
    share = min(shares[weakest], 1)
    answer = f"{weakest.capitalize()} is {share:.0%} of that of real images: {WEAKNESSES[weakest]}"
    if tone == "good":
        names = " and ".join([", ".join([*shares][:-1]), [*shares][-1]] if len(shares) > 1 else shares)
        answer = f"{names} reach at least {share:.0%} of those of real images".capitalize()
    return Statement(question, answer, f"{detail[0].upper()}{detail[1:]}.", tone)


def is_healthy(judged: Judged) -> Statement:
    """The doctor's conclusion."""
    question, report = "Is it healthy?", judged.examination.report
    missing = f"This needs {' and '.join(report.missing)}." if report.missing else ""
    not_judged = (
        "Not judged, since the evaluations lack a figure: "
        + ", ".join(f"{name} ({NEEDED[name]})" for name in report.not_judged)
        + "."
        if report.not_judged
        else ""
    )
    if report.findings:
        names = ", ".join(finding.name for finding in report.findings)
        first = report.findings[0]
        return Statement(question, f"Problems: {names}", f"{first.evidence}. Advice: {first.advice}.", "bad")
    if report.verdict is Verdict.TOO_EARLY:
        early = f"So far, {report.preliminary}. {missing}" if report.preliminary else missing
        return Statement(question, "Too early to tell", early, "unknown")
    resolved = len(judged.examination.occurrences)
    detail = f"{resolved} earlier finding(s) are resolved." if resolved else "The doctor found nothing."
    return Statement(question, "No problems found", f"{detail} {not_judged}".strip(), "good")


def can_stop(judged: Judged) -> Statement:
    """Whether more training would help, from the trend of the distance."""
    question, trend = "Can I stop?", judged.trend
    if trend.course is Course.TOO_FEW:
        needed = MIN_EVALUATIONS - trend.evaluations
        detail = f"The trend needs {needed} more evaluation(s) in the latest half of the run (--evaluate.every-epochs)."
        return Statement(question, "Too few evaluations to tell", detail, "unknown")
    name = distance_name(judged.row)
    title = info(name).title
    change = f"{trend.change:+.0%} when the images seen double (95 % interval {trend.low:+.0%} to {trend.high:+.0%})"
    fitted = f"{title} over the last {trend.evaluations} evaluations: {change}."
    best = best_evaluation(judged.run)
    behind = best and best["step"] < trend.since_step
    use_best = (
        f" The best was {number(figure(best, name))} at step {best['step']:,}: use --weights best." if behind else ""
    )
    match trend.course:
        case Course.IMPROVING if _reaches_real_images(judged, name):
            limit = " The interval of the latest one reaches real images: this figure can't show further progress."
            return Statement(question, "Yes: as good as real images", fitted + limit, "good")
        case Course.IMPROVING:
            more, real = figure(judged.row, name) * (1 + trend.change), figure(judged.floor, name)
            expected = f"reach that of real images, {number(real)}" if more < real else f"give about {more:.2g}"
            detail = f"{fitted} Twice the images would {expected}, if the trend lasts."
            return Statement(question, "No: it is still improving", detail, "caution")
        case Course.WORSENING:
            return Statement(question, "Yes: it is getting worse", fitted + use_best, "bad")
        case Course.PLATEAU:
            limit = f" A gain of more than {-PLATEAU:.0%} from twice the images is ruled out."
            return Statement(
                question, f"Yes: on a plateau since step {trend.since_step:,}", fitted + limit + use_best, "good"
            )
        case _:
            return Statement(question, "Unclear: no plateau, and no certain improvement", fitted + use_best, "unknown")


def _reaches_real_images(judged: Judged, name: str) -> bool:
    """Whether the interval of a distance contains that of real images, or is below it."""
    found = measured(judged.row, name)
    return found is not None and found.has_interval and found.low <= figure(judged.floor, name)


STATEMENTS: tuple[Callable[[Judged], Statement], ...] = (how_good, how_far, is_healthy, can_stop)


def verdict(judged: Judged) -> list[Statement]:
    """All statements on a run."""
    return [statement(judged) for statement in STATEMENTS]
