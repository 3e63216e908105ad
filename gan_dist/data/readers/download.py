"""torchvision's download of a data set: in a process of its own, whole or not at all, and stopped when asked to."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gan_dist.config import DataConfig, InputError, Stopped
from gan_dist.data.readers.location import PUBLISHED, folders, require_local

_SCRATCH = "gan-dist-download-"  # begins the name of the folder under the root that a download is written to
_POLL = 0.1  # seconds between two looks at whether to stop

# The signals that end a job may reach all of its processes. This one ends when its parent says so, or dies: the kernel
# sees to the latter, also where the parent had no time to.
_SCRIPT = """
import ctypes, os, signal, sys
root, name, parent = sys.argv[1:]
if sys.platform == "linux":
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        sys.exit("the process that started this download has ended")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
from torchvision import datasets
for train in (True, False):
    getattr(datasets, name)(root, train=train, download=True)
"""

# What resolvers and kernels say without a network.
_NO_NETWORK = (
    *("name resolution", "Name or service not known", "No address associated", "nodename nor servname"),
    *("Network is unreachable", "No route to host"),
)


class DownloadError(Exception):
    """Why a download failed, in a few words."""


def download(config: DataConfig, stop_requested: Callable[[], bool]) -> Path:
    """Download a data set, whose md5 torchvision checks, into the root: whole or not at all.

    Args:
        config: the data set, the root, and how long it may take.
        stop_requested: asked several times a second whether to give up.

    Returns:
        The file of training images.

    Raises:
        DownloadError: it failed, or took too long.
        InputError: the root can't be written.
        Stopped: `stop_requested` said so. Nothing was written, as with every other exception.
    """
    name = PUBLISHED[config.name].torchvision_class
    try:
        with _scratch_folder(config.root) as scratch:
            _fetch(config, name, scratch, stop_requested)
            _move(scratch / name / "raw", folders(config)[0], last=PUBLISHED[config.name].file)
    except OSError as error:
        raise _unwritable(config, error.strerror) from error
    return require_local(config)


def _fetch(config: DataConfig, name: str, scratch: Path, stop_requested: Callable[[], bool]) -> None:
    """Have another process download into the scratch folder, so that nothing in the network can hold up this one."""
    # Isolated from the working folder (-P), whose files could have names of modules. An absolute path: torchvision
    # expands a "~".
    words = [sys.executable, "-P", "-c", _SCRIPT, str(scratch.absolute()), name, str(os.getpid())]
    try:
        child = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # a terminal's Ctrl-C is for this process alone
        )
    except OSError as error:
        raise DownloadError(f"no process could be started: {error.strerror}") from error
    try:
        said = _wait(child, config.download_timeout, config.name, stop_requested)
    finally:
        child.kill()
        child.wait()
        assert child.stderr is not None
        child.stderr.close()
    if child.returncode == 0:
        return
    if any(os.strerror(number) in said for number in (errno.ENOSPC, errno.EDQUOT)):
        raise _unwritable(config, _reason(child.returncode, said))
    raise DownloadError(_reason(child.returncode, said))


def _wait(child: subprocess.Popen[str], timeout: float, name: str, stop_requested: Callable[[], bool]) -> str:
    """Wait for the end of the child; returns what it said on stderr."""
    give_up = time.monotonic() + timeout
    while True:
        said = None
        with contextlib.suppress(subprocess.TimeoutExpired):  # nothing that was read is lost
            said = child.communicate(timeout=_POLL)[1]
        if said is not None and child.returncode < 0:
            time.sleep(_POLL)  # what ended it may be meant for all processes, and on its way to this one
        if stop_requested():
            raise Stopped(f"the download of {name} was stopped; nothing was written")
        if said is not None:
            return said
        if time.monotonic() > give_up:
            raise DownloadError(f"not finished within {timeout:g} s; --data.download-timeout allows more")


def _reason(code: int, said: str) -> str:
    """Why a child failed: the last line of its traceback, without what is not for the user."""
    if code < 0:
        return f"the process that downloads was ended by signal {-code}"
    lines = [line.strip(" <>.") for line in said.splitlines() if line.strip(" <>.")] or ["no message"]
    line = re.sub(r"\[Errno -?\d+\] ", "", lines[-1].split("urlopen error ")[-1])[:200]
    return f"no network: {line}" if any(words in line for words in _NO_NETWORK) else line


def _unwritable(config: DataConfig, reason: str | None) -> InputError:
    return InputError(f"data.root={config.root} can't be written ({reason}); give --data.root a folder that can be")


def _move(source: Path, target: Path, last: str) -> None:
    """Move the files one by one, for the target may hold others already, such as labels.

    Args:
        last: begins the names of those that are moved last: where they are, all are.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        for new in sorted(source.iterdir(), key=lambda path: path.name.startswith(last)):
            new.replace(target / new.name)
    except OSError as error:
        raise InputError(
            f"{target} can't be written ({error.strerror}); remove what is there, or give --data.root another folder"
        ) from error


@contextlib.contextmanager
def _scratch_folder(root: Path) -> Iterator[Path]:
    """A folder under the root, made if need be, for the time of the block.

    It is locked, and a lock ends with its process on whatever machine that is: so what a killed process left there is
    known, and removed.

    Raises:
        OSError: the root can't be written.
    """
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    root.mkdir(parents=True, exist_ok=True)
    for left in root.glob(f"{_SCRATCH}*"):
        _remove_unless_locked(left)
    scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=root))
    lock = os.open(scratch, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # not every file system has locks: there nothing is removed
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(lock)
        with contextlib.suppress(OSError):  # those that are empty
            for folder in made:
                folder.rmdir()


def _remove_unless_locked(folder: Path) -> None:
    with contextlib.suppress(OSError):
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        finally:
            os.close(lock)
