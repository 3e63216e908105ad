"""The signals that end a job, and who hears them."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

# Clusters announce the end of a job with one of the last two; NCCL catches USR1 itself, so prefer USR2 on GPUs.
END_OF_JOB = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@contextlib.contextmanager
def heard_by(handler: Callable[[int, FrameType | None], None], *numbers: signal.Signals) -> Iterator[None]:
    """Have a function hear signals for the time of the block. Only a main thread can; elsewhere this does nothing.

    Args:
        handler: called with the signal's number and the frame that it interrupted.
        numbers: which; one that is ignored stays so: under nohup a run outlives its terminal.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        heeded = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
