"""Work that only rank 0 does and all ranks need."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from gan_dist.config import InputError, Stopped, TrainingFailed
from gan_dist.distributed.peers import Peers

T = TypeVar("T")


def on_main_process(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Call `work` on rank 0 and return its result on every rank, or raise its InputError, Stopped or TrainingFailed.

    Files are thus read and written once, and all ranks agree on their content. A collective: every rank must call it.
    The result is pickled between our own processes.

    An OSError becomes a TrainingFailed if a retry may help (the disk is full or unavailable), else an InputError.

    If the ranks have their `Peers`, the others wait as long as rank 0 is alive, however long `work` takes.

    Raises:
        TrainingFailed: on the other ranks, if `work` raised another exception; rank 0 raises that exception.
        dist.DistError, RuntimeError: a rank was lost in the meantime.
    """
    outcome: list[Any] = [None]
    unexpected: Exception | None = None
    peers = Peers.current
    if accelerator.is_main_process:
        try:
            outcome[0] = work()
        except (InputError, Stopped, TrainingFailed) as error:
            outcome[0] = error
        except OSError as error:
            outcome[0] = _describe(error)
        except Exception as error:  # a bug; the others must not wait for rank 0 in vain
            unexpected = error
            outcome[0] = TrainingFailed(f"rank 0 failed: {type(error).__name__}: {error}")
        if peers is not None:
            peers.announce_done()
    elif peers is not None:
        peers.wait_for_main()
    broadcast_object_list(outcome)
    if unexpected is not None:
        raise unexpected
    if isinstance(outcome[0], InputError | Stopped | TrainingFailed):
        raise outcome[0]
    return outcome[0]


def _describe(error: OSError) -> InputError | TrainingFailed:
    reason = f"{error.filename or 'a file'} can't be used ({error.strerror or error})"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE):
        return TrainingFailed(f"{reason}; make room or restore the disk, and start the same command again")
    return InputError(f"{reason}; fix it, and start the same command again")
