"""Means over a window of steps and all ranks, accumulated on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gan_dist.gan.rows import Rows
from gan_dist.gan.update import Stats

METRICS = ("loss/discriminator", "loss/generator", "score/real", "score/fake")  # of every run


class Meter:
    """Collects the statistics of each step without waiting for the device.

    The means of a window are computed from the same numbers in the same order for any number of ranks, and whether or
    not the run was stopped inside the window: `state` holds the individual steps, not their sum.

    Args:
        names: names of the statistics.
        window: maximum number of steps between two calls of `close_window`, or between a resume and the first call.
        parts: number of parts of a rank's batch with separate statistics.
        gather: (k, ...) of this rank -> (ranks * k, ...) of all, in the order of the ranks; `Accelerator.gather`.
        ranks: number of ranks.
        device: device of the statistics.
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
        self._rows = Rows(window, (len(self.names), parts), device)  # steps of the open window on this rank
        self.earlier = np.zeros((0, len(self.names)))  # steps of the open window before a resume

    def add(self, stats: Stats) -> None:
        """Add one step of this rank: (parts,) for each name."""
        self._rows.append(torch.stack([stats[name] for name in self.names]))

    def means(self) -> dict[str, float | None]:
        """Means over the open window and all ranks. A collective: every rank must reach it.

        Steps with a NaN or infinite value are excluded from the mean; None if no step is left.
        """
        columns = self._steps().T
        finite = [column[np.isfinite(column)] for column in columns]
        return {name: float(c.mean()) if len(c) else None for name, c in zip(self.names, finite, strict=True)}

    def close_window(self) -> None:
        """Start a new window with the next step."""
        self._rows.clear()
        self.earlier = self.earlier[:0]

    @property
    def is_open(self) -> bool:
        """Whether the open window has any steps."""
        return len(self._rows.recorded()) + len(self.earlier) > 0

    def state(self) -> list[list[float]]:
        """The steps of the open window, for a checkpoint. A collective: every rank must reach it."""
        return self._steps().tolist()

    def load_state(self, steps: list[list[float]]) -> None:
        """Restore `state`, on any number of processes."""
        self._rows.clear()
        self.earlier = np.array(steps, dtype=np.float64).reshape(-1, len(self.names))

    def _steps(self) -> Float[np.ndarray, "steps metrics"]:
        """The statistics of the global batch per step, in double precision and in an order independent of the ranks."""
        own = self._rows.recorded()
        rows = self.gather(own).cpu().double().numpy()
        rows = rows.reshape(self.ranks, *own.shape)  # (ranks, steps, metrics, parts)
        parts = [rows[rank, :, :, part] for rank in range(self.ranks) for part in range(rows.shape[-1])]
        return np.concatenate([self.earlier, sum(parts[1:], start=parts[0]) / len(parts)])
