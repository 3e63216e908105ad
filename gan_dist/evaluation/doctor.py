"""The doctor: what the figures of a run say is wrong with it.

Pure functions over what the run has written, so the same code speaks while it trains and afterwards. A new finding is a
function and a line in FINDINGS. Where a threshold quotes figures, they are of runs on MNIST of one to two minutes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from gan_dist.config import Config
from gan_dist.evaluation.history import FIRST_STEP, RECENT, History, Row, figure, rows_per_window, steps_missing

DIVERGED_LOSS = 5.0  # of BALANCE. A D that errs always loses up to 2 of it; with the learning rate x 30: 9 to 600.
DIVERGED_GROWTH = 30.0  # against the first window. Good runs: up to 4; Wasserstein without a penalty: 1e3 to 1e6.
OVERPOWERED = 0.15  # of BALANCE: with bce scores of 0.95 and 0.05. Good runs: 0.7 and more; without R1 and R2: 0.03.
FALLING = 0.9  # G's loss against that of the windows before: below this G is catching up
FOOLED = 0.1  # score/fake above score/real. A D that learns: 0 at most; one that is frozen: 0.22 to 0.44.
STARVED = 1e-5  # Adam adds 1e-8 to the size of each of some 2e5 numbers: a norm below this moves nothing any more
STARVED_SHARE = 1e-4  # of D's gradient. Good runs: 0.03 and more; under R1 and R2 of gamma 1e5: 7e-5, of 1e7: 4e-7.
SWINGING = 0.5  # half the swing's width, of the loss. Good runs: up to 0.2, the seed: 0.26; learning rate x 30: 1.1.
TURNS = 3  # from one side to the other in 20 windows. A trend, a new level: one; a curve that bends: two.
COLLAPSED_DIVERSITY = 0.3  # of the real images'. Good runs: 0.48 and more; the seed's after 10 epochs: 0.18.
COLLAPSED_CLASSES = 0.5  # share of the images that would have to show other classes. Good runs: up to 0.25.
# coverage, of the real images'. Good runs: 0.14 after 600 steps, 0.55 after 1,800; noise: 0.0003 to 0.007, though its
# precision may be 1 and its density 2.3, where all of it lies in the ball of one outlier.
UNCOVERED = 0.05
MISSING = 0.1  # of a class's fair share. Good runs: 0.23 and more.
LEAST_COUNT = 1000  # images; of fewer so small a share, or coverage, can't be told
# score/train above score/held_out. Chance: up to 0.07; on 60,000 images up to 0.15 within an hour, while the images get
# better all the time; on 500 images 0.28 after 100,000 seen, 0.58 after 200,000.
MEMORIZED = 0.2
COPIED = 0.75  # nearest/ratio. Good runs: 0.98 and more; on 500 images 0.9, on 50 images 0.58, later 0.4.


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a run."""

    name: str
    """A key of FINDINGS."""
    step: int
    """The step whose figures say so."""
    evidence: str
    """One line with the figures."""
    advice: str
    """One thing to try, with its flag. Most are for a new run, since a resumed one keeps its configuration."""


class Diagnosis(NamedTuple):
    step: int
    evidence: str
    advice: str


def not_finite(seen: History) -> Diagnosis | None:
    """Numbers leave their range: lately a row without a finite step, or updates left out."""
    rows = seen.rows[-RECENT * rows_per_window(seen.config) :]
    lost = sorted({name for row in rows for name in row if math.isnan(figure(row, name))})
    skipped = figure(rows[-1], "updates_skipped") - figure(rows[0], "updates_skipped") if rows else 0
    if not (lost or skipped > 0):
        return None
    what = f"no finite {', '.join(lost)} in a row" if lost else f"{skipped:.0f} updates left out for NaN or infinity"
    half = seen.config.train.mixed_precision in ("bf16", "fp16")
    advice = "try --train.mixed-precision no" if half else _slower(seen)
    return Diagnosis(rows[-1]["step"], f"{what} since step {rows[0]['step']:,}", advice)


def diverges(seen: History) -> Diagnosis | None:
    """D's loss is beyond what errors explain; or a penalty, or G's gradient, which says how steep D is, ran away."""
    loss, penalty, said = seen.recent("loss/discriminator"), seen.config.penalty, []
    if loss > DIVERGED_LOSS * seen.balance:
        said.append(f"loss/discriminator {loss:.3g}, where a coin's is {seen.balance:.2g}")
    for name in ("gradient/generator", "penalty/r1", "penalty/r2", "penalty/gradient"):
        first, now = seen.beginning(name), seen.recent(name)
        # Where their gammas shrink, R1 and R2 are meant to grow: in the preset r3 from 0.006 to 0.26.
        meant = min(penalty.final_factor, 1) if name in ("penalty/r1", "penalty/r2") else 1
        if now * meant > DIVERGED_GROWTH * first > 0:
            said.append(f"{name} {now:.3g}, at the beginning {first:.3g}")
    unbounded = seen.config.train.loss == "wasserstein" and not penalty.gradient
    advice = "try --penalty.gradient 10" if unbounded else _slower(seen)
    return Diagnosis(seen.step, "; ".join(said), advice) if said else None


def discriminator_fooled(seen: History) -> Diagnosis | None:
    """D takes generated images for more real than real ones: it doesn't learn."""
    if not seen.recent("score/fake") - seen.recent("score/real") > FOOLED:
        return None
    advice = f"see whether D's weights change at all (--train.log-hashes 100); if so, {_slower(seen)}"
    return Diagnosis(seen.step, f"{_scores(seen)}, worse than a coin", advice)


def discriminator_overpowers(seen: History) -> Diagnosis | None:
    """D is hardly ever wrong, and G isn't catching up (Arjovsky and Bottou 2017, arXiv:1701.04862). Not said of
    Wasserstein's loss: its critic is meant to be ahead."""
    loss, now = seen.recent("loss/discriminator"), seen.recent("loss/generator")
    before = seen.before("loss/generator")
    if not (loss < OVERPOWERED * seen.balance and now > FALLING * before):
        return None
    ahead = f"loss/discriminator {loss:.2g}, where a coin's is {seen.balance:.2g}; {_scores(seen)}"
    return Diagnosis(seen.step, f"{ahead}; loss/generator {now:.3g}, before {before:.3g}", _regularize(seen))


def generator_starves(seen: History) -> Diagnosis | None:
    """Nothing comes through D that G could learn from."""
    now, other = seen.recent("gradient/generator"), seen.recent("gradient/discriminator")
    if not (now < STARVED or now < STARVED_SHARE * other):
        return None
    flat = abs(seen.recent("score/real") - seen.recent("score/fake")) < FOOLED
    r1 = seen.config.penalty.r1
    advice = f"try --penalty.r1 {r1 / 10:g} --penalty.r2 {r1 / 10:g}" if r1 and flat else _slower(seen)
    return Diagnosis(seen.step, f"gradient/generator {now:.2g}, gradient/discriminator {other:.2g}", advice)


def oscillates(seen: History) -> Diagnosis | None:
    """G's loss swings to and fro, not just one way. D's always does where D is ahead, being near 0 then."""
    losses = [loss for loss in seen.windows("loss/generator") if not math.isnan(loss)]
    if len(losses) < 2 * RECENT:
        return None
    low, high = sorted(losses)[3], sorted(losses)[-4]  # the three lowest and the three highest may be accidents
    swing, middle, usual = (high - low) / 2, (high + low) / 2, median(map(abs, losses))
    sides = [loss > middle for loss in losses if abs(loss - middle) > swing / 2]
    turns = sum(side != after for side, after in pairwise(sides))
    if swing < SWINGING * usual or turns < TURNS:
        return None
    evidence = (
        f"loss/generator {usual:.3g}, give or take {swing:.3g}; to and fro {turns} times in {len(losses)} windows"
    )
    return Diagnosis(seen.step, evidence, _slower(seen))


def mode_collapse(seen: History) -> Diagnosis | None:
    """The images resemble each other far more than real ones do, show few of the classes, or are like hardly any real
    image, as noise is."""
    said = far_from_real(seen.evaluation, seen.floor)
    return Diagnosis(seen.evaluation["step"], said, _regularize(seen)) if said else None


def far_from_real(evaluation: Row, floor: Mapping[str, float]) -> str:
    """The figures of an evaluation that no good generator has; empty if it has none of them."""
    said, name = [], "diversity/features"
    if figure(evaluation, name) < COLLAPSED_DIVERSITY * figure(floor, name):
        said.append(f"{name} {figure(evaluation, name):.3g}, of real images {floor[name]:.3g}")
    coverage, enough = figure(evaluation, "coverage"), figure(evaluation, "count") >= LEAST_COUNT
    if enough and coverage < UNCOVERED * figure(floor, "coverage"):
        said.append(f"coverage {coverage:.3f}, of real images {floor['coverage']:.3f}")
    uneven = figure(evaluation, "classes/from_uniform")
    if uneven - figure({"classes/from_uniform": 0, **floor}, "classes/from_uniform") > COLLAPSED_CLASSES:
        share, label = max(((share, label) for label, share in _shares(evaluation).items()), default=(1, "?"))
        said.append(f"{share:.0%} of the images show class {label}, classes/from_uniform {uneven:.2f}")
    return "; ".join(said)


def missing_digits(seen: History) -> Diagnosis | None:
    """Classes that hardly ever come, or that the data lacks: those a G that isn't good yet seems to make by mistake."""
    shares, real = _shares(seen.evaluation), _shares(seen.floor)
    lacking = [label for label in shares if real.get(label, 1) < MISSING / len(shares)]
    missing = [label for label in shares if shares[label] < MISSING / len(shares)]
    if not (lacking or missing) or seen.image("count") < LEAST_COUNT:
        return None
    if lacking:
        evidence = ", ".join(f"class {label} {real[label]:.1%}" for label in lacking) + " of the real images"
        return Diagnosis(seen.evaluation["step"], evidence, "see what --data.root holds")
    evidence = ", ".join(f"class {label} {shares[label]:.1%}" for label in missing) + " of the images"
    penalized = seen.config.penalty.r1 and seen.config.penalty.r2
    advice = f"try --train.epochs {2 * seen.config.train.epochs}" if penalized else _regularize(seen)
    return Diagnosis(seen.evaluation["step"], evidence, advice)


def discriminator_memorizes(seen: History) -> Diagnosis | None:
    """D tells training images from held-out ones, and better than at first: it learns them by heart."""
    train, held_out = seen.image("score/train"), seen.image("score/held_out")
    first = figure(seen.first_evaluation, "score/train") - figure(seen.first_evaluation, "score/held_out")
    growing = seen.first_evaluation is seen.evaluation or train - held_out > first
    if not (train - held_out > MEMORIZED and growing):
        return None
    advice = f"more images, or try --penalty.r1 {4 * seen.config.penalty.r1 or 5:g}"
    return Diagnosis(seen.evaluation["step"], f"score/train {train:.2f}, score/held_out {held_out:.2f}", advice)


def generator_copies(seen: History) -> Diagnosis | None:
    """Generated images are nearer to training images than held-out images of their classes are."""
    ratio = seen.image("nearest/ratio")
    if not ratio < COPIED:
        return None
    advice = f"more images, or try --model.hidden-dim {max(seen.config.model.hidden_dim // 2, 1)}"
    return Diagnosis(seen.evaluation["step"], f"nearest/ratio {ratio:.2f}: training images come again", advice)


# Causes before what may follow from them.
FINDINGS: dict[str, Callable[[History], Diagnosis | None]] = {
    "not-finite": not_finite,
    "diverges": diverges,
    "discriminator-fooled": discriminator_fooled,
    "discriminator-overpowers": discriminator_overpowers,
    "generator-starves": generator_starves,
    "oscillates": oscillates,
    "mode-collapse": mode_collapse,
    "missing-digits": missing_digits,
    "discriminator-memorizes": discriminator_memorizes,
    "generator-copies": generator_copies,
}

# What goes without saying beside another finding: its advice would lead astray.
_IMAGES = ("mode-collapse", "missing-digits")
EXPLAINED = {
    "diverges": ("discriminator-fooled", "discriminator-overpowers", "generator-starves", "oscillates", *_IMAGES),
    "discriminator-fooled": _IMAGES,
    "generator-starves": ("oscillates", *_IMAGES),
    "mode-collapse": ("missing-digits",),
}


class Verdict(Enum):
    """What the doctor says of a run as a whole."""

    NOTHING_WRONG = "nothing wrong"
    SOMETHING_WRONG = "something is wrong"
    TOO_EARLY = "too early to tell"


@dataclass(frozen=True)
class DoctorReport:
    """What the doctor says of a run as it stands at its last row."""

    findings: list[Finding]
    """What is wrong with it."""
    missing: list[str]
    """What it takes to judge the rest; nothing if everything was judged."""
    so_far: str
    """What an evaluation shows that is too early to be judged, where no good generator's figures are like that."""

    @property
    def verdict(self) -> Verdict:
        if self.findings:
            return Verdict.SOMETHING_WRONG
        return Verdict.TOO_EARLY if self.missing else Verdict.NOTHING_WRONG


def diagnose(
    rows: Sequence[Row], evaluations: Sequence[Row], config: Config, floor: Mapping[str, float] | None = None
) -> DoctorReport:
    """What is wrong with a run as it stands at its last row, and what can't be judged yet.

    It looks at the newest windows and the first, so it takes as long for a long run as for a short one.

    Args:
        rows: the lines of metrics.jsonl so far, in order.
        evaluations: those of evaluations.jsonl, in order, with whatever figures there are.
        config: of the run.
        floor: the same figures of real images; without them less can be said.
    """
    floor, missing, so_far = floor or {}, [], ""
    if steps := steps_missing(rows, config):
        missing.append(f"{steps:,} more steps")
    judged = [row for row in evaluations if row["step"] >= FIRST_STEP]
    if not judged:
        resumed = (
            "" if config.evaluate.every_epochs else " (this run makes none: resume it with --evaluate.every-epochs)"
        )
        missing.append(f"an evaluation at step {FIRST_STEP:,} or later{resumed}")
        if evaluations and (far := far_from_real(evaluations[-1], floor)):
            so_far = f"the images of step {evaluations[-1]['step']:,} are far from real ones: {far}"
    elif math.isnan(figure(floor, "diversity/features")):
        missing.append("the figures of real images, which an evaluation leaves in floor.json")
    return DoctorReport(_findings(rows, judged, config, floor), missing, so_far)


def examine(
    rows: Sequence[Row], evaluations: Sequence[Row], config: Config, floor: Mapping[str, float] | None = None
) -> list[Finding]:
    """The findings of `diagnose`; none where a good run's figures look the same, which may be because it is early."""
    return diagnose(rows, evaluations, config, floor).findings


def _findings(rows: Sequence[Row], judged: Sequence[Row], config: Config, floor: Mapping[str, float]) -> list[Finding]:
    first, newest = (judged[0], judged[-1]) if judged else ({}, {})
    seen = History(rows, newest, first, config, floor)
    said = {name: finding(seen) for name, finding in FINDINGS.items()}
    explained = {other for name, others in EXPLAINED.items() if said[name] for other in others}
    return [Finding(name, *what) for name, what in said.items() if what and name not in explained]


def _shares(row: Row) -> dict[str, float]:
    """Class -> its share of the images, as far as it is known."""
    head = "classes/"
    shares = {n.removeprefix(head): figure(row, n) for n in row if n.startswith(head) and n != "classes/from_uniform"}
    return {label: share for label, share in shares.items() if not math.isnan(share)}


def _scores(seen: History) -> str:
    return f"score/real {seen.recent('score/real'):.2f}, score/fake {seen.recent('score/fake'):.2f}"


def _slower(seen: History) -> str:
    return f"try --optimizer.learning-rate {seen.config.optimizer.learning_rate / 10:.1g}"


def _regularize(seen: History) -> str:
    """What keeps D from running ahead of G (Huang et al. 2024, arXiv:2501.05441)."""
    penalty = seen.config.penalty
    if penalty.r1 and penalty.r2:
        return f"try --penalty.r1 {4 * penalty.r1:g} --penalty.r2 {4 * penalty.r2:g}"
    return "try the preset r3: --train.loss relativistic --penalty.r1 3 --penalty.r2 3"
