"""The end of a process group: captured graphs, the device and the group are released in the order that NCCL needs.

A communicator of NCCL is not destroyed while a CUDA graph that recorded one of its collectives exists: the process
would wait for ever (pytorch/pytorch#115388). Tensors and events that wait for garbage collection may still use the
group's streams. So the graphs go first, then the device finishes its work, then Python collects garbage.
"""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from gan_dist.gan.cuda_graph import discard_graphs

ABORT_SECONDS = 2.0  # that a failed process waits for its device


def leave_group(device: torch.device, destroy: Callable[[], None]) -> None:
    """Destroy the process group at the end of a session that every rank leaves at the same step.

    Args:
        device: of this process.
        destroy: destroys the process group, if there is one.
    """
    discard_graphs()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
        gc.collect()
    destroy()


def abandon_group(device: torch.device) -> None:
    """Leave the process group after an unexpected error, within `ABORT_SECONDS` and without waiting for other ranks.

    On the CPU nothing is done: connections close when the process ends. A device may execute a collective that a lost
    rank never enters, so its group is aborted, which ends that collective.
    """
    if device.type == "cpu":
        return
    # In threads, since either may wait for the other or for a driver that does not answer, and the error is still to be
    # reported.
    threads = [threading.Thread(target=work, daemon=True) for work in (discard_graphs, partial(_abort, device))]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + ABORT_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    gc.collect()


def destroy_group() -> None:
    """Destroy the default process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _abort(device: torch.device) -> None:
    if not dist.is_initialized():
        return
    group: Any = dist.group.WORLD
    with contextlib.suppress(Exception):  # the process fails anyway, for the reason that is reported
        group._get_backend(device).abort()
