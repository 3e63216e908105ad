"""The generator's running average, which makes better images than the generator of any one step."""

from __future__ import annotations

import copy
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from gan_dist.config import EmaConfig


@runtime_checkable
class GeneratorAverage(Protocol):
    """The generator that is sampled, evaluated and exported."""

    network: nn.Module

    def update(self, step: int) -> None:
        """Take in the trained generator as it is after `step` steps."""


class NoAverage:
    """No average: the generator to use is the one that is trained."""

    def __init__(self, generator: nn.Module) -> None:
        self.network = generator

    def update(self, step: int) -> None:
        pass


class Average:
    """An exponential moving average of the generator's weights (Yazici et al. 2018, arXiv:1806.04498).

    Each step moves it towards the trained generator by 1 - 2^(-batch / half-life), the half-life counted in images so
    that it means the same at every batch size; while the run is young it is a share of the images seen so far
    (Karras et al. 2020, arXiv:2006.06676, their `ema_rampup`). A function of the step: nothing but the weights needs
    to be saved.

    Args:
        generator: the one that is trained.
        half_life: in images (> 0).
        warm_up: the half-life is at most this share of the images seen (> 0).
        batch_size: images of a step.
    """

    def __init__(self, generator: nn.Module, half_life: float, warm_up: float, batch_size: int) -> None:
        self.network = copy.deepcopy(generator).requires_grad_(False)
        self.half_life = half_life
        self.warm_up = warm_up
        self.batch_size = batch_size
        self._average = [parameter.detach() for parameter in self.network.parameters()]
        self._trained = [parameter.detach() for parameter in generator.parameters()]

    def update(self, step: int) -> None:
        half_life = min(self.half_life, self.warm_up * step * self.batch_size)
        torch._foreach_lerp_(self._average, self._trained, 1 - 0.5 ** (self.batch_size / half_life))


def make_average(config: EmaConfig, generator: nn.Module, batch_size: int) -> GeneratorAverage:
    """What the configuration wants: an average, or the trained generator itself."""
    if config.half_life is None:
        return NoAverage(generator)
    return Average(generator, config.half_life, config.warm_up, batch_size)
