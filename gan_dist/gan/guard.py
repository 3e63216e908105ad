"""Rejects updates with a NaN or infinite loss or gradient, on all ranks, without waiting for the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gan_dist.gan.rows import Rows

UPDATES = ("discriminator", "generator")  # of a step, in order


@dataclass(frozen=True)
class NonfiniteUpdate:
    """An update that was not applied because of a NaN or infinite loss or gradient."""

    step: int
    network: str
    ranks: tuple[int, ...]
    """Ranks on which it occurred."""

    def describe(self) -> str:
        ranks = f"rank{'s' if len(self.ranks) > 1 else ''} {', '.join(map(str, self.ranks))}"
        return f"step {self.step:,}: the {self.network}'s loss or gradient is NaN or infinite on {ranks}"


class NonfiniteGuard:
    """Checks every update of both networks before it is applied.

    Each rank sends one more number with its gradients: the sum of its losses and gradients, which is finite only if
    all of them are. So every rank checks the same numbers at the same step, without an additional collective. The
    result stays on the device, where the fused optimizer reads it (`veto` is its found_inf). The numbers stay there
    until `collect`.

    Args:
        window: maximum number of steps between two calls of `collect`.
        rank, ranks: this rank and the number of ranks.
        device: of the gradients.
        scaled: a GradScaler is used. It handles overflowing gradients, so only losses are checked.
    """

    def __init__(self, window: int, rank: int, ranks: int, device: torch.device, scaled: bool = False) -> None:
        self.rank = rank
        self.ranks = ranks
        self.scaled = scaled
        self.veto = torch.zeros((), device=device)  # 1.0: the current update must not be applied
        self._sums = Rows(len(UPDATES) * window, (ranks,), device)
        self._zeros = torch.zeros(ranks, device=device)

    def check(self, sums: Float[Tensor, " ranks"]) -> None:
        """Set `veto` for the current update.

        Args:
            sums: each rank's sum of losses and gradients; identical on every rank.
        """
        torch.ne(torch.dot(sums, self._zeros), 0, out=self.veto)  # 0 * NaN and 0 * infinity are NaN, which is not 0

    def record(self, sums: Float[Tensor, " ranks"]) -> None:
        """Keep the sums for `collect`. Called once per step for the discriminator, then once for the generator.

        Args:
            sums: as in `check`.
        """
        self._sums.append(sums)

    def collect(self, step: int) -> list[NonfiniteUpdate]:
        """Returns the updates that were rejected since the last call. Synchronizes with the device.

        Args:
            step: the last step that was recorded.
        """
        sums = self._sums.recorded().cpu()
        self._sums.clear()
        first = step + 1 - len(sums) // len(UPDATES)
        return [
            NonfiniteUpdate(
                step=first + i // len(UPDATES),
                network=UPDATES[i % len(UPDATES)],
                ranks=tuple((~row.isfinite()).nonzero().flatten().tolist()),
            )
            for i, row in enumerate(sums)
            if not row.isfinite().all()
        ]
