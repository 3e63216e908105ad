"""torchvision's download of a data set: in a separate process, all or nothing, and interruptible."""

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
from dataclasses import dataclass
from pathlib import Path

from gan_dist.config import DataConfig, InputError, Stopped

_SCRATCH = "gan-dist-download-"  # prefix of the folder under the root into which a download is written
_POLL = 0.1  # seconds between two calls of stop_requested

# Signals that end a job may reach all of its processes. This process ignores them: its parent ends it, or the kernel
# does when the parent dies.
_SCRIPT = """
import ctypes, os, signal, sys
root, name, argument, parent = sys.argv[1:]
if sys.platform == "linux":
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        sys.exit("the process that started this download has ended")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
from torchvision import datasets
for split in {"train": (True, False), "split": ("train", "test")}[argument]:
    getattr(datasets, name)(root, **{argument: split}, download=True)
"""

# Errors of resolvers and kernels without a network.
_NO_NETWORK = (
    *("name resolution", "Name or service not known", "No address associated", "nodename nor servname"),
    *("Network is unreachable", "No route to host"),
)


class DownloadError(Exception):
    """A download failed. The message is the reason, in a few words."""


@dataclass(frozen=True)
class Downloadable:
    """A data set that torchvision downloads."""

    torchvision_class: str
    """The class in torchvision.datasets."""
    folder: Path
    """Where it puts the files, relative to the root."""
    target: Path
    """Where the files belong."""
    last: str
    """Prefix of the names of the files that are moved last; if they exist, the download is complete."""
    split_argument: str = "train"
    """Name of the argument of the class that selects the split: "train" (True or False), or "split"."""


def download(config: DataConfig, what: Downloadable, stop_requested: Callable[[], bool]) -> None:
    """Download a data set into the root, all or nothing. torchvision verifies its md5.

    Args:
        config: the root and the timeout.
        what: the data set.
        stop_requested: polled several times per second.

    Raises:
        DownloadError: it failed, or took too long.
        InputError: the root can't be written.
        Stopped: `stop_requested` returned True. Nothing was written, as with every other exception.
    """
    try:
        with _scratch_folder(config.root) as scratch:
            _fetch(config, what, scratch, stop_requested)
            _move(scratch / what.folder, what.target, what.last)
    except OSError as error:
        raise _unwritable(config, error.strerror) from error


def _fetch(config: DataConfig, what: Downloadable, scratch: Path, stop_requested: Callable[[], bool]) -> None:
    """Download into the scratch folder in another process, so that the network can't block this one."""
    # -P: files in the working folder could have the names of modules. Absolute path: torchvision expands "~".
    arguments = [str(scratch.absolute()), what.torchvision_class, what.split_argument, str(os.getpid())]
    command = [sys.executable, "-P", "-c", _SCRIPT, *arguments]
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # a terminal's Ctrl-C reaches only this process
        )
    except OSError as error:
        raise DownloadError(f"no process could be started: {error.strerror}") from error
    try:
        errors = _wait(child, config.download_timeout, config.name, stop_requested)
    finally:
        child.kill()
        child.wait()
        assert child.stderr is not None
        child.stderr.close()
    if child.returncode == 0:
        return
    if any(os.strerror(number) in errors for number in (errno.ENOSPC, errno.EDQUOT)):
        raise _unwritable(config, _reason(child.returncode, errors))
    raise DownloadError(_reason(child.returncode, errors))


def _wait(child: subprocess.Popen[str], timeout: float, name: str, stop_requested: Callable[[], bool]) -> str:
    """Wait until the child has ended; returns its stderr."""
    deadline = time.monotonic() + timeout
    while True:
        errors = None
        with contextlib.suppress(subprocess.TimeoutExpired):  # the output read so far is kept
            errors = child.communicate(timeout=_POLL)[1]
        if errors is not None and child.returncode < 0:
            time.sleep(_POLL)  # the signal that ended it may also be on its way to this process
        if stop_requested():
            raise Stopped(f"the download of {name} was stopped; nothing was written")
        if errors is not None:
            return errors
        if time.monotonic() > deadline:
            raise DownloadError(f"not finished within {timeout:g} s; increase --data.download-timeout")


def _reason(code: int, errors: str) -> str:
    """Why a child failed: the last line of its traceback, shortened."""
    if code < 0:
        return f"the download process was ended by signal {-code}"
    lines = [line.strip(" <>.") for line in errors.splitlines() if line.strip(" <>.")] or ["no message"]
    line = re.sub(r"\[Errno -?\d+\] ", "", lines[-1].split("urlopen error ")[-1])[:200]
    return f"no network: {line}" if any(words in line for words in _NO_NETWORK) else line


def _unwritable(config: DataConfig, reason: str | None) -> InputError:
    return InputError(f"data.root={config.root} can't be written ({reason}); pass a writable --data.root")


def _move(source: Path, target: Path, last: str) -> None:
    """Move the files one by one, because the target may already contain other files, such as labels."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        for new in sorted(source.iterdir(), key=lambda path: path.name.startswith(last)):
            if new.is_file():  # not the folder of the other files, where both are in one
                new.replace(target / new.name)
    except OSError as error:
        raise InputError(
            f"{target} can't be written ({error.strerror}); remove its contents, or pass another --data.root"
        ) from error


@contextlib.contextmanager
def _scratch_folder(root: Path) -> Iterator[Path]:
    """A temporary folder under the root. The root is created if it does not exist.

    The folder is locked. A lock ends with its process, on any machine, so folders that killed processes left behind are
    recognized and removed.

    Raises:
        OSError: the root can't be written.
    """
    created = [folder for folder in (root, *root.parents) if not folder.exists()]
    root.mkdir(parents=True, exist_ok=True)
    for abandoned in root.glob(f"{_SCRATCH}*"):
        _remove_unless_locked(abandoned)
    scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=root))
    lock = os.open(scratch, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks; nothing is removed there
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(lock)
        with contextlib.suppress(OSError):  # only empty folders are removed
            for folder in created:
                folder.rmdir()


def _remove_unless_locked(folder: Path) -> None:
    with contextlib.suppress(OSError):
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        finally:
            os.close(lock)
