"""Figures with confidence intervals, and the fixed random subsets from which they are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from gan_dist.seeding import generator_for

RESAMPLES = 30  # bootstrap samples per figure


@dataclass(frozen=True)
class Estimate:
    """The value of a figure and its 95 % confidence interval."""

    value: float
    low: float
    high: float


Figures = dict[str, Estimate]


def subset_indices(
    count: int, limit: int, purpose: str, device: torch.device | None = None
) -> Int64[Tensor, " selected"]:
    """Indices of min(count, limit) of `count` rows, drawn without replacement, since data sets may be sorted.

    The same arguments give the same indices.
    """
    return torch.randperm(count, generator=generator_for(0, f"evaluation/{purpose}"))[:limit].to(device)


def bootstrap_indices(count: int, device: torch.device) -> Int64[Tensor, "resamples count"]:
    """Indices of RESAMPLES bootstrap samples, each of `count` rows drawn with replacement."""
    return torch.randint(count, (RESAMPLES, count), generator=generator_for(0, "evaluation/bootstrap")).to(device)


def standard_deviation(values: Sequence[float]) -> float:
    """The standard deviation of a figure over bootstrap samples (Efron & Tibshirani 1993, chapter 6).

    Quantiles are not used: 30 samples are too few for them, and the duplicates in each sample increase distances.
    """
    return torch.tensor(values, dtype=torch.float64).std().item()


def confidence_interval(value: float, deviation: float, lowest: float = 0.0, highest: float = float("inf")) -> Estimate:
    """The value with ±1.96 standard deviations, clipped to the figure's range [lowest, highest]."""
    return Estimate(value, max(value - 1.96 * deviation, lowest), min(value + 1.96 * deviation, highest))


def proportion(members: Bool[Tensor, " n"]) -> Estimate:
    """The share of True, with the interval to which the bootstrap of a mean converges."""
    return share_of(members.double().mean().item(), len(members))


def share_of(value: float, count: int) -> Estimate:
    """As `proportion`, of a share that was measured on `count` members."""
    return confidence_interval(value, (value * (1 - value) / count) ** 0.5, highest=1.0)


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of independent figures without upper bounds."""
    mean = sum(estimate.value for estimate in estimates) / len(estimates)
    width = sum((estimate.high - estimate.value) ** 2 for estimate in estimates) ** 0.5 / len(estimates)
    return Estimate(mean, max(mean - width, 0.0), mean + width)
