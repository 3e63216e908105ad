"""Problems that the metrics of the training show, from metrics.jsonl.

The figures quoted at thresholds are from runs on MNIST of one to two minutes.
"""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import median

from gan_dist.evaluation.diagnosis import Diagnosis, lower_learning_rate, regularize
from gan_dist.evaluation.history import RECENT, History, figure, rows_per_window

# Multiple of the loss for random guessing. A D that is always wrong reaches 2; with the learning rate x 30: 9 to 600.
DIVERGED_LOSS = 5.0
DIVERGED_GROWTH = 30.0  # since the first window. Good runs: up to 4; Wasserstein without a penalty: 1e3 to 1e6.
# Fraction of the loss for random guessing: with bce, scores of 0.95 and 0.05. Good runs: 0.7 and more; without R1 and
# R2: 0.03.
OVERPOWERED = 0.15
FALLING = 0.9  # G's loss relative to the previous windows: below this, G is catching up
FOOLED = 0.1  # score/fake minus score/real. A D that learns: at most 0; one that is frozen: 0.22 to 0.44.
STARVED = 1e-5  # Adam adds 1e-8 to the size of each of about 2e5 numbers: a smaller norm has no effect
STARVED_SHARE = 1e-4  # of D's gradient. Good runs: 0.03 and more; with R1 and R2 of gamma 1e5: 7e-5, of 1e7: 4e-7.
OSCILLATING = 0.5  # amplitude as a fraction of the loss. Good runs: up to 0.2, the seed: 0.26; learning rate x 30: 1.1.
CROSSINGS = 3  # of the middle, in 20 windows. A trend or a new level: one; a curve that bends: two.


def not_finite(history: History) -> Diagnosis | None:
    """Losses or gradients are not finite: a recent row has no finite value, or updates were skipped."""
    rows = history.rows[-RECENT * rows_per_window(history.config) :]
    lost = sorted({name for row in rows for name in row if math.isnan(figure(row, name))})
    skipped = figure(rows[-1], "updates_skipped") - figure(rows[0], "updates_skipped") if rows else 0
    if not (lost or skipped > 0):
        return None
    evidence = (
        f"no finite {', '.join(lost)} in at least one row" if lost else f"{skipped:.0f} updates with NaN or infinity"
    )
    half = history.config.train.mixed_precision in ("bf16", "fp16")
    advice = "try --train.mixed-precision no" if half else lower_learning_rate(history)
    return Diagnosis(rows[-1]["step"], f"{evidence} since step {rows[0]['step']:,}", advice)


def diverges(history: History) -> Diagnosis | None:
    """D's loss is larger than wrong predictions explain, or a penalty or G's gradient (D's slope) has grown greatly."""
    loss, penalty, evidence = history.recent("loss/discriminator"), history.config.penalty, []
    if loss > DIVERGED_LOSS * history.chance_loss:
        evidence.append(f"loss/discriminator {loss:.3g} (random guessing: {history.chance_loss:.2g})")
    for name in ("gradient/generator", "penalty/r1", "penalty/r2", "penalty/gradient"):
        initial, recent = history.initial(name), history.recent(name)
        # If their gammas decrease, R1 and R2 are expected to grow: in the preset r3 from 0.006 to 0.26.
        expected = min(penalty.final_factor, 1) if name in ("penalty/r1", "penalty/r2") else 1
        if recent * expected > DIVERGED_GROWTH * initial > 0:
            evidence.append(f"{name} {recent:.3g} (initially {initial:.3g})")
    unbounded = history.config.train.loss == "wasserstein" and not penalty.gradient
    advice = "try --penalty.gradient 10" if unbounded else lower_learning_rate(history)
    return Diagnosis(history.step, "; ".join(evidence), advice) if evidence else None


def discriminator_fooled(history: History) -> Diagnosis | None:
    """D rates generated images higher than real ones: it does not learn."""
    if not history.recent("score/fake") - history.recent("score/real") > FOOLED:
        return None
    advice = f"check that D's weights change (--train.log-hashes 100); if they do, {lower_learning_rate(history)}"
    return Diagnosis(history.step, f"{_scores(history)}, worse than random guessing", advice)


def discriminator_overpowers(history: History) -> Diagnosis | None:
    """D is almost always right, and G is not catching up (Arjovsky and Bottou 2017, arXiv:1701.04862).

    Not reported for the Wasserstein loss, whose critic should be ahead.
    """
    loss, recent = history.recent("loss/discriminator"), history.recent("loss/generator")
    previous = history.previous("loss/generator")
    if not (loss < OVERPOWERED * history.chance_loss and recent > FALLING * previous):
        return None
    evidence = (
        f"loss/discriminator {loss:.2g} (random guessing: {history.chance_loss:.2g}); {_scores(history)}; "
        f"loss/generator {recent:.3g} (previously {previous:.3g})"
    )
    return Diagnosis(history.step, evidence, regularize(history))


def generator_starves(history: History) -> Diagnosis | None:
    """The gradient that G receives through D is too small to learn from."""
    generator, discriminator = history.recent("gradient/generator"), history.recent("gradient/discriminator")
    if not (generator < STARVED or generator < STARVED_SHARE * discriminator):
        return None
    flat = abs(history.recent("score/real") - history.recent("score/fake")) < FOOLED
    r1 = history.config.penalty.r1
    advice = f"try --penalty.r1 {r1 / 10:g} --penalty.r2 {r1 / 10:g}" if r1 and flat else lower_learning_rate(history)
    evidence = f"gradient/generator {generator:.2g}, gradient/discriminator {discriminator:.2g}"
    return Diagnosis(history.step, evidence, advice)


def oscillates(history: History) -> Diagnosis | None:
    """G's loss oscillates. D's is not considered: near 0, where it is if D is ahead, it always does."""
    losses = [loss for loss in history.windows("loss/generator") if not math.isnan(loss)]
    if len(losses) < 2 * RECENT:
        return None
    low, high = sorted(losses)[3], sorted(losses)[-4]  # the three lowest and the three highest may be outliers
    amplitude, middle, usual = (high - low) / 2, (high + low) / 2, median(map(abs, losses))
    above = [loss > middle for loss in losses if abs(loss - middle) > amplitude / 2]
    crossings = sum(side != following for side, following in pairwise(above))
    if amplitude < OSCILLATING * usual or crossings < CROSSINGS:
        return None
    crossed = f"{crossings} crossings of the middle in {len(losses)} windows"
    evidence = f"loss/generator {usual:.3g} ± {amplitude:.3g}; {crossed}"
    return Diagnosis(history.step, evidence, lower_learning_rate(history))


def _scores(history: History) -> str:
    return f"score/real {history.recent('score/real'):.2f}, score/fake {history.recent('score/fake'):.2f}"
