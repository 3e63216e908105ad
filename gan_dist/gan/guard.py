"""Losses and gradients that are NaN or infinite: kept out of the weights, seen by all ranks, waited for by none."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

UPDATES = ("discriminator", "generator")  # of a step, in their order


@dataclass(frozen=True)
class NotFinite:
    """An update that was not applied, for a loss or a gradient that was NaN or infinite."""

    step: int
    network: str
    ranks: tuple[int, ...]
    """Where."""

    def describe(self) -> str:
        ranks = f"rank{'s' if len(self.ranks) > 1 else ''} {', '.join(map(str, self.ranks))}"
        return f"step {self.step:,}: the {self.network}'s loss or gradient is NaN or infinite on {ranks}"


class Guard:
    """Judges every update of both networks before it is applied.

    Each rank sends one number more along with its gradients, the sum of its losses and gradients, which is finite
    only if all of them are. So every rank judges the same numbers, at the same step, without a collective of its
    own. The verdict stays on the device, where a fused optimizer heeds it (`veto` as its found_inf); the numbers are
    kept there too until somebody looks.

    Args:
        window: steps between two looks, at most.
        rank, ranks: this one, of how many.
        device: where the gradients are.
        scaled: a GradScaler is at work. Then a gradient may overflow and the scaler deals with it; only losses count.
    """

    def __init__(self, window: int, rank: int, ranks: int, device: torch.device, scaled: bool = False) -> None:
        self.rank = rank
        self.ranks = ranks
        self.scaled = scaled
        self.veto = torch.zeros((), device=device)  # 1.0: the update now due must not be applied
        self._sums = torch.zeros(len(UPDATES) * window, ranks, device=device)
        self._zeros = torch.zeros(ranks, device=device)
        self._count = 0

    def check(self, sums: Float[Tensor, " ranks"]) -> None:
        """Set the veto for the update now due.

        Args:
            sums: each rank's sum of losses and gradients, the same on every rank.
        """
        torch.ne(torch.dot(sums, self._zeros), 0, out=self.veto)  # 0 x NaN and 0 x infinity are NaN, which is not 0

    def record(self, sums: Float[Tensor, " ranks"]) -> None:
        """Keep what was judged: for the discriminator's update, then for the generator's, once a step each.

        Args:
            sums: as for `check`.
        """
        self._sums[self._count] = sums
        self._count += 1

    def collect(self, step: int) -> list[NotFinite]:
        """What was judged not finite since the last look; waits for the device.

        Args:
            step: the last step that was judged.
        """
        sums, self._count = self._sums[: self._count].cpu(), 0
        first = step + 1 - len(sums) // len(UPDATES)
        return [
            NotFinite(
                step=first + i // len(UPDATES),
                network=UPDATES[i % len(UPDATES)],
                ranks=tuple((~row.isfinite()).nonzero().flatten().tolist()),
            )
            for i, row in enumerate(sums)
            if not row.isfinite().all()
        ]
