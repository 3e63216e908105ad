"""Problems that the generated images show, from evaluations.jsonl.

The figures quoted at thresholds are from runs on MNIST of one to two minutes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from gan_dist.config.rules import is_any_size
from gan_dist.evaluation.classes import MAX_SHARES
from gan_dist.evaluation.diagnosis import Diagnosis, augment_or, regularize
from gan_dist.evaluation.history import History, Row, figure

COLLAPSED_DIVERSITY = 0.3  # fraction of the real images'. Good runs: 0.48 and more; the seed's after 10 epochs: 0.18.
COLLAPSED_CLASSES = 0.5  # share of images that would have to change their class. Good runs: up to 0.25.
# Fraction of the real images' coverage. Good runs: 0.14 after 600 steps, 0.55 after 1,800; noise: 0.0003 to 0.007,
# although its precision can be 1 and its density 2.3 if all of it lies in the ball of one outlier.
UNCOVERED = 0.05
MISSING = 0.1  # fraction of an equal share of a class. Good runs: 0.23 and more.
UNBALANCED = 2  # times an equal share: the largest class of balanced data has less. MNIST's: 1.12
DISOBEYED = 0.5  # fraction of the real images' share. Good runs: 0.8 and more.
MIN_EXPECTED = 10  # images of a class; of a rarer one, none may occur by chance
MIN_COUNT = 1000  # images; with fewer, shares and coverages as small as these are not reliable
# score/train minus score/held_out. By chance up to 0.07; on 60,000 images up to 0.15 within an hour, while the images
# keep improving; on 500 images 0.28 after 100,000 seen, 0.58 after 200,000.
MEMORIZED = 0.2
COPIED = 0.75  # nearest/ratio. Good runs: 0.98 and more; on 500 images 0.9, on 50 images 0.58, later 0.4.


def mode_collapse(history: History) -> Diagnosis | None:
    """The images are much less diverse than real ones, show few of the classes, or cover hardly any real image, as
    noise does."""
    evidence = far_from_real(history.evaluation, history.floor)
    return Diagnosis(history.evaluation["step"], evidence, regularize(history)) if evidence else None


def far_from_real(evaluation: Row, floor: Mapping[str, float]) -> str:
    """The figures of an evaluation that no good generator has; empty if there are none."""
    evidence, name = [], "diversity/features"
    if figure(evaluation, name) < COLLAPSED_DIVERSITY * figure(floor, name):
        evidence.append(f"{name} {figure(evaluation, name):.3g} (real images {floor[name]:.3g})")
    coverage, enough = figure(evaluation, "coverage"), figure(evaluation, "count") >= MIN_COUNT
    if enough and coverage < UNCOVERED * figure(floor, "coverage"):
        evidence.append(f"coverage {coverage:.3f} (real images {floor['coverage']:.3f})")
    uneven = figure(evaluation, "classes/from_uniform")
    added = uneven - figure({"classes/from_uniform": 0, **floor}, "classes/from_uniform")
    if max(added, _distance_if_unbalanced(evaluation, floor)) > COLLAPSED_CLASSES:
        share, label = max(((share, label) for label, share in _shares(evaluation).items()), default=(1, "?"))
        evidence.append(f"{share:.0%} of the images show class {label}, classes/from_uniform {uneven:.2f}")
    return "; ".join(evidence)


def _distance_if_unbalanced(evaluation: Row, floor: Mapping[str, float]) -> float:
    """The distance of the shares from those of real images, if these are far from equal: a collapse to one class then
    need not increase the distance from equal ones. Otherwise 0."""
    shares, real = _shares(evaluation), _shares(floor)
    if shares.keys() != real.keys() or _is_balanced(real):
        return 0.0
    return sum(abs(shares[label] - real[label]) for label in shares) / 2


def _is_balanced(real: Mapping[str, float]) -> bool:
    return max(real.values(), default=0) <= UNBALANCED / max(len(real), 1)


def missing_classes(history: History) -> Diagnosis | None:
    """Classes hardly ever occur: because the data lacks them, although G may produce some by mistake, or despite it."""
    shares, real = _shares(history.evaluation), _shares(history.floor)
    if not shares:
        return None
    equal, count = 1 / len(shares), history.evaluated("count")
    if is_any_size(history.config.data.name):
        # The classes of the user's own data need not be equally frequent: a rare one is not lacking, and is compared
        # with its own share.
        expected = {label: min(real.get(label, equal), equal) for label in shares}
        expected = {label: share for label, share in expected.items() if share * count >= MIN_EXPECTED}
        lacking = []
    else:
        expected = dict.fromkeys(shares, equal)
        lacking = [label for label in shares if real.get(label, 1) < MISSING * equal]
    missing = [label for label, share in expected.items() if shares[label] < MISSING * share]
    if not (lacking or missing) or count < MIN_COUNT:
        return None
    if lacking:
        evidence = (
            ", ".join(f"{history.describe_class(label)} {real[label]:.1%}" for label in lacking) + " of the real images"
        )
        return Diagnosis(history.evaluation["step"], evidence, "check the images in --data.root")
    evidence = ", ".join(f"{history.describe_class(label)} {shares[label]:.1%}" for label in missing) + " of the images"
    penalized = history.config.penalty.r1 and history.config.penalty.r2
    advice = f"try --train.epochs {2 * history.config.train.epochs}" if penalized else regularize(history)
    return Diagnosis(history.evaluation["step"], evidence, advice)


def class_not_obeyed(history: History) -> Diagnosis | None:
    """The images of a class are mostly of another one, so that asking for it is useless."""
    shares = _far_below_real(history, "asked/{}", DISOBEYED, ".0%")
    if not shares:
        return None
    evidence = f"images of the class that was asked for: {shares}"
    advice = f"check the labels of the data, or try --train.epochs {2 * history.config.train.epochs}"
    return Diagnosis(history.evaluation["step"], evidence, advice)


def class_collapse(history: History) -> Diagnosis | None:
    """The images of a class are much less diverse than real ones of this class."""
    diversities = _far_below_real(history, "within/{}/diversity", COLLAPSED_DIVERSITY, ".3g")
    if not diversities:
        return None
    return Diagnosis(history.evaluation["step"], f"diversity within {diversities}", regularize(history))


def discriminator_memorizes(history: History) -> Diagnosis | None:
    """D distinguishes training images from held-out ones, and better than at first: it memorizes them."""
    train, held_out = history.evaluated("score/train"), history.evaluated("score/held_out")
    first = figure(history.first_evaluation, "score/train") - figure(history.first_evaluation, "score/held_out")
    growing = history.first_evaluation is history.evaluation or train - held_out > first
    if not (train - held_out > MEMORIZED and growing):
        return None
    stronger = f"try --penalty.r1 {4 * history.config.penalty.r1 or 5:g}"
    advice = f"use more images, or {augment_or(history, stronger)}"
    return Diagnosis(history.evaluation["step"], f"score/train {train:.2f}, score/held_out {held_out:.2f}", advice)


def generator_copies(history: History) -> Diagnosis | None:
    """Generated images are nearer to training images than held-out images of their classes are."""
    ratio = history.evaluated("nearest/ratio")
    if not ratio < COPIED:
        return None
    smaller = f"try --model.hidden-dim {max(history.config.model.hidden_dim // 2, 1)}"
    advice = f"use more images, or {augment_or(history, smaller)}"
    return Diagnosis(history.evaluation["step"], f"nearest/ratio {ratio:.2f}: G reproduces training images", advice)


def _far_below_real(history: History, name: str, fraction: float, form: str) -> str:
    """The classes whose figure is below a fraction of that of real images of the class, with both; empty if none is.

    Args:
        history: of the run.
        name: as in `_of_classes`.
        fraction: of the real images' figure.
        form: the format of a figure.
    """
    found, real = (_of_classes(row, name) for row in (history.evaluation, history.floor))
    return ", ".join(
        f"{history.describe_class(label)} {value:{form}} (real images {real[label]:{form}})"
        for label, value in found.items()
        if value < fraction * real.get(label, math.nan)
    )


def _of_classes(row: Row, name: str) -> dict[str, float]:
    """Class -> its figure `name`, where {} is the number of the class, for all classes whose figure is known."""
    known = {label: figure(row, name.format(label)) for label in map(str, range(MAX_SHARES))}
    return {label: value for label, value in known.items() if not math.isnan(value)}


def _shares(row: Row) -> dict[str, float]:
    """Class -> its share of the images, for all classes whose share is known."""
    prefix = "classes/"
    names = [name for name in row if name.startswith(prefix) and name != "classes/from_uniform"]
    shares = {name.removeprefix(prefix): figure(row, name) for name in names}
    return {label: share for label, share in shares.items() if not math.isnan(share)}
