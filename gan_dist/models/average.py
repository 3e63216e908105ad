"""The running average of the generator, which generates better images than the generator of any single step."""

from __future__ import annotations

import copy
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from gan_dist.config import EmaConfig


@runtime_checkable
class GeneratorAverage(Protocol):
    """The generator that is sampled, evaluated and exported."""

    network: nn.Module

    def weight(self, step: int) -> float:
        """How far step `step` (from 1) moves the average towards the trained generator, as a part of the distance."""

    def update(self, weight: float | Float[Tensor, ""]) -> None:
        """Include the weights of the trained generator.

        Args:
            weight: of the step; a tensor if a CUDA graph contains the call. Both give the same bits.
        """


class NoAverage:
    """No average: the trained generator itself is used."""

    def __init__(self, generator: nn.Module) -> None:
        self.network = generator

    def weight(self, step: int) -> float:
        return 1.0

    def update(self, weight: float | Float[Tensor, ""]) -> None:
        pass


class Average:
    """An exponential moving average of the generator's weights (Yazici et al. 2018, arXiv:1806.04498).

    Each step moves the average towards the trained generator by 1 - 2^(-batch_size / half_life). The half-life is in
    images, so it is independent of the batch size. At the beginning it is a fraction of the images seen so far (Karras
    et al. 2020, arXiv:2006.06676, `ema_rampup`). It is a function of the step, so only the weights are saved.

    Args:
        generator: the trained generator.
        weights: all weights of the generator; its parameters are views of this vector.
        half_life: in images, above 0.
        warm_up: upper bound of the half-life, as a fraction of the images seen so far, above 0.
        batch_size: images per step.
    """

    # torch's AveragedModel takes 3 times as long, has a buffer, and copies the weights in its first update.
    def __init__(
        self,
        generator: nn.Module,
        weights: Float[Tensor, " weights"],
        half_life: float,
        warm_up: float,
        batch_size: int,
    ) -> None:
        self.network = copy.deepcopy(generator).requires_grad_(False)
        self.half_life = half_life
        self.warm_up = warm_up
        self.batch_size = batch_size
        self._trained = weights.detach()
        self._average = self._trained.clone()
        parameters = list(self.network.parameters())
        parts = self._average.split([parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.data = part.view_as(parameter)

    def weight(self, step: int) -> float:
        half_life = min(self.half_life, self.warm_up * step * self.batch_size)
        return 1 - 0.5 ** (self.batch_size / half_life)

    def update(self, weight: float | Float[Tensor, ""]) -> None:
        self._average.lerp_(self._trained, weight)


def make_average(
    config: EmaConfig, generator: nn.Module, weights: Float[Tensor, " weights"], batch_size: int
) -> GeneratorAverage:
    """The average of a configuration. For the arguments, see `Average`."""
    if config.half_life is None:
        return NoAverage(generator)
    return Average(generator, weights, config.half_life, config.warm_up, batch_size)
