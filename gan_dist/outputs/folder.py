"""The layout of a run folder, its lock, and its status."""

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
    """The paths in a run folder. The constructor does not access the disk."""

    def __init__(self, path: Path) -> None:
        self._lock: RunLock | None = None
        self.use(path)

    def use(self, path: Path) -> None:
        """Switch to another folder."""
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
        self.tensorboard = path / "tensorboard"
        self.profile = path / "profile"

    def epoch_samples(self, epoch: int) -> Path:
        return self.samples / f"epoch-{epoch:04d}.png"

    def epochs_with_samples(self) -> list[int]:
        """Returns the epochs (from 1) whose sample grid is on disk, in order."""
        names = [re.fullmatch(r"epoch-(\d{4,15})\.png", file.name) for file in self.samples.glob("epoch-*.png")]
        return sorted(int(name.group(1)) for name in names if name)

    def holds_a_run(self) -> bool:
        return os.path.lexists(self.config)

    def check_holds_a_run(self) -> None:
        """Check that there is a run to read.

        Raises:
            InputError: there is none.
        """
        if not self.holds_a_run():
            raise InputError(
                f"{self.path} holds no run: there is no {self.config.name} in it; give the folder of a run"
            )

    def unrelated_files(self) -> list[str]:
        """Returns the names in the folder, without hidden files, logs, and lost+found."""
        logs = (".log", ".out", ".err", ".txt")
        names = sorted(entry.name for entry in self.path.iterdir())
        return [name for name in names if not name.startswith(".") and not name.endswith(logs) and name != "lost+found"]

    def write_status(self, state: str, step: int, reason: str = "") -> None:
        """Write status.json.

        Args:
            state: running, stopped, finished or failed.
            step: completed steps.
            reason: why, in one line.
        """
        write_json(self.status, {"state": state, "step": step, "reason": reason, "time": timestamp()})

    def nearest_existing(self) -> Path:
        """Returns the folder, or its nearest parent that exists: both are on the disk of the run."""
        return next(path for path in (self.path, *self.path.absolute().parents) if path.exists())

    def check_usable(self, needed_bytes: int = 0) -> None:
        """Check that the folder can be used, without leaving anything in it.

        Raises:
            InputError: the folder cannot be created, read or written.
            TrainingFailed: its disk has less free space than `needed_bytes`; a retry may succeed.
        """
        existing = self.nearest_existing()
        try:
            os.listdir(existing)
            with tempfile.TemporaryFile(dir=existing) as probe:
                probe.write(b"\0" * 4096)
            free = shutil.disk_usage(existing).free
        except OSError as error:
            raise InputError(
                f"run.dir={self.path} can't be used ({existing}: {error.strerror}); choose another --run.dir"
            ) from error
        if free < needed_bytes:
            raise TrainingFailed(
                f"run.dir={self.path}: its disk is full, {free / 1e6:.1f} MB are free and the run needs "
                f"{needed_bytes / 1e6:.1f} MB; make room, or choose another --run.dir"
            )

    def create_marker(self) -> str:
        """Create an empty file, so that other hosts can check that they see the same folder. It must be locked.

        Returns:
            The name of the file, for `sees_marker` and `remove_marker`.

        Raises:
            OSError: it cannot be written.
        """
        name = f"{UNFINISHED}{uuid.uuid4()}"  # a new name, because file systems may cache that a file is missing
        (self._marker_folder() / name).touch()
        return name

    def sees_marker(self, marker: str, wait: float = 2.0) -> bool:
        """Returns whether another host's `create_marker` becomes visible here within `wait` seconds.

        The folder may be new, so the marker may be in any of its parents.
        """
        deadline = time.monotonic() + wait
        while not any((folder / marker).exists() for folder in (self.path, *self.path.absolute().parents)):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def remove_marker(self, marker: str) -> None:
        """Remove the file of `create_marker`."""
        (self._marker_folder() / marker).unlink(missing_ok=True)

    def _marker_folder(self) -> Path:
        """The innermost folder that existed before `lock`: other hosts may have cached that newer ones are missing."""
        if self._lock is not None and self._lock.new_folders:
            return self._lock.new_folders[-1].parent
        return self.path

    def lock(self, announce: Callable[[str], None], on_lost: Callable[[str], None], wait: float = 10.0) -> None:
        """Keep other runs out of the folder until `close` or the end of this process. Creates the folder if needed.

        Args:
            announce, on_lost: see `RunLock`.
            wait: seconds to wait for a run that is about to end.

        Raises:
            InputError: another run uses the folder.
            OSError: it cannot be created or written.
        """
        lock = RunLock(self.path, announce, on_lost)
        lock.acquire(wait)
        self._lock = lock

    def remove_unfinished(self) -> None:
        """Remove incomplete files of killed processes. The folder must be locked."""
        for folder in (self.path, self.samples, self.checkpoints):
            for temporary in folder.glob(f"{UNFINISHED}*"):
                is_folder = temporary.is_dir() and not temporary.is_symlink()
                shutil.rmtree(temporary) if is_folder else temporary.unlink()

    def close(self) -> None:
        """Release the lock. Removes the folder if `lock` created it and it is empty."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def timestamp() -> str:
    """Returns the current time in UTC, in seconds (ISO 8601)."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
