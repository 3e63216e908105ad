"""Means over a window of steps and all ranks, kept on the device until somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gan_dist.gan.update import Stats

METRICS = ("loss/discriminator", "loss/generator", "score/real", "score/fake")  # of every run


class Meter:
    """Collects each step's figures without waiting for the device.

    A window's means are taken from the same numbers in the same order however the batch was spread over ranks, and
    whether or not the run was stopped inside the window: `state` holds the steps so far, not a sum of them.

    Args:
        names: of the figures.
        window: the most steps between two calls of `close_window`, or from a resume to the first of them.
        parts: parts of a rank's share that bring figures of their own.
        gather: (k, ...) of this rank -> (ranks * k, ...) of all, in the order of the ranks; `Accelerator.gather`.
        ranks: how many there are.
        device: where the figures are.
    """

    def __init__(
        self,
        names: Sequence[str],
        window: int,
        parts: int,
        gather: Callable[[Tensor], Tensor],
        ranks: int,
        device: torch.device,
    ) -> None:
        self.names = tuple(names)
        self.gather = gather
        self.ranks = ranks
        self.rows = torch.zeros(window, len(self.names), parts, device=device)
        self.count = 0  # rows of this window that this rank holds
        self.earlier = np.zeros((0, len(self.names)))  # those from before a resume

    def add(self, stats: Stats) -> None:
        """Take in one step of this rank: (parts,) for each name."""
        torch.stack([stats[name] for name in self.names], out=self.rows[self.count])
        self.count += 1

    def means(self) -> dict[str, float | None]:
        """Means over the window so far and over all ranks. A collective: every rank must reach it.

        Steps whose figure is NaN or infinite are left out of its mean; None if no step is left.
        """
        columns = self._steps().T
        finite = [column[np.isfinite(column)] for column in columns]
        return {name: float(c.mean()) if len(c) else None for name, c in zip(self.names, finite, strict=True)}

    def close_window(self) -> None:
        """The next step begins a new window."""
        self.count, self.earlier = 0, self.earlier[:0]

    @property
    def is_open(self) -> bool:
        """Whether the window has steps."""
        return self.count + len(self.earlier) > 0

    def state(self) -> list[list[float]]:
        """The steps of the open window, for a checkpoint. A collective: every rank must reach it."""
        return self._steps().tolist()

    def load_state(self, steps: list[list[float]]) -> None:
        """Go on inside the window that `state` described, on any number of processes."""
        self.count = 0
        self.earlier = np.array(steps, dtype=np.float64).reshape(-1, len(self.names))

    def _steps(self) -> Float[np.ndarray, "steps metrics"]:
        """The global batch's figures, step by step. In double precision, part after part: one order for all."""
        rows = self.gather(self.rows[: self.count]).cpu().double().numpy()
        rows = rows.reshape(self.ranks, self.count, *self.rows.shape[1:])  # (ranks, steps, metrics, parts)
        parts = [rows[rank, :, :, part] for rank in range(self.ranks) for part in range(rows.shape[-1])]
        return np.concatenate([self.earlier, sum(parts[1:], start=parts[0]) / len(parts)])
