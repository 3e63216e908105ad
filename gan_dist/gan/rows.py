"""Figures of consecutive steps, kept on the device until the host reads them."""

from __future__ import annotations

import torch
from jaxtyping import Shaped
from torch import Tensor


class Rows:
    """Rows that are appended on the device. The number of rows is kept there too, so that a CUDA graph can append.

    Args:
        capacity: maximum number of rows.
        shape: of a row.
        device: of the rows.
    """

    def __init__(self, capacity: int, shape: tuple[int, ...], device: torch.device) -> None:
        self._rows = torch.zeros(capacity, *shape, device=device)
        self._count = torch.zeros(1, dtype=torch.int64, device=device)

    def append(self, row: Shaped[Tensor, " ..."]) -> None:
        """Add a row. An error if there is no room: of the host on a CPU, of the kernel on a GPU."""
        self._rows.index_copy_(0, self._count, row[None])
        self._count.add_(1)

    def clear(self) -> None:
        """Remove all rows."""
        self._count.zero_()

    def recorded(self) -> Shaped[Tensor, "count ..."]:
        """The rows since `clear`, on the device. Waits for the device."""
        return self._rows[: int(self._count)]
