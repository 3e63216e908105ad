"""torchvision's download of a data set: in a separate process, all or nothing, and interruptible."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gan_dist.config import DataConfig, InputError
from gan_dist.data.readers.child import DownloadError, Script, run_script

_SCRATCH = "gan-dist-download-"  # prefix of the folder under the root into which a download is written

_SCRIPT = """
import sys
root, name, argument = sys.argv[1:]
from torchvision import datasets
for split in {"train": (True, False), "split": ("train", "test")}[argument]:
    getattr(datasets, name)(root, **{argument: split}, download=True)
"""


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
    # Absolute path: torchvision expands "~".
    arguments = [str(scratch.absolute()), what.torchvision_class, what.split_argument]
    ended = run_script(
        Script(_SCRIPT, arguments), f"the download of {config.name}", config.download_timeout, stop_requested
    )
    if ended.code == 0:
        return
    if ended.found_no_space():
        raise _unwritable(config, ended.reason())
    raise DownloadError(ended.reason())


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
