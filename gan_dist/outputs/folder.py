"""Names and paths of all that a run leaves behind, and writing that is whole or absent."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from gan_dist.config import InputError, TrainingFailed
from gan_dist.files import UNFINISHED, write_json
from gan_dist.outputs.lock import RunLock


class RunFolder:
    """The layout of a run folder. Making one touches nothing on disk."""

    def __init__(self, path: Path) -> None:
        self._lock: RunLock | None = None
        self.use(path)

    def use(self, path: Path) -> None:
        """Be the layout of another folder."""
        self.path = path
        self.config = path / "config.json"
        self.environment = path / "environment.json"
        self.status = path / "status.json"
        self.metrics = path / "metrics.jsonl"
        self.evaluation = path / "evaluation.json"
        self.evaluations = path / "evaluations.jsonl"
        self.floor = path / "floor.json"
        self.hashes = path / "hashes.jsonl"
        self.samples = path / "samples"
        self.real_samples = self.samples / "real.png"
        self.checkpoints = path / "checkpoints"
        self.generator = path / "generator.safetensors"
        self.live_generator = path / "generator-live.safetensors"
        self.best_generator = path / "generator-best.safetensors"
        self.curves = path / "curves.png"
        self.panel = path / "panel.png"
        self.summary = path / "summary.json"
        self.wandb = path / "wandb"
        self.profile = path / "profile"

    def epoch_samples(self, epoch: int) -> Path:
        return self.samples / f"epoch-{epoch:04d}.png"

    def epochs_with_samples(self) -> list[int]:
        """The epochs (from 1) whose grid is on disk, in order."""
        names = [re.fullmatch(r"epoch-(\d{4,15})\.png", file.name) for file in self.samples.glob("epoch-*.png")]
        return sorted(int(name.group(1)) for name in names if name)

    def holds_a_run(self) -> bool:
        return os.path.lexists(self.config)

    def files_of_others(self) -> list[str]:
        """Names of what is in the folder apart from hidden files, logs, and a disk's lost+found."""
        logs = (".log", ".out", ".err", ".txt")
        names = sorted(entry.name for entry in self.path.iterdir())
        return [name for name in names if not name.startswith(".") and not name.endswith(logs) and name != "lost+found"]

    def write_status(self, state: str, step: int, reason: str = "") -> None:
        """Say how the run stands: running, stopped, finished or failed, after so many steps, and why."""
        write_json(self.status, {"state": state, "step": step, "reason": reason, "time": timestamp()})

    def nearest_existing(self) -> Path:
        """The folder itself, or the nearest one above it that is there: on the disk where the run is going to be."""
        return next(path for path in (self.path, *self.path.absolute().parents) if path.exists())

    def check_usable(self, needed_bytes: int = 0) -> None:
        """Find out, and leave nothing behind, whether a run can be kept here.

        Raises:
            InputError: the folder can't be made, read or written.
            TrainingFailed: its disk has less room than `needed_bytes`, which may be otherwise at another try.
        """
        existing = self.nearest_existing()
        try:
            os.listdir(existing)
            with tempfile.TemporaryFile(dir=existing) as probe:
                probe.write(b"\0" * 4096)
            free = shutil.disk_usage(existing).free
        except OSError as error:
            raise InputError(
                f"run.dir={self.path} can't be used ({existing}: {error.strerror}); choose another with --run.dir"
            ) from error
        if free < needed_bytes:
            raise TrainingFailed(
                f"run.dir={self.path}: its disk is full, {free / 1e6:.1f} MB are left and the run needs "
                f"{needed_bytes / 1e6:.1f} MB; make room, or choose another with --run.dir"
            )

    def leave_mark(self) -> str:
        """Leave an empty file where the run is kept, so that other hosts can see that it is the same place.

        The folder must be locked.

        Returns:
            Its name, for `sees` there, and for `remove_mark`.

        Raises:
            OSError: it can't be written.
        """
        name = f"{UNFINISHED}{uuid.uuid4()}"  # new each time: no file system remembers that it was not there
        (self._place_for_mark() / name).touch()
        return name

    def sees(self, mark: str, wait: float = 2.0) -> bool:
        """Whether what another host left with `leave_mark` turns up here, in so many seconds.

        The folder itself may be new, so the mark may be in any of those above.
        """
        give_up = time.monotonic() + wait
        while not any((above / mark).exists() for above in (self.path, *self.path.absolute().parents)):
            if time.monotonic() > give_up:
                return False
            time.sleep(0.1)
        return True

    def remove_mark(self, mark: str) -> None:
        """Remove what `leave_mark` left."""
        (self._place_for_mark() / mark).unlink(missing_ok=True)

    def _place_for_mark(self) -> Path:
        """The innermost folder that was there before `lock`: other hosts may remember that newer ones were not."""
        if self._lock is not None and self._lock.new_folders:
            return self._lock.new_folders[-1].parent
        return self.path

    def lock(self, announce: Callable[[str], None], on_lost: Callable[[str], None], wait: float = 10.0) -> None:
        """Keep every other run out of the folder until `close` or this process's death; make it if it is not there.

        Args:
            announce, on_lost: as for `RunLock`.
            wait: seconds to wait for a run that is just ending.

        Raises:
            InputError: another process trains in this folder.
            OSError: it can't be made or written.
        """
        lock = RunLock(self.path, announce, on_lost)
        lock.acquire(wait)
        self._lock = lock

    def remove_unfinished(self) -> None:
        """Remove what killed processes left half-written. Call it only while the folder is locked."""
        for folder in (self.path, self.samples, self.checkpoints):
            for beside in folder.glob(f"{UNFINISHED}*"):
                shutil.rmtree(beside) if beside.is_dir() else beside.unlink()

    def close(self) -> None:
        """Give the lock back. A folder that `lock` made and nothing came into is removed."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def timestamp() -> str:
    """Now, in UTC, to the second (ISO 8601)."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
