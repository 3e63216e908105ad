"""What changes in the course of a run: the learning rate, and the weight of R1 and R2."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from gan_dist.trainer.schedule import Schedule


def round_to_float32(number: float) -> float:
    """As a float32 tensor holds it: the fused optimizers compute with a learning rate in double precision."""
    return float(torch.tensor(number, dtype=torch.float32))


class Hyperparameters:
    """Sets both before each step, as functions of the step: there is nothing to save.

    Args:
        schedule: says what they are.
        generator, discriminator: optimizers of one group of parameters. A learning rate that is a tensor is changed in
            place, so that a CUDA graph reads it.
        factor: of the gammas; changed in place.
    """

    def __init__(
        self, schedule: Schedule, generator: Optimizer, discriminator: Optimizer, factor: Float[Tensor, ""]
    ) -> None:
        self.schedule = schedule
        multiple = schedule.config.optimizer.generator_factor
        self.optimizers = ((generator, multiple), (discriminator, 1.0))
        self.factor = factor

    def set(self, step: int) -> None:
        """Make ready for step `step` (from 1)."""
        if self.schedule.constant:
            return
        rate = self.schedule.learning_rate(step)
        for optimizer, multiple in self.optimizers:
            group = optimizer.param_groups[0]  # another one after a checkpoint was loaded
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate * multiple)
            else:
                group["lr"] = round_to_float32(rate * multiple)
        self.factor.fill_(self.schedule.penalty_factor(step))
