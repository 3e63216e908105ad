"""What a finding function returns, and the advice that several of them give."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from gan_dist.config.rules import SAFE_PROBABILITY
from gan_dist.evaluation.history import History


class Diagnosis(NamedTuple):
    """Evidence of a problem, and advice."""

    step: int
    """The step of the figures."""
    evidence: str
    """One line with the figures."""
    advice: str
    """One thing to try, with its flag. Most advice is for a new run, since a resumed run keeps its configuration."""


FindingFunction = Callable[[History], Diagnosis | None]
"""Looks for one problem in the history of a run; None if the run does not have it."""


def lower_learning_rate(history: History) -> str:
    return f"try --optimizer.learning-rate {history.config.optimizer.learning_rate / 10:.1g}"


def augment_or(history: History, otherwise: str) -> str:
    """More augmentation, which keeps D from recognizing single images (Karras et al. 2020, arXiv:2006.06676).

    Args:
        history: of the run.
        otherwise: the advice if there cannot be more.
    """
    augment = history.config.augment
    if augment.target is not None:
        return f"try --augment.target {augment.target / 2:g}" if augment.target else otherwise
    if not augment.on:
        return "try --augment.target 0.5"
    if augment.probability >= SAFE_PROBABILITY:
        return otherwise
    return f"try --augment.probability {min(2 * augment.probability, SAFE_PROBABILITY):g}"


def regularize(history: History) -> str:
    """R1 and R2 keep D from getting ahead of G (Huang et al. 2024, arXiv:2501.05441)."""
    penalty = history.config.penalty
    if penalty.r1 and penalty.r2:
        return f"try --penalty.r1 {4 * penalty.r1:g} --penalty.r2 {4 * penalty.r2:g}"
    return "try the preset r3: --train.loss relativistic --penalty.r1 3 --penalty.r2 3"
