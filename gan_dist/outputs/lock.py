"""One run at a time in a folder."""

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
LEASE_SECONDS = 60.0  # without a sign of life for so long, the holder of a lease is taken for dead
HEARTBEAT_SECONDS = 10.0
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # what a file system without locks answers


class RunLock:
    """Keeps every other run out of a folder until `release` or this process's death.

    The folder is made if it does not exist, so that two runs that start at the same time meet here and nowhere later.
    A lock of the operating system (flock) on RUN/.lock ends with the process. Some network file systems have none:
    there the file RUN/.lease is touched regularly instead, and one that was not for `LEASE_SECONDS` is ignored.

    Args:
        folder: the run's folder.
        announce: called with one line if the file system has no locks.
        on_lost: called, from another thread, if another run took the folder over while this process was suspended.
    """

    def __init__(self, folder: Path, announce: Callable[[str], None], on_lost: Callable[[str], None]) -> None:
        self.folder = folder
        self.new_folders = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
        """Folders that did not exist before, the innermost first."""
        self._announce = announce
        self._on_lost = on_lost
        self._descriptor: int | None = None
        self._token = uuid.uuid4().hex
        self._leased = False
        self._released = threading.Event()

    def acquire(self, wait: float = 10.0) -> None:
        """Take the lock.

        Args:
            wait: seconds to wait for a run that is just ending; for a lease that may be stale it waits longer.

        Raises:
            InputError: another run has the folder.
            OSError: the folder can't be made or written.
        """
        give_up = time.monotonic() + wait
        while True:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                if self._try():
                    return None
            except FileNotFoundError:  # another run has just removed a folder that it did not need after all
                if time.monotonic() > give_up:
                    raise
            except BlockingIOError as error:
                if time.monotonic() > give_up:
                    raise InputError(
                        f"run.dir={self.folder} is in use by another run{self._holder(LOCK)}; "
                        "wait for it, or choose another --run.dir"
                    ) from error
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                self._announce(
                    f"{self.folder} is on a file system without locks ({error.strerror}); "
                    f"the file {LEASE} in it keeps other runs out"
                )
                return self._acquire_lease(wait)
            time.sleep(0.1)

    def release(self) -> None:
        """Give the lock back, and remove folders that `acquire` made if nothing else came into them."""
        self._released.set()
        if self._leased and self._reads_own_lease():
            (self.folder / LEASE).unlink(missing_ok=True)
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                (self.folder / LOCK).unlink()
            os.close(self._descriptor)
            self._descriptor = None
        with contextlib.suppress(OSError):  # the first one that is not empty ends it
            for path in self.new_folders:
                path.rmdir()

    def _try(self) -> bool:
        """Lock the file; False if it was removed meanwhile, by the run that had the lock."""
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
        return True

    def _acquire_lease(self, wait: float) -> None:
        lease, give_up = self.folder / LEASE, time.monotonic() + max(wait, LEASE_SECONDS + HEARTBEAT_SECONDS)
        (self.folder / LOCK).unlink(missing_ok=True)
        while True:
            with contextlib.suppress(FileExistsError):
                descriptor = os.open(lease, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
                os.write(descriptor, self._description())
                os.close(descriptor)
                break
            if self._is_stale(lease):
                # Of several that see this, one renames it; whoever comes too late finds another one's lease, or none.
                with contextlib.suppress(FileNotFoundError):
                    lease.rename(aside := self.folder / f"{LEASE}-{self._token}")
                    aside.unlink()
            elif time.monotonic() > give_up:
                raise InputError(
                    f"run.dir={self.folder} is in use by another run{self._holder(LEASE)}; "
                    "wait for it, or choose another --run.dir"
                )
            time.sleep(0.1)
        self._leased = True
        threading.Thread(target=self._keep_alive, daemon=True, name="lease").start()

    def _is_stale(self, lease: Path) -> bool:
        """Whether the holder of a lease is dead: its process is gone on this host, or the lease is too old."""
        holder = self._read(LEASE)
        here = {name: holder.get(name) for name in ("host", "pids")} == _place()
        if here and isinstance(holder.get("pid"), int) and not _is_alive(holder["pid"]):
            return True
        probe = self.folder / f"{LEASE}-{self._token}"
        try:
            probe.touch()  # by the file system's own clock, which may differ from this host's
            return probe.stat().st_mtime - lease.stat().st_mtime > LEASE_SECONDS
        except FileNotFoundError:
            return False
        finally:
            probe.unlink(missing_ok=True)

    def _keep_alive(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            try:
                if not self._reads_own_lease():
                    if not self._released.is_set():  # `release` removes it, too
                        self._on_lost("another run took its folder over")
                    break
                os.utime(self.folder / LEASE)
            except OSError:  # the disk is away for a moment
                pass

    def _reads_own_lease(self) -> bool:
        return self._read(LEASE).get("token") == self._token

    def _holder(self, name: str) -> str:
        holder = self._read(name)
        return f" (process {holder['pid']} on {holder['host']})" if {"pid", "host"} <= holder.keys() else ""

    def _read(self, name: str) -> dict[str, Any]:
        try:
            return parse_json_object(read_file(self.folder / name, 4096))
        except BadFile:
            return {}

    def _description(self) -> bytes:
        return json.dumps({"pid": os.getpid(), **_place(), "token": self._token}).encode()


def _place() -> dict[str, str]:
    """Where a process number means this process: the host, and the container on it."""
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
