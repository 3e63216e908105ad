"""Limits how often a run writes grids, evaluates and saves, by the clock.

On a GPU an epoch of a small data set takes milliseconds: outputs after each would take longer than the training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from gan_dist.config import Config
from gan_dist.distributed.device_wait import Gather
from gan_dist.outputs.pictures import PANEL_EPOCHS
from gan_dist.trainer.schedule import At, Schedule


class Cadence:
    """The actions of the schedule, without the outputs that are due too soon after the last one of their kind.

    The clock is that of rank 0. The ranks get its time at log points only, where they exchange figures anyway, and all
    decide by the latest one: so they agree without a further collective or wait. Outputs do not change the trajectory,
    so the clock does not either.

    Never left out are the first output of a session, the grids of the panel's epochs, permanent checkpoints, the
    checkpoint at a stop, and what is due after the last step.

    Args:
        config: the limits.
        schedule: of the run.
        seconds: returns how long this session has trained on this rank, without evaluations.
        gather: of all ranks; the result can be copied to the host.
        ranks: number of ranks.
        device: of the collectives.
    """

    def __init__(
        self,
        config: Config,
        schedule: Schedule,
        seconds: Callable[[], float],
        gather: Gather,
        ranks: int,
        device: torch.device,
    ) -> None:
        self.schedule = schedule
        limits = {
            "sample": config.samples.every_seconds,
            "evaluate": config.evaluate.every_seconds,
            "checkpoint": config.checkpoint.every_seconds,
        }
        self._limits = {output: limit for output, limit in limits.items() if limit is not None}
        self._seconds = seconds
        self._gather = gather
        self._ranks = ranks
        self._device = device
        self._now = 0.0
        self._last: dict[str, float] = {}

    def read_clock(self) -> None:
        """Get the time of rank 0. A collective, at every log point."""
        if not self._limits:
            return
        self._now = self._seconds()
        if self._ranks > 1:
            times = self._gather(torch.tensor([self._now], device=self._device))
            self._now = times[0].item()

    def at(self, step: int, stop_requested: bool) -> At:
        """The actions that are due after step `step` (from 1), the same on every rank. Called once for each step."""
        at = self.schedule.at(step, stop_requested)
        due = [output for output in self._limits if getattr(at, output)]
        if not due:
            return at
        last = step == self.schedule.total_steps
        always = {
            "sample": last or self.schedule.epochs_completed(step) in PANEL_EPOCHS,
            "evaluate": last,
            "checkpoint": at.stop or self.schedule.is_permanent(step),
        }
        left_out = {}
        for output in due:
            if always[output] or self._now - self._last.get(output, -float("inf")) >= self._limits[output]:
                self._last[output] = self._now
            else:
                left_out[output] = False
        return replace(at, **left_out)
