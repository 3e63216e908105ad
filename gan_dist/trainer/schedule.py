"""Which actions are due after which step: pure arithmetic, so all ranks agree."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gan_dist.config import Config

ADAPT_STEPS = 100  # between two changes of an adaptive probability: as log points by default, so no further waits


@dataclass(frozen=True)
class At:
    """Actions that are due after a step."""

    log: bool
    adapt: bool
    hashes: bool
    sample: bool
    evaluate: bool
    checkpoint: bool
    stop: bool
    """The run ends: it is complete, or a stop was requested."""

    @property
    def anything(self) -> bool:
        """Whether any action is due. Only then does the host wait for the end of the step on the device."""
        return self.log or self.adapt or self.hashes or self.sample or self.evaluate or self.checkpoint or self.stop


class Schedule:
    """When a run logs, samples, evaluates, saves and ends.

    Args:
        config: the intervals.
        dataset_size: images in an epoch.
    """

    def __init__(self, config: Config, dataset_size: int) -> None:
        self.config = config
        self.dataset_size = dataset_size
        whole = -(-config.train.epochs * dataset_size // config.train.batch_size)  # rounded up
        self.total_steps = min(whole, config.train.steps or whole)

    def images_seen(self, step: int) -> int:
        return step * self.config.train.batch_size

    def epoch(self, step: int) -> float:
        """Passes over the data set after `step` steps; an integer where an epoch ends."""
        return self.images_seen(step) / self.dataset_size

    def learning_rate(self, step: int) -> float:
        """The discriminator's learning rate in step `step` (from 1): half a cosine from initial to final value."""
        first, final = self.config.optimizer.learning_rate, self.config.optimizer.final_learning_rate
        if final is None:
            return first
        done = min(self.images_seen(step - 1) / self.config.optimizer.decay_images, 1.0)
        return final + (first - final) * (1 + math.cos(math.pi * done)) / 2

    def penalty_factor(self, step: int) -> float:
        """The multiplier of the gammas of R1 and R2 in step `step` (from 1), which changes exponentially."""
        done = min(self.images_seen(step - 1) / self.config.penalty.decay_images, 1.0)
        return self.config.penalty.final_factor**done

    @property
    def constant(self) -> bool:
        """Whether the learning rate and the penalty factor never change."""
        return self.config.optimizer.final_learning_rate is None and self.config.penalty.final_factor == 1

    def step_after(self, epoch: int) -> int:
        """The step that completes an epoch."""
        return -(-epoch * self.dataset_size // self.config.train.batch_size)

    def epochs_completed(self, step: int) -> int:
        return self.images_seen(step) // self.dataset_size

    def at(self, step: int, stop_requested: bool) -> At:
        """The actions that are due after step `step` (from 1)."""
        epoch = self.epochs_completed(step)
        epoch_ends = epoch > self.epochs_completed(step - 1)
        hashes, evaluate = self.config.train.log_hashes, self.config.evaluate.every_epochs
        last = step == self.total_steps
        return At(
            log=last or self.ends_window(step),
            adapt=self.config.augment.target is not None and step % ADAPT_STEPS == 0,
            hashes=hashes is not None and step % hashes == 0,
            sample=epoch_ends and epoch % self.config.samples.every_epochs == 0,
            evaluate=evaluate is not None and epoch_ends and epoch % evaluate == 0,
            checkpoint=last or stop_requested or self._checkpoints_due(step) > self._checkpoints_due(step - 1),
            stop=last or stop_requested,
        )

    def ends_window(self, step: int) -> bool:
        """Whether a step is the last one of a log window. The last step of a run may be inside one."""
        return step % self.config.log.every_steps == 0

    def evaluations_after(self, step: int) -> int:
        """Number of evaluations that are due after step `step`."""
        every = self.config.evaluate.every_epochs
        if every is None:
            return 0
        return self.epochs_completed(self.total_steps) // every - self.epochs_completed(step) // every

    def is_permanent(self, step: int) -> bool:
        """Whether the checkpoint of a step is kept permanently: every N-th scheduled one is."""
        every, due = self.config.checkpoint.keep_every, self._checkpoints_due(step)
        return every is not None and due > self._checkpoints_due(step - 1) and due % every == 0

    def _checkpoints_due(self, step: int) -> int:
        every = self.config.checkpoint.every_steps
        return self.epochs_completed(step) if every is None else step // every
