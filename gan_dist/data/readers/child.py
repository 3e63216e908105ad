"""Runs a Python script in a separate process, so that the network and foreign libraries can't block this one."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gan_dist.config import Stopped

_POLL = 0.1  # seconds between two calls of stop_requested

# Signals that end a job may reach all of its processes. This process ignores them: its parent ends it, or the kernel
# does when the parent dies.
_FIRST = """
import ctypes, os, signal, sys
parent = sys.argv.pop(1)
if sys.platform == "linux":
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        sys.exit("the process that started this one has ended")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
"""

# Errors of resolvers and kernels without a network.
_NO_NETWORK = (
    *("name resolution", "Name or service not known", "No address associated", "nodename nor servname"),
    *("Network is unreachable", "No route to host"),
)


class DownloadError(Exception):
    """A download failed. The message is the reason, in a few words."""


@dataclass(frozen=True)
class Script:
    """A script and its arguments."""

    code: str
    """Reads the arguments from sys.argv[1:]."""
    arguments: Sequence[str]
    environment: Mapping[str, str] | None = None
    """None: that of this process."""


@dataclass(frozen=True)
class Ended:
    """A process that has ended."""

    code: int
    """Its exit code; negative: the signal that ended it."""
    output: str
    errors: str

    def reason(self) -> str:
        """Why it failed: the last line of its traceback, shortened."""
        if self.code < 0:
            return f"the download process was ended by signal {-self.code}"
        lines = [line.strip(" <>.") for line in self.errors.splitlines() if line.strip(" <>.")] or ["no message"]
        return plain_reason(lines[-1])

    def found_no_space(self) -> bool:
        """Whether a disk was full."""
        return any(os.strerror(number) in self.errors for number in (errno.ENOSPC, errno.EDQUOT))


def plain_reason(line: str) -> str:
    """The message of an error, shortened, without numbers and wrappers that say nothing to a user."""
    line = re.sub(r"\[Errno -?\d+\] ", "", line.split("urlopen error ")[-1])[:200]
    return f"no network: {line}" if any(words in line for words in _NO_NETWORK) else line


def run_script(script: Script, what: str, timeout: float, stop_requested: Callable[[], bool]) -> Ended:
    """Run a script to its end.

    Args:
        script: the script.
        what: is stopped, in messages, such as "the download of mnist".
        timeout: maximum duration, in seconds.
        stop_requested: polled several times per second.

    Raises:
        DownloadError: it could not be started, or did not end in time.
        Stopped: `stop_requested` returned True. The process was ended, as with every other exception.
    """
    # -P: files in the working folder could have the names of modules.
    command = [sys.executable, "-P", "-c", _FIRST + script.code, str(os.getpid()), *script.arguments]
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=script.environment,
            start_new_session=True,  # a terminal's Ctrl-C reaches only this process
        )
    except OSError as error:
        raise DownloadError(f"no process could be started: {error.strerror}") from error
    try:
        output, errors = _wait(child, what, timeout, stop_requested)
    finally:
        child.kill()
        child.wait()
        for stream in (child.stdout, child.stderr):
            assert stream is not None
            stream.close()
    return Ended(child.returncode, output, errors)


def _wait(
    child: subprocess.Popen[str], what: str, timeout: float, stop_requested: Callable[[], bool]
) -> tuple[str, str]:
    """Wait until the child has ended; returns its stdout and stderr."""
    deadline = time.monotonic() + timeout
    while True:
        said = None
        with contextlib.suppress(subprocess.TimeoutExpired):  # the output read so far is kept
            said = child.communicate(timeout=_POLL)
        if said is not None and child.returncode < 0:
            time.sleep(_POLL)  # the signal that ended it may also be on its way to this process
        if stop_requested():
            raise Stopped(f"{what} was stopped; nothing was written")
        if said is not None:
            return said
        if time.monotonic() > deadline:
            raise DownloadError(f"not finished within {timeout:g} s; increase --data.download-timeout")
