"""The signals that end a job: who handles them, and what happens to a worker whose launcher ends. Imports no torch."""

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

# Clusters announce the end of a job with one of the last two; NCCL catches USR1 itself, so prefer USR2 on GPUs.
END_OF_JOB = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

_PR_SET_PDEATHSIG = 1
_PR_GET_PDEATHSIG = 2

# As this process was started: Accelerate sets variables of its launcher itself later on, and users may set
# ACCELERATE_MIXED_PRECISION by hand.
_LAUNCHED = bool({"ACCELERATE_DYNAMO_MODE", "TORCHELASTIC_RUN_ID"} & os.environ.keys())
_PARENT = os.getppid()


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """For the time before there is a run, so nothing to save: any signal that ends a job ends this process at once.

    The exit code is 75, and nothing is printed. If the launcher ends, the kernel kills this process, whatever it does.
    """
    with (
        signaled_when_launcher_ends(signal.SIGKILL),
        heard_by(lambda number: os._exit(STOPPED_EXIT_CODE), signal.SIGINT, *END_OF_JOB),
    ):
        yield


@contextlib.contextmanager
def heard_by(handler: Callable[[int], None], *numbers: signal.Signals) -> Iterator[None]:
    """Call a function for signals for the time of the block, whatever the main thread does meanwhile.

    Python runs signal handlers between two bytecodes of the main thread, so never while that waits for other ranks in
    C++. Here a thread calls the function: the C part of Python's handler writes the number to a pipe that it reads.
    Blocks may be nested: the innermost that names a signal handles it. Only a main thread can take signals over;
    elsewhere this does nothing.

    Args:
        handler: called with the number of the signal, in that thread.
        numbers: which signals. One that is ignored stays so: under nohup a run outlives its terminal. So does one
            that a library handles outside Python.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [number for number in numbers if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    outer = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    thread = threading.Thread(target=_read_signals, args=(reading, frozenset(taken), handler, outer), daemon=True)
    thread.start()
    before = {number: signal.signal(number, _handled_in_a_thread) for number in taken}
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
    """Handle the signals whose numbers come through a pipe, until a 0 comes; pass on those that are not ours."""
    while number := os.read(pipe, 1)[0]:
        if number in numbers:
            handler(number)
        elif outer >= 0:
            with contextlib.suppress(BlockingIOError):  # full of signals that nobody has read yet
                os.write(outer, bytes([number]))


def _handled_in_a_thread(number: int, frame: FrameType | None) -> None:
    """What the main thread does for a signal of `heard_by`: nothing."""


def _reset_after_fork() -> None:
    """A forked process has no such thread, and its signals must not reach its parent's."""
    taken = [number for number in signal.valid_signals() if signal.getsignal(number) is _handled_in_a_thread]
    if taken:
        signal.set_wakeup_fd(-1)
    for number in taken:
        signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_reset_after_fork)


@contextlib.contextmanager
def signaled_when_launcher_ends(number: signal.Signals) -> Iterator[None]:
    """For the time of the block the kernel sends this process a signal when its launcher ends, however that ends.

    Without it a launcher that is killed leaves its workers behind. Only under a launcher: a process that was started
    from a shell must outlive it (nohup). Linux only, and only in the main thread.
    """
    if not (_LAUNCHED and sys.platform == "linux" and threading.current_thread() is threading.main_thread()):
        yield
        return
    prctl, before = ctypes.CDLL(None).prctl, ctypes.c_int()
    prctl(_PR_GET_PDEATHSIG, ctypes.byref(before))
    prctl(_PR_SET_PDEATHSIG, number)
    if launcher_ended():  # before we asked
        os.kill(os.getpid(), number)
    try:
        yield
    finally:
        prctl(_PR_SET_PDEATHSIG, before)


def launcher_ended(timeout: float = 0.0) -> bool:
    """Whether a launcher started this process, and has ended.

    Then this process has another parent. Had the launcher ended before this process looked for the first time, the
    parent was process 1 from then on. In a container the launcher itself may be process 1, and is a Python program
    there: so a process 1 that is none is no launcher.

    Args:
        timeout: seconds to wait for it. The kernel signals a launcher's end when its main thread has exited; the parent
            changes when its last thread has.
    """
    give_up = time.monotonic() + timeout
    while _LAUNCHED:
        parent = os.getppid()
        if parent != _PARENT or (parent == 1 and not _parent_runs_python()) or _parent_has_exited():
            return True
        if time.monotonic() >= give_up:
            break
        time.sleep(0.01)
    return False


def _parent_has_exited() -> bool:
    """Whether the parent's main thread has exited, though other threads may not have yet. No where that is unknown."""
    with contextlib.suppress(OSError, IndexError):
        parent = Path("/proc/self/status").read_text().partition("PPid:")[2].split()[0]
        state = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[0]
        return state in ("Z", "X")
    return False


def _parent_runs_python() -> bool:
    """Yes where that can't be seen."""
    try:
        # /proc may be that of another process namespace, with other numbers.
        parent = Path("/proc/self/status").read_text().partition("PPid:")[2].split()[0]
        command = Path(f"/proc/{parent}/cmdline").read_text().partition("\0")[0]
    except OSError:
        return True
    return Path(command).name.startswith("python")
