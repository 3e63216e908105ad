"""Means over a window of steps and all ranks, kept on the device until somebody asks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

METRICS = ("loss/discriminator", "loss/generator", "score/real", "score/fake")


class Meter:
    """Collects each step's figures without waiting for the device.

    A window's means are taken step by step from the same numbers in the same order whether or not the run was
    stopped inside the window: `state` holds the steps so far, not a sum of them.

    Args:
        window: steps in a window; the first step after a full one begins the next.
        gather: (k, m) of this rank -> (ranks * k, m) of all, in the order of the ranks; `Accelerator.gather`.
        ranks: how many there are.
        device: where the figures are.
    """

    def __init__(self, window: int, gather: Callable[[Tensor], Tensor], ranks: int, device: torch.device) -> None:
        self.window = window
        self.gather = gather
        self.ranks = ranks
        self.rows = torch.zeros(window, len(METRICS), device=device)
        self.count = 0  # rows of this window that this rank holds
        self.earlier = torch.zeros(0, len(METRICS), dtype=torch.float64)  # those from before a resume

    def add(self, stats: dict[str, Float[Tensor, ""]]) -> None:
        """Take in one step of this rank: a scalar for each of METRICS."""
        if self.count + len(self.earlier) == self.window:
            self.count, self.earlier = 0, self.earlier[:0]
        torch.stack([stats[name] for name in METRICS], out=self.rows[self.count])
        self.count += 1

    def means(self) -> dict[str, float]:
        """Means over the window so far and over all ranks. A collective: every rank must reach it."""
        values = self._steps().mean(0).tolist()
        return dict(zip(METRICS, values, strict=True))

    def state(self) -> list[list[float]]:
        """The window so far, for a checkpoint. A collective: every rank must reach it."""
        return self._steps().tolist()

    def load_state(self, steps: list[list[float]]) -> None:
        """Go on inside the window that `state` described, on any number of processes."""
        self.earlier = torch.tensor(steps, dtype=torch.float64).view(-1, len(METRICS))

    def _steps(self) -> Float[Tensor, "steps metrics"]:
        ranks = self.gather(self.rows[: self.count]).cpu().double()
        ranks = ranks.view(self.ranks, self.count, len(METRICS))
        return torch.cat([self.earlier, ranks.mean(0)])
