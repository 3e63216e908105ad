"""Files that are computed once per machine and reused by later runs. Deleting them is always safe."""

from __future__ import annotations

import errno
import fcntl
import os
import uuid
from collections.abc import Callable
from pathlib import Path

import platformdirs

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # of a file system without locks


def cache_file(name: str) -> Path:
    """Path of the cached file `name`: in $GAN_DIST_CACHE, else in the user's cache folder."""
    folder = os.environ.get("GAN_DIST_CACHE")
    return (Path(folder) if folder else platformdirs.user_cache_path("gan_dist")) / name


def write_cached(file: Path, content: bytes, announce: Callable[[str], None]) -> None:
    """Write a file of the cache atomically. Several processes may do so at the same time.

    If the folder is not writable, this is announced, and the next run computes the content again.
    """
    # A new name and mode "x": nothing that exists is overwritten, not even through a symbolic link.
    beside = file.with_name(f".writing-{uuid.uuid4()}-{file.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("xb") as stream:
                stream.write(content)
            beside.replace(file)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        announce(
            f"{file} can't be written ({error.strerror}), so the next run computes it again; "
            "set GAN_DIST_CACHE to a writable folder"
        )


def try_lock(file: Path) -> tuple[int, bool] | None:
    """Lock a file of the cache. The lock ends with the process, or when the descriptor is closed.

    Returns:
        The descriptor and whether the file system has locks; None if another process has the lock.

    Raises:
        OSError: the file can't be created.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.lexists(file) and os.path.samestat(os.fstat(descriptor), os.lstat(file)):
            return descriptor, True
    except OSError as error:
        if error.errno in NO_LOCKS:
            return descriptor, False
        if not isinstance(error, BlockingIOError | FileNotFoundError):
            os.close(descriptor)
            raise
    os.close(descriptor)  # locked, or removed by the process that had it
    return None
