"""The doctor finds problems of a run from its recorded figures. A new finding is a function and a line in FINDINGS.

All functions are pure, and the same during the training and afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from gan_dist.config import Config
from gan_dist.evaluation.diagnosis import FindingFunction
from gan_dist.evaluation.history import FIRST_STEP, History, Row, figure, steps_missing
from gan_dist.evaluation.image_findings import (
    class_collapse,
    class_not_obeyed,
    discriminator_memorizes,
    far_from_real,
    generator_copies,
    missing_classes,
    mode_collapse,
)
from gan_dist.evaluation.training_findings import (
    discriminator_fooled,
    discriminator_overpowers,
    diverges,
    generator_starves,
    not_finite,
    oscillates,
)

# Causes before their possible effects.
FINDINGS: dict[str, FindingFunction] = {
    "not-finite": not_finite,
    "diverges": diverges,
    "discriminator-fooled": discriminator_fooled,
    "discriminator-overpowers": discriminator_overpowers,
    "generator-starves": generator_starves,
    "oscillates": oscillates,
    "mode-collapse": mode_collapse,
    "missing-classes": missing_classes,
    "class-not-obeyed": class_not_obeyed,
    "class-collapse": class_collapse,
    "discriminator-memorizes": discriminator_memorizes,
    "generator-copies": generator_copies,
}

# Finding -> findings that it explains. These are not reported beside it, since their advice would be misleading.
_IMAGES = ("mode-collapse", "missing-classes", "class-not-obeyed", "class-collapse")
EXPLAINED = {
    "diverges": ("discriminator-fooled", "discriminator-overpowers", "generator-starves", "oscillates", *_IMAGES),
    "discriminator-fooled": _IMAGES,
    "generator-starves": ("oscillates", *_IMAGES),
    "mode-collapse": ("missing-classes", "class-not-obeyed", "class-collapse"),
    "missing-classes": ("class-not-obeyed",),
}

# Finding -> the figure that it needs, which an evaluation of some data does not have: without labels or with more than
# 100 classes there are no shares of classes, and without held-out images no figures of memorization.
NEEDED = {
    "missing-classes": "classes/0",
    "discriminator-memorizes": "score/train",
    "generator-copies": "nearest/ratio",
}


@dataclass(frozen=True)
class Finding:
    """A problem of a run."""

    name: str
    """A key of FINDINGS."""
    step: int
    """The step of the figures."""
    evidence: str
    """One line with the figures."""
    advice: str
    """One thing to try, with its flag."""


class Verdict(Enum):
    """The doctor's conclusion about a run."""

    NO_PROBLEMS = "no problems"
    PROBLEMS = "problems"
    TOO_EARLY = "too early to tell"


@dataclass(frozen=True)
class DoctorReport:
    """The state of a run at its last row."""

    findings: list[Finding]
    missing: list[str]
    """What is missing to judge the run completely, such as a number of steps; empty if it was judged completely."""
    preliminary: str
    """Figures of an evaluation before FIRST_STEP that no good generator has; empty if there are none."""
    not_judged: tuple[str, ...] = ()
    """Findings that can't be judged for these data, since the evaluations lack the figure they need."""

    @property
    def verdict(self) -> Verdict:
        if self.findings:
            return Verdict.PROBLEMS
        return Verdict.TOO_EARLY if self.missing else Verdict.NO_PROBLEMS


def diagnose(
    rows: Sequence[Row],
    evaluations: Sequence[Row],
    config: Config,
    floor: Mapping[str, float] | None = None,
    classes: Sequence[str] = (),
) -> DoctorReport:
    """Find the problems of a run at its last row.

    Only the latest windows and the first are read, so the time does not depend on the length of the run. A run without
    findings may be a good one, or one whose problems do not show yet.

    Args:
        rows: the lines of metrics.jsonl so far, in order.
        evaluations: the lines of evaluations.jsonl, in order; figures may be missing.
        config: the run's configuration.
        floor: the same figures of real images. Without them, fewer problems are found.
        classes: names of the classes, if they are known.
    """
    floor, missing, preliminary = floor or {}, [], ""
    if steps := steps_missing(rows, config):
        missing.append(f"{steps:,} more steps")
    judged = [row for row in evaluations if row["step"] >= FIRST_STEP]
    if not judged:
        none = (
            "" if config.evaluate.every_epochs else " (none is scheduled; resume the run with --evaluate.every-epochs)"
        )
        missing.append(f"an evaluation at step {FIRST_STEP:,} or later{none}")
        if evaluations and (evidence := far_from_real(evaluations[-1], floor)):
            preliminary = f"the images of step {evaluations[-1]['step']:,} are far from real ones: {evidence}"
    elif math.isnan(figure(floor, "diversity/features")):
        missing.append("the figures of real images, which an evaluation writes to floor.json")
    not_judged = tuple(name for name, needed in NEEDED.items() if judged and needed not in judged[-1])
    return DoctorReport(_findings(rows, judged, config, floor, classes), missing, preliminary, not_judged)


def _findings(
    rows: Sequence[Row],
    judged: Sequence[Row],
    config: Config,
    floor: Mapping[str, float],
    classes: Sequence[str],
) -> list[Finding]:
    first, latest = (judged[0], judged[-1]) if judged else ({}, {})
    history = History(rows, latest, first, config, floor, classes)
    diagnoses = {name: find(history) for name, find in FINDINGS.items()}
    explained = {other for name, others in EXPLAINED.items() if diagnoses[name] for other in others}
    return [Finding(name, *found) for name, found in diagnoses.items() if found and name not in explained]
