"""What happens after which step: pure arithmetic, so every rank gives the same answer."""

from __future__ import annotations

from dataclasses import dataclass

from gan_dist.config import Config


@dataclass(frozen=True)
class At:
    """What is due after a step."""

    log: bool
    hashes: bool
    sample: bool
    checkpoint: bool
    stop: bool
    """The run ends here: it has all its steps, or was asked to stop."""


class Schedule:
    """When a run logs, samples, saves and ends.

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
        """Passes over the data set after `step` steps; a whole number where one ends exactly there."""
        return self.images_seen(step) / self.dataset_size

    def epochs_completed(self, step: int) -> int:
        return self.images_seen(step) // self.dataset_size

    def at(self, step: int, stop_requested: bool) -> At:
        """What is due after step `step` (from 1)."""
        epoch = self.epochs_completed(step)
        epoch_ends = epoch > self.epochs_completed(step - 1)
        every = self.config.checkpoint.every_steps
        hashes = self.config.train.log_hashes
        last = step == self.total_steps
        return At(
            log=last or step % self.config.log.every_steps == 0,
            hashes=hashes is not None and step % hashes == 0,
            sample=epoch_ends and epoch % self.config.samples.every_epochs == 0,
            checkpoint=last or stop_requested or (epoch_ends if every is None else step % every == 0),
            stop=last or stop_requested,
        )
