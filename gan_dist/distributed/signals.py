"""Signals that end a job, and the end of the launcher. Imports no torch."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from gan_dist.config import STOPPED_EXIT_CODE

# Clusters announce the end of a job with one of the last two. NCCL catches USR1 itself, so prefer USR2 on GPUs.
END_OF_JOB = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

_PR_SET_PDEATHSIG = 1
_PR_GET_PDEATHSIG = 2

# At the start of this process: Accelerate sets variables of its launcher itself later, and users may set
# ACCELERATE_MIXED_PRECISION by hand.
_LAUNCHED = bool({"ACCELERATE_DYNAMO_MODE", "TORCHELASTIC_RUN_ID"} & os.environ.keys())
_PARENT = os.getppid()


@contextlib.contextmanager
def exit_on_signals() -> Iterator[None]:
    """End this process at once on a signal that ends a job: during the block there is nothing to save.

    The exit code is 75, and nothing is printed. If the launcher ends, the kernel kills this process.
    """
    with (
        signal_when_launcher_ends(signal.SIGKILL),
        handle_signals(lambda number: os._exit(STOPPED_EXIT_CODE), signal.SIGINT, *END_OF_JOB),
    ):
        yield


@contextlib.contextmanager
def handle_signals(handler: Callable[[int], None], *numbers: signal.Signals) -> Iterator[None]:
    """Call a function on signals during the block, whatever the main thread does.

    Python runs signal handlers between two bytecodes of the main thread, so never while it waits for other ranks in
    C++. Here a thread calls the function: the C part of Python's handler writes the signal's number to a pipe that the
    thread reads. Blocks may be nested: the innermost one that names a signal handles it. Outside the main thread this
    does nothing, because only the main thread can set handlers.

    Args:
        handler: called by the thread with the number of the signal.
        numbers: the signals. Ignored ones stay ignored, so that a run under nohup outlives its terminal, and so do
            those that a library handles outside Python.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = [number for number in numbers if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    outer = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    thread = threading.Thread(target=_read_signals, args=(reading, frozenset(handled), handler, outer), daemon=True)
    thread.start()
    before = {number: signal.signal(number, _handled_by_the_thread) for number in handled}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
        signal.set_wakeup_fd(outer, warn_on_full_buffer=False)
        os.write(writing, b"\0")
        thread.join()
        os.close(reading)
        os.close(writing)


def _read_signals(pipe: int, numbers: frozenset[int], handler: Callable[[int], None], outer: int) -> None:
    """Handle the signals whose numbers come through a pipe, until a 0 comes; forward the others to the outer block."""
    while number := os.read(pipe, 1)[0]:
        if number in numbers:
            handler(number)
        elif outer >= 0:
            with contextlib.suppress(BlockingIOError):  # full of unread signals
                os.write(outer, bytes([number]))


def _handled_by_the_thread(number: int, frame: FrameType | None) -> None:
    """The main thread's handler of a signal of `handle_signals`: does nothing."""


def _reset_after_fork() -> None:
    """A forked process lacks the thread, and its signals must not reach its parent's."""
    handled = [number for number in signal.valid_signals() if signal.getsignal(number) is _handled_by_the_thread]
    if handled:
        signal.set_wakeup_fd(-1)
    for number in handled:
        signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_reset_after_fork)


@contextlib.contextmanager
def signal_when_launcher_ends(number: signal.Signals) -> Iterator[None]:
    """During the block, the kernel sends this process a signal when its launcher ends, for whatever reason.

    Otherwise a killed launcher leaves its workers behind. Only under a launcher: a process started from a shell must
    outlive it (nohup). Linux only, and only in the main thread.
    """
    if not (_LAUNCHED and sys.platform == "linux" and threading.current_thread() is threading.main_thread()):
        yield
        return
    prctl, before = ctypes.CDLL(None).prctl, ctypes.c_int()
    prctl(_PR_GET_PDEATHSIG, ctypes.byref(before))
    prctl(_PR_SET_PDEATHSIG, number)
    if launcher_ended():  # before the call
        os.kill(os.getpid(), number)
    try:
        yield
    finally:
        prctl(_PR_SET_PDEATHSIG, before)


def launcher_ended(timeout: float = 0.0) -> bool:
    """Returns whether a launcher started this process and has ended.

    This process then has another parent. If the launcher ended before the parent was first read, the parent has been
    process 1 ever since. In a container, the launcher itself may be process 1; it is a Python program, so a process 1
    that is not Python is no launcher.

    Args:
        timeout: seconds to wait for it. The kernel signals a launcher's end when its main thread has exited; the parent
            changes when its last thread has.
    """
    deadline = time.monotonic() + timeout
    while _LAUNCHED:
        parent = os.getppid()
        if parent != _PARENT or (parent == 1 and not _parent_runs_python()) or _parent_has_exited():
            return True
        if time.monotonic() >= deadline:
            break
        time.sleep(0.01)
    return False


def _parent_has_exited() -> bool:
    """Returns whether the parent's main thread has exited, though others may still run. False if that is unknown."""
    with contextlib.suppress(OSError, IndexError):
        parent = Path("/proc/self/status").read_text().partition("PPid:")[2].split()[0]
        state = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[0]
        return state in ("Z", "X")
    return False


def _parent_runs_python() -> bool:
    """Returns True also if that is unknown."""
    try:
        # /proc may belong to another process namespace, with other numbers.
        parent = Path("/proc/self/status").read_text().partition("PPid:")[2].split()[0]
        command = Path(f"/proc/{parent}/cmdline").read_text().partition("\0")[0]
    except OSError:
        return True
    return Path(command).name.startswith("python")
