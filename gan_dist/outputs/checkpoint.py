"""The checkpoints of a run, each complete or absent, and generator.safetensors."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gan_dist.config import InputError
from gan_dist.files import UNFINISHED, replacing, sync
from gan_dist.outputs.checkpoint_format import (
    FOLDER_NAME,
    Checkpoint,
    DamagedCheckpoint,
    ExpectedTensors,
    ForeignCheckpoint,
    Manifest,
    read_checkpoint,
    read_manifest,
    write_checkpoint,
)
from gan_dist.tensors import tensor_bytes


class Checkpoints:
    """Saves, removes and finds the checkpoints of one run. Only rank 0 uses it.

    Args:
        folder: of the checkpoints.
        keep: number of latest checkpoints to keep.
        is_permanent: step -> whether its checkpoint is never removed. Those that were written as permanent stay too.
        run_id: of the run. Checkpoints of other runs are neither used nor removed.
    """

    def __init__(
        self, folder: Path, keep: int, is_permanent: Callable[[int], bool] = lambda step: False, run_id: str = ""
    ) -> None:
        self.folder = folder
        self.keep = keep
        self.is_permanent = is_permanent
        self.run_id = run_id
        self._manifests: dict[int, Manifest | None] = {}

    def save(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        protected_step: int | None = None,
    ) -> Path:
        """Publish a checkpoint, then remove old ones.

        If the process or the machine dies at any point, the earlier checkpoints still exist.

        Args:
            step: completed steps.
            tensors: stem of a file -> name -> tensor, on any device.
            state: everything other than tensors, as JSON can hold it.
            protected_step: the step of an older checkpoint that must not be removed now.

        Raises:
            OSError: the disk failed; nothing was published or removed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f"{UNFINISHED}{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            write_checkpoint(temporary, step, tensors, state, self.run_id, self.is_permanent(step))
            published = self._path(step)
            self._move_aside(published)
            temporary.rename(published)
            sync(self.folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._manifests.pop(step, None)
        self._remove_old(step, protected_step)
        return published

    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints on disk in order, including damaged ones."""
        names = [FOLDER_NAME.fullmatch(entry.name) for entry in self.folder.glob("step-*")]
        steps = (int(name.group(1)) for name in names if name)
        return sorted(step for step in set(steps) if os.path.lexists(self._path(step)))

    def latest(
        self,
        announce: Callable[[str], None],
        expected: ExpectedTensors | None = None,
        accept: Callable[[Checkpoint], None] = lambda found: None,
    ) -> Checkpoint | None:
        """Read the latest intact checkpoint of this run; None if there are no checkpoints.

        Args:
            announce: called with one line for each damaged or foreign checkpoint that is skipped.
            expected: the tensors of this run's checkpoints; None: any.
            accept: called with an intact checkpoint; raises DamagedCheckpoint or ForeignCheckpoint if this run cannot
                resume from it.

        Raises:
            InputError: there are damaged checkpoints, and no intact one.
        """
        damaged = False
        for step in reversed(self.steps()):
            try:
                found = read_checkpoint(self._path(step), expected)
                if self.run_id not in ("", found.run_id):
                    raise ForeignCheckpoint("it has another run's id")
                accept(found)
                return found
            except DamagedCheckpoint as damage:
                damaged = True
                announce(f"{self._path(step)} is damaged and skipped: {damage}")
            except ForeignCheckpoint as reason:
                announce(f"{self._path(step)} belongs to another run and is skipped: {reason}")
        if damaged:
            raise InputError(
                f"{self.folder} has no intact checkpoint; choose another --run.dir, or delete the run to start again"
            )
        return None

    def _remove_old(self, step: int, protected_step: int | None) -> None:
        """Remove old checkpoints after that of `step` was published.

        Only those up to `step`: a later one is not of this trajectory.
        """
        own = [old for old in self.steps() if old <= step and self._manifest_of(old) is not None]
        for old in own[: -self.keep]:
            manifest = self._manifest_of(old)
            if not (self.is_permanent(old) or old == protected_step or (manifest is not None and manifest.permanent)):
                shutil.rmtree(self._path(old), ignore_errors=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _manifest_of(self, step: int) -> Manifest | None:
        """Returns the manifest of a checkpoint of this run; None if it is damaged or foreign."""
        if step not in self._manifests:
            try:
                manifest = read_manifest(self._path(step))
            except DamagedCheckpoint:
                self._manifests[step] = None
            else:
                self._manifests[step] = manifest if manifest.run_id == self.run_id else None
        return self._manifests[step]

    def _move_aside(self, published: Path) -> None:
        """Rename what exists at a checkpoint's path: a damaged or foreign checkpoint, or another file."""
        if os.path.lexists(published):
            names = (published.with_name(f"replaced-{i}-{published.name}") for i in itertools.count(1))
            published.rename(next(name for name in names if not os.path.lexists(name)))


def save_generator(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a generator as safetensors, atomically.

    Args:
        file: its path.
        tensors: name -> tensor.
        metadata: describes the network.
    """
    with replacing(file) as temporary:
        temporary.write_bytes(tensor_bytes(tensors, metadata))
