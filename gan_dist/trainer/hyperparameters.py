"""Hyperparameters that change during a run: the learning rate, and the weight of R1 and R2."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from gan_dist.trainer.schedule import Schedule


def round_to_float32(number: float) -> float:
    """Round a number as a float32 tensor does; the fused optimizers take a Python float in double precision."""
    return float(torch.tensor(number, dtype=torch.float32))


class Hyperparameters:
    """Sets the hyperparameters before each step. They are functions of the step, so there is no state to save.

    Args:
        schedule: defines their values.
        generator, discriminator: optimizers with one parameter group. A learning rate that is a tensor is changed in
            place, so that a CUDA graph reads the new value.
        factor: multiplier of the gammas; changed in place.
    """

    def __init__(
        self, schedule: Schedule, generator: Optimizer, discriminator: Optimizer, factor: Float[Tensor, ""]
    ) -> None:
        self.schedule = schedule
        multiple = schedule.config.optimizer.generator_factor
        self.optimizers = ((generator, multiple), (discriminator, 1.0))
        self.factor = factor

    def set(self, step: int) -> None:
        """Set the values of step `step` (from 1)."""
        if self.schedule.constant:
            return
        rate = self.schedule.learning_rate(step)
        for optimizer, multiple in self.optimizers:
            group = optimizer.param_groups[0]  # loading a checkpoint replaces it
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate * multiple)
            else:
                group["lr"] = round_to_float32(rate * multiple)
        self.factor.fill_(self.schedule.penalty_factor(step))
