"""The lock of a run folder: one run at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import stat
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gan_dist.config import InputError
from gan_dist.files import BadFile, parse_json_object, read_file

LOCK = ".lock"
LEASE = ".lease"
LEASE_SECONDS = 60.0  # after which the holder of an untouched lease counts as dead
HEARTBEAT_SECONDS = 10.0
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # of a file system without locks


class RunLock:
    """Keeps other runs out of a folder until `release` or the end of this process.

    The folder is created if it does not exist, so that two runs that start at the same time collide here, not later.
    The lock is the operating system's (flock) on RUN/.lock, which ends with the process. Some network file systems
    have none: there the file RUN/.lease is touched regularly instead, and ignored if it was not for `LEASE_SECONDS`.

    Args:
        folder: the run folder.
        announce: called with one line if the file system has no locks.
        on_lost: called by another thread if another run took over the folder while this process was suspended.
    """

    def __init__(self, folder: Path, announce: Callable[[str], None], on_lost: Callable[[str], None]) -> None:
        self.folder = folder
        self.new_folders = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
        """The folders that `acquire` creates, innermost first."""
        self._announce = announce
        self._on_lost = on_lost
        self._descriptor: int | None = None
        self._token = uuid.uuid4().hex
        self._leased = False
        self._released = threading.Event()

    def acquire(self, wait: float = 10.0) -> None:
        """Acquire the lock.

        Args:
            wait: seconds to wait for a run that is about to end. For a lease that may be stale, it waits longer.

        Raises:
            InputError: another run uses the folder.
            OSError: the folder cannot be created or written.
        """
        deadline = time.monotonic() + wait
        while True:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                return self._lock_file()
            except FileNotFoundError:  # another run has just removed the folder that it created
                if time.monotonic() > deadline:
                    raise
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise InputError(
                        f"run.dir={self.folder} is in use by another run{self._holder(LOCK)}; "
                        "wait for it, or choose another --run.dir"
                    ) from error
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                self._announce(
                    f"{self.folder} is on a file system without locks ({error.strerror}); "
                    f"its file {LEASE} keeps other runs out"
                )
                return self._acquire_lease(wait)
            time.sleep(0.1)

    def release(self) -> None:
        """Release the lock, and remove the folders that `acquire` created if they are empty."""
        self._released.set()
        if self._leased and self._reads_own_lease():
            (self.folder / LEASE).unlink(missing_ok=True)
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                (self.folder / LOCK).unlink()
            os.close(self._descriptor)
            self._descriptor = None
        with contextlib.suppress(OSError):  # stops at the first one that is not empty
            for path in self.new_folders:
                path.rmdir()

    def _lock_file(self) -> None:
        """Lock the file.

        Raises:
            BlockingIOError: another run has locked it.
            FileNotFoundError: another run has just removed it, or the folder.
        """
        file = self.folder / LOCK
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(file, flags, 0o644)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InputError(f"{file} is not a regular file; remove it, or choose another --run.dir")
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(descriptor), os.stat(file)):
                raise FileNotFoundError
            os.ftruncate(descriptor, 0)
            os.write(descriptor, self._description())
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _acquire_lease(self, wait: float) -> None:
        lease, deadline = self.folder / LEASE, time.monotonic() + max(wait, LEASE_SECONDS + HEARTBEAT_SECONDS)
        (self.folder / LOCK).unlink(missing_ok=True)
        while True:
            with contextlib.suppress(FileExistsError):
                descriptor = os.open(lease, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
                os.write(descriptor, self._description())
                os.close(descriptor)
                break
            if self._is_stale(lease):
                # Of several processes that get here, one renames it; the others find another lease, or none.
                with contextlib.suppress(FileNotFoundError):
                    lease.rename(aside := self.folder / f"{LEASE}-{self._token}")
                    aside.unlink()
            elif time.monotonic() > deadline:
                raise InputError(
                    f"run.dir={self.folder} is in use by another run{self._holder(LEASE)}; "
                    "wait for it, or choose another --run.dir"
                )
            time.sleep(0.1)
        self._leased = True
        threading.Thread(target=self._keep_alive, daemon=True, name="lease").start()

    def _is_stale(self, lease: Path) -> bool:
        """Returns whether the holder of a lease is dead: its process on this host ended, or the lease is too old."""
        holder = self._read(LEASE)
        same_host = {name: holder.get(name) for name in ("host", "pids")} == _pid_namespace()
        if same_host and isinstance(holder.get("pid"), int) and not _is_alive(holder["pid"]):
            return True
        probe = self.folder / f"{LEASE}-{self._token}"
        try:
            probe.touch()  # uses the file system's clock, which may differ from this host's
            return probe.stat().st_mtime - lease.stat().st_mtime > LEASE_SECONDS
        except FileNotFoundError:
            return False
        finally:
            probe.unlink(missing_ok=True)

    def _keep_alive(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            try:
                if not self._reads_own_lease():
                    if not self._released.is_set():  # `release` also removes it
                        self._on_lost("another run took its folder over")
                    break
                os.utime(self.folder / LEASE)
            except OSError:  # the disk is unavailable for a moment
                pass

    def _reads_own_lease(self) -> bool:
        return self._read(LEASE).get("token") == self._token

    def _holder(self, name: str) -> str:
        holder = self._read(name)
        return f" (process {holder['pid']} on {holder['host']})" if {"pid", "host"} <= holder.keys() else ""

    def _read(self, name: str) -> dict[str, Any]:
        return read_holder(self.folder / name)

    def _description(self) -> bytes:
        return json.dumps({"pid": os.getpid(), **_pid_namespace(), "token": self._token}).encode()


def is_held(folder: Path) -> bool | None:
    """Returns whether a run holds the lock of a folder, without writing anything; None if that can't be known.

    To find out, the lock is shared for a moment. A run that starts in this moment tries again. If a run on another host
    left its lock file, a free lock proves nothing: some network file systems keep locks on each host.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return _lease_is_fresh(folder / LEASE)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    host = read_holder(folder / LOCK).get("host")
    return False if host in (None, socket.gethostname()) else None


def read_holder(file: Path) -> dict[str, Any]:
    """Returns what a lock file or lease says about the process that wrote it, unchecked; empty if it is damaged."""
    try:
        return parse_json_object(read_file(file, 4096))
    except BadFile:
        return {}


def _lease_is_fresh(lease: Path) -> bool | None:
    """Whether a lease was touched lately. The clock of its file system is taken to be that of this host."""
    try:
        return time.time() - os.lstat(lease).st_mtime <= LEASE_SECONDS
    except FileNotFoundError:
        return False
    except OSError:
        return None


def _pid_namespace() -> dict[str, str]:
    """Returns where this process's number is valid: the host, and the container on it."""
    try:
        pids = os.readlink("/proc/self/ns/pid")
    except OSError:
        pids = ""
    return {"host": socket.gethostname(), "pids": pids}


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
