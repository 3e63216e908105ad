"""Sends large arrays from rank 0 to the others in blocks, without pickling them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor

BLOCK_BYTES = 64 * 2**20
ANNOUNCED_BYTES = 256 * 2**20


def broadcast_tensor(
    tensor: Tensor | None,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    accelerator: Accelerator,
    into: Tensor | None = None,
    announce: Callable[[str], None] = lambda line: None,
) -> None:
    """Send a tensor of rank 0 to the others. A collective: every rank must call it.

    Args:
        tensor: on the CPU; used on rank 0.
        shape, dtype: of it, the same on all ranks.
        accelerator: of the ranks.
        into: gets the content, on the CPU, on a rank that wants it. A rank with None still takes part, block by block.
        announce: called with a line for each tenth that is sent, if there is much to send.
    """
    count, size = shape[0], dtype.itemsize * math.prod(shape[1:])
    rows = max(1, BLOCK_BYTES // max(size, 1))
    announced = 0
    for start in range(0, count, rows):
        stop = min(start + rows, count)
        if accelerator.is_main_process:
            assert tensor is not None
            block = tensor[start:stop].to(accelerator.device)
        else:
            block = torch.empty((stop - start, *shape[1:]), dtype=dtype, device=accelerator.device)
        broadcast(block)
        if into is not None:
            into[start:stop].copy_(block)
        if count * size >= ANNOUNCED_BYTES and (tenth := 10 * stop // count) > announced:
            announced = tenth
            announce(f"sending {count:,} images to the ranks that have no copy: {10 * tenth} %")
