"""Checkpoints that are whole or absent: written beside, fsynced, hashed, renamed; verified before use."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor
from torch.optim import Optimizer

from gan_dist.config import InputError
from gan_dist.run.folder import UNFINISHED, replacing

FORMAT = 2
MANIFEST = "manifest.json"
STATE = "state.json"
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on, on the CPU."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    """File's stem -> name -> tensor."""
    state: dict[str, Any]
    """What is no tensor."""


class Damaged(Exception):
    """A checkpoint on disk that is not what was written; says which file and how."""


class Checkpoints:
    """The checkpoints of one run. Only rank 0 has use for one.

    A checkpoint is a folder step-00000600 of safetensors files, state.json, and manifest.json with the size and
    sha256 of each. Neither format can execute code when it is read.

    Args:
        folder: where they are.
        keep: how many of the newest stay.
        stays: step -> whether its checkpoint stays for good.
    """

    def __init__(self, folder: Path, keep: int, stays: Callable[[int], bool] = lambda step: False) -> None:
        self.folder = folder
        self.keep = keep
        self.stays = stays

    def save(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        spare: int | None = None,
    ) -> Path:
        """Publish a checkpoint, then remove those that are too old.

        Whenever the process or the machine dies in here, the checkpoints that were there before are still there.

        Args:
            step: completed steps.
            tensors: file's stem -> name -> tensor, on any device.
            state: what is no tensor, as JSON can hold it.
            spare: the step of an older one that must not be removed now.

        Raises:
            OSError: the disk refused; nothing was published, nothing removed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        beside = self.folder / f"{UNFINISHED}{os.getpid()}"
        shutil.rmtree(beside, ignore_errors=True)
        try:
            beside.mkdir()
            files = {
                f"{stem}.safetensors": safetensors.torch.save({k: t.contiguous() for k, t in group.items()})
                for stem, group in tensors.items()
            }
            files[STATE] = json.dumps({**state, "step": step}, indent=1).encode()
            manifest = {
                "format": FORMAT,
                "step": step,
                "files": {name: _fingerprint(content) for name, content in files.items()},
            }
            files[MANIFEST] = json.dumps(manifest, indent=1).encode()
            for name, content in files.items():
                _write_durably(beside / name, content)
            _fsync(beside)
            published = self._path(step)
            if published.exists():  # it was found damaged, or the run would have gone on from it
                shutil.rmtree(published)
            beside.rename(published)
            _fsync(self.folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        # Only now, and only steps that this trajectory has passed: a newer one can't be this run's.
        for old in [s for s in self.steps() if s <= step][: -self.keep]:
            if not self.stays(old) and old != spare:
                shutil.rmtree(self._path(old), ignore_errors=True)
        return published

    def steps(self) -> list[int]:
        """Steps of the checkpoints on disk, whole or not, in order."""
        names = [_NAME.fullmatch(entry.name) for entry in self.folder.glob("step-*")]
        return sorted(int(name.group(1)) for name in names if name)

    def newest(self, announce: Callable[[str], None]) -> Checkpoint | None:
        """Read the newest whole checkpoint; None if there are none.

        Args:
            announce: called with one line for each damaged one that is passed over.

        Raises:
            InputError: there are checkpoints, and not one is whole.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return read_checkpoint(self._path(step))
            except Damaged as damage:
                announce(f"{self._path(step)} is damaged and passed over: {damage}")
        if steps:
            raise InputError(
                f"{self.folder} holds no whole checkpoint; choose another --run.dir, or delete the run to start again"
            )
        return None

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and verify one checkpoint.

    Raises:
        Damaged: a file is missing, or is not what the manifest says.
    """
    manifest = _parse(MANIFEST, _read(path / MANIFEST))
    if manifest.get("format") != FORMAT or path.name != f"step-{manifest.get('step', -1):08d}":
        raise Damaged(f"{MANIFEST} belongs to another format or step")
    contents = {}
    for name, expected in manifest.get("files", {}).items():
        contents[name] = _read(path / name)
        if _fingerprint(contents[name]) != expected:
            raise Damaged(f"{name} is not what {MANIFEST} says (its size or sha256 differs)")
    if STATE not in contents:
        raise Damaged(f"{MANIFEST} does not name {STATE}")
    state = _parse(STATE, contents.pop(STATE))
    tensors = {name.removesuffix(".safetensors"): safetensors.torch.load(c) for name, c in contents.items()}
    return Checkpoint(manifest["step"], tensors, state)


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as flat tensors, "<parameter's index>.<name>"; the hyperparameters are the config's."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor for index, slots in state.items() for name, tensor in slots.items()}


def load_optimizer_tensors(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save_generator(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write the generator to use, atomically, as safetensors with its description in the metadata."""
    with replacing(file) as beside:
        beside.write_bytes(safetensors.torch.save({k: t.contiguous() for k, t in tensors.items()}, dict(metadata)))


def _fingerprint(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _write_durably(file: Path, content: bytes) -> None:
    with open(file, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _fsync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise Damaged(f"{file.name} can't be read ({error.strerror})") from error


def _parse(name: str, content: bytes) -> dict[str, Any]:
    try:
        values = json.loads(content)
    except ValueError as error:
        raise Damaged(f"{name} is no JSON") from error
    if not isinstance(values, dict):
        raise Damaged(f"{name} holds no JSON object")
    return values
