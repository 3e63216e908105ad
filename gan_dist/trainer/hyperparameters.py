"""Numbers that change during a run: the learning rates, the weight of R1 and R2, and that of the average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from gan_dist.data.batch import pinned_for
from gan_dist.models.average import GeneratorAverage
from gan_dist.trainer.schedule import Schedule

TABLE = 64  # steps whose numbers are copied to the device at once


def round_to_float32(number: float) -> float:
    """Round a number as a float32 tensor does; the fused optimizers take a Python float in double precision."""
    return float(torch.tensor(number, dtype=torch.float32))


@runtime_checkable
class Hyperparameters(Protocol):
    """Sets the numbers of each step. They are functions of the step, so there is no state to save."""

    average_weight: float | Float[Tensor, ""]
    """The current step's weight of the generator's average."""

    def set(self, step: int) -> None:
        """Choose the step (from 1), on the host."""

    def apply(self) -> None:
        """Set the numbers, on the device."""


@dataclass(eq=False)
class StepNumbers:
    """What the numbers of each step are, and what they change.

    Args:
        schedule: defines their values.
        generator, discriminator: optimizers with one parameter group.
        factor: multiplier of the gammas; changed in place.
        ema: defines the average's weight.
    """

    schedule: Schedule
    generator: Optimizer
    discriminator: Optimizer
    factor: Float[Tensor, ""]
    ema: GeneratorAverage
    average_weight: float | Float[Tensor, ""] = field(default=1.0, init=False)

    @property
    def optimizers(self) -> tuple[Optimizer, Optimizer]:
        """In the order of their rates in `at`."""
        return self.generator, self.discriminator

    def at(self, step: int) -> tuple[float, float, float, float]:
        """The generator's rate, the discriminator's, the factor of the gammas, and the average's weight."""
        rate, multiple = self.schedule.learning_rate(step), self.schedule.config.optimizer.generator_factor
        return rate * multiple, rate, self.schedule.penalty_factor(step), self.ema.weight(step)

    def _set_host_rates(self, rates: Sequence[float]) -> None:
        """Set the learning rates, except those that are tensors on the device."""
        for optimizer, rate in zip(self.optimizers, rates, strict=True):
            group = optimizer.param_groups[0]  # loading replaces it
            if not isinstance(group["lr"], Tensor):
                group["lr"] = round_to_float32(rate)


class HostNumbers(StepNumbers):
    """The host sets all numbers before the step. Arguments as in `StepNumbers`."""

    def set(self, step: int) -> None:
        *rates, factor, self.average_weight = self.at(step)
        if not self.schedule.constant:
            self._set_host_rates(rates)
            self.factor.fill_(factor)

    def apply(self) -> None:
        pass


@dataclass(eq=False)
class DeviceNumbers(StepNumbers):
    """The numbers of the next steps are a table on the device, from which each step takes a row.

    For steps that are replayed as a CUDA graph: the host copies a table every TABLE steps. Learning rates that change
    are tensors, which are changed in place.

    Args:
        device: of the networks. The others are as in `StepNumbers`.
    """

    device: torch.device

    def __post_init__(self) -> None:
        self._table = torch.zeros(TABLE, len(self.at(1)), device=self.device)
        self._row = torch.zeros(1, dtype=torch.int64, device=self.device)  # of the next step
        self._current = torch.zeros(1, self._table.shape[1], device=self.device)
        self.average_weight = self._current[0, -1]
        self._steps = range(0)
        """The steps whose numbers are on the device and are still to come."""

    def set(self, step: int) -> None:
        if not self._steps or step != self._steps[0]:  # the end of the table, a resume, or a rollback
            self._steps = range(step, step + TABLE)
            table = torch.tensor([self.at(each) for each in self._steps], dtype=torch.float32)
            self._table.copy_(pinned_for(self.device, table), non_blocking=True)
            self._row.zero_()
            if not self.schedule.constant:  # if only the gammas change, the rates are still numbers of the host
                self._set_host_rates(self.at(step)[:2])
        self._steps = self._steps[1:]

    def apply(self) -> None:
        torch.index_select(self._table, 0, self._row, out=self._current)
        self._row.add_(1)
        if self.schedule.constant:
            return
        *rates, factor, _ = self._current[0].unbind()
        for optimizer, rate in zip(self.optimizers, rates, strict=True):
            own = optimizer.param_groups[0]["lr"]
            if isinstance(own, Tensor):
                own.copy_(rate)
        self.factor.copy_(factor)
