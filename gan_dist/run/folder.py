"""Names and paths of all that a run leaves behind, and writing that is whole or absent."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gan_dist.config import InputError

UNFINISHED = ".writing-"  # begins the name of whatever is not whole yet


class RunFolder:
    """The layout of a run folder. Making one touches nothing on disk."""

    def __init__(self, path: Path) -> None:
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
        self._lock: int | None = None

    def epoch_samples(self, epoch: int) -> Path:
        return self.samples / f"epoch-{epoch:04d}.png"

    def epochs_with_samples(self) -> list[int]:
        """The epochs (from 1) whose grid is on disk, in order."""
        return sorted(int(file.stem.removeprefix("epoch-")) for file in self.samples.glob("epoch-*.png"))

    def holds_a_run(self) -> bool:
        return self.config.exists()

    def write_status(self, state: str, step: int, reason: str = "") -> None:
        """Say how the run stands: running, stopped, finished or failed, after so many steps, and why."""
        write_json(self.status, {"state": state, "step": step, "reason": reason, "time": timestamp()})

    def nearest_existing(self) -> Path:
        """The folder itself, or the nearest one above it that is there: on the disk where the run is going to be."""
        return next(path for path in (self.path, *self.path.absolute().parents) if path.exists())

    def check_usable(self, needed_bytes: int = 0) -> None:
        """Find out, and leave nothing behind, whether a run can be kept here.

        Raises:
            InputError: the folder can't be made, read or written, or its disk has less room than `needed_bytes`.
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
            raise InputError(
                f"run.dir={self.path}: its disk is full, {free / 1e6:.1f} MB are left and the run needs "
                f"{needed_bytes / 1e6:.1f} MB; make room, or choose another with --run.dir"
            )

    def leave_mark(self) -> str:
        """Leave an empty file where the run is going to be, so that other hosts can see that it is the same place.

        Returns:
            Its name, for `sees` there, and for `remove_mark`.

        Raises:
            OSError: it can't be written.
        """
        name = f"{UNFINISHED}{uuid.uuid4()}"  # new each time: no file system remembers that it was not there
        (self.nearest_existing() / name).touch()
        return name

    def sees(self, mark: str, wait: float = 2.0) -> bool:
        """Whether what another host left with `leave_mark` turns up here, in so many seconds.

        The folder itself may not exist yet, so the mark may be in any of those above.
        """
        give_up = time.monotonic() + wait
        while not any((above / mark).exists() for above in (self.path, *self.path.absolute().parents)):
            if time.monotonic() > give_up:
                return False
            time.sleep(0.1)
        return True

    def remove_mark(self, mark: str) -> None:
        """Remove what `leave_mark` left."""
        (self.nearest_existing() / mark).unlink(missing_ok=True)

    def lock(self, wait: float = 10.0) -> None:
        """Keep every other run out of the folder, which exists, until `close` or this process's death.

        Args:
            wait: seconds to wait for a run that is just ending.

        Raises:
            InputError: another process trains in this folder.
        """
        self._lock = os.open(self.path, os.O_RDONLY)
        give_up = time.monotonic() + wait
        while True:
            try:
                return fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > give_up:
                    self.close()
                    raise InputError(
                        f"run.dir={self.path} is in use by another process; wait for it, or choose another"
                    ) from error
                time.sleep(0.1)

    def remove_unfinished(self) -> None:
        """Remove what killed processes left half-written. Call it only while the folder is locked."""
        for folder in (self.path, self.samples, self.checkpoints):
            for beside in folder.glob(f"{UNFINISHED}*"):
                shutil.rmtree(beside) if beside.is_dir() else beside.unlink()

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def timestamp() -> str:
    """Now, in UTC, to the second (ISO 8601)."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: the file can't be read or holds no JSON object.
    """
    try:
        values = json.loads(file.read_text())
    except OSError as error:
        raise InputError(f"{file} can't be read ({error.strerror}); choose another --run.dir") from error
    except ValueError as error:
        raise InputError(f"{file} is damaged ({error}); restore it, or choose another --run.dir") from error
    if not isinstance(values, dict):
        raise InputError(f"{file} holds no JSON object; restore it, or choose another --run.dir")
    return values


def read_json_lines(file: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file, in order; a last line that a crash cut off is left out."""
    rows = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object atomically."""
    with replacing(file) as beside:
        beside.write_text(json.dumps(values, indent=2) + "\n")


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path beside `file` to write to; it takes the file's place when the block ends well, else it is removed."""
    beside = file.with_name(f"{UNFINISHED}{os.getpid()}-{file.name}")
    try:
        yield beside
        with open(beside, "rb") as written:
            os.fsync(written.fileno())
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
