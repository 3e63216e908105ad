"""Checkpoints that are whole or absent: written beside, fsynced, hashed, renamed; verified before use."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor
from torch.optim import Optimizer

from gan_dist.config import InputError
from gan_dist.files import MAX_JSON_BYTES, UNFINISHED, BadFile, parse_json_object, read_file, replacing, sync
from gan_dist.tensors import check_tensors, read_tensors

FORMAT = 3
MANIFEST = "manifest.json"
STATE = "state.json"
MAX_BYTES = 2**36  # of a file whose content is not known before
MAX_HEADER_BYTES = 2**20  # of a safetensors file
_NAME = re.compile(r"step-(\d{8,15})")
_FILE = re.compile(r"\w{1,64}\.(safetensors|json)")  # no way out of the folder

Expected = Mapping[str, Mapping[str, Tensor]]
"""File's stem -> name -> a tensor of the right shape and dtype, which may be on the meta device."""


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on, on the CPU."""

    step: int
    run_id: str
    """Of the run that wrote it."""
    tensors: dict[str, dict[str, Tensor]]
    """File's stem -> name -> tensor."""
    state: dict[str, Any]
    """What is not a tensor."""


class Damaged(Exception):
    """A checkpoint on disk that is not what was written; says which file and how."""


class Foreign(Exception):
    """A checkpoint that another run wrote; says how that is seen."""


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself."""

    run_id: str
    permanent: bool
    """It is kept for good."""
    files: dict[str, tuple[int, str]]
    """Name -> size in bytes, sha256."""


class Checkpoints:
    """The checkpoints of one run. Only rank 0 has use for one.

    A checkpoint is a folder step-00000600 of safetensors files, state.json, and manifest.json with the size and
    sha256 of each. Neither format can execute code when it is read.

    Args:
        folder: where they are.
        keep: how many of the newest stay.
        stays: step -> whether its checkpoint is kept for good. What was written to be kept stays in any case.
        run_id: of the run. Other runs' checkpoints are neither read nor removed.
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
        spare: int | None = None,
    ) -> Path:
        """Publish a checkpoint, then remove those that are too old.

        Whenever the process or the machine dies in here, the checkpoints that were there before are still there.

        Args:
            step: completed steps.
            tensors: file's stem -> name -> tensor, on any device.
            state: what is not a tensor, as JSON can hold it.
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
                "run": self.run_id,
                "step": step,
                "permanent": self.is_permanent(step),
                "files": {name: _fingerprint(content) for name, content in files.items()},
            }
            files[MANIFEST] = json.dumps(manifest, indent=1).encode()
            for name, content in files.items():
                _write_durably(beside / name, content)
            sync(beside)
            published = self._path(step)
            self._move_aside(published)
            beside.rename(published)
            sync(self.folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        self._manifests.pop(step, None)
        # Only now, and only steps that this trajectory has passed: a newer one can't be this run's.
        own = [old for old in self.steps() if old <= step and self._manifest_of(old) is not None]
        for old in own[: -self.keep]:
            found = self._manifest_of(old)
            if not (self.is_permanent(old) or old == spare or (found is not None and found.permanent)):
                shutil.rmtree(self._path(old), ignore_errors=True)
        return published

    def steps(self) -> list[int]:
        """Steps of the checkpoints on disk, whole or not, in order."""
        names = [_NAME.fullmatch(entry.name) for entry in self.folder.glob("step-*")]
        steps = (int(name.group(1)) for name in names if name)
        return sorted(step for step in set(steps) if os.path.lexists(self._path(step)))

    def newest(
        self,
        announce: Callable[[str], None],
        expected: Expected | None = None,
        accept: Callable[[Checkpoint], None] = lambda found: None,
    ) -> Checkpoint | None:
        """Read the newest whole checkpoint of this run; None if there are none.

        Args:
            announce: called with one line for each damaged or foreign one that is passed over.
            expected: the tensors that this run's checkpoints have; None: they are not checked.
            accept: called with a checkpoint that is whole; raises Damaged or Foreign if this run can't go on from it.

        Raises:
            InputError: there are damaged checkpoints, and not one is whole.
        """
        damaged = False
        for step in reversed(self.steps()):
            try:
                found = read_checkpoint(self._path(step), expected)
                if self.run_id not in ("", found.run_id):
                    raise Foreign("it has another run's id")
                accept(found)
                return found
            except Damaged as damage:
                damaged = True
                announce(f"{self._path(step)} is damaged and passed over: {damage}")
            except Foreign as reason:
                announce(f"{self._path(step)} belongs to another run and is passed over: {reason}")
        if damaged:
            raise InputError(
                f"{self.folder} holds no whole checkpoint; choose another --run.dir, or delete the run to start again"
            )
        return None

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _manifest_of(self, step: int) -> Manifest | None:
        """The manifest of a checkpoint of this run; None if it is damaged or another run's."""
        if step not in self._manifests:
            try:
                manifest = read_manifest(self._path(step))
            except Damaged:
                self._manifests[step] = None
            else:
                self._manifests[step] = manifest if manifest.run_id == self.run_id else None
        return self._manifests[step]

    def _move_aside(self, published: Path) -> None:
        """Give another name to what is in a checkpoint's place: a damaged or foreign one, or no folder at all."""
        if os.path.lexists(published):
            names = (published.with_name(f"replaced-{i}-{published.name}") for i in itertools.count(1))
            published.rename(next(name for name in names if not os.path.lexists(name)))


def read_manifest(path: Path) -> Manifest:
    """Read what a checkpoint says of itself.

    Raises:
        Damaged: it is not what `Checkpoints.save` writes.
    """
    if path.is_symlink() or not path.is_dir():
        raise Damaged("it is not a folder")
    manifest = _parse(MANIFEST, _read(path / MANIFEST, MAX_JSON_BYTES))
    name = _NAME.fullmatch(path.name)
    if manifest.get("format") != FORMAT or name is None or not _is_count(manifest.get("step")):
        raise Damaged(f"{MANIFEST} belongs to another format or step")
    if manifest["step"] != int(name.group(1)):
        raise Damaged(f"{MANIFEST} belongs to another format or step")
    run_id, permanent, entries = manifest.get("run"), manifest.get("permanent"), manifest.get("files")
    if not isinstance(run_id, str) or not isinstance(permanent, bool) or not isinstance(entries, dict):
        raise Damaged(f"{MANIFEST} has fields of other types than it is written with")
    files = {}
    for file, entry in entries.items():
        if not _FILE.fullmatch(file) or file == MANIFEST:
            raise Damaged(f"{MANIFEST} names a file that no checkpoint has: {file[:100]!r}")
        size, sha256 = (entry.get("size"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
        if not (isinstance(size, int) and _is_count(size) and isinstance(sha256, str)):
            raise Damaged(f"{MANIFEST} does not give the size and sha256 of {file}")
        files[file] = size, sha256
    if STATE not in files:
        raise Damaged(f"{MANIFEST} does not name {STATE}")
    return Manifest(run_id, permanent, files)


def read_checkpoint(path: Path, expected: Expected | None = None) -> Checkpoint:
    """Read and verify one checkpoint. Nothing outside its folder is read.

    Args:
        path: its folder.
        expected: the tensors that it has to have; None: they are not checked.

    Raises:
        Damaged: a file is missing, is not what the manifest says, or holds other tensors than expected.
    """
    manifest = read_manifest(path)
    stems = {Path(name).stem for name in manifest.files} - {"state"}
    if expected is not None and (differing := expected.keys() ^ stems):
        raise Damaged(f"{MANIFEST} names other files than a checkpoint of this run has ({min(differing)})")
    tensors: dict[str, dict[str, Tensor]] = {}
    state: dict[str, Any] = {}
    for name, (size, sha256) in manifest.files.items():
        most = _bytes_of(expected[Path(name).stem]) if expected is not None and name != STATE else MAX_BYTES
        content = _read(path / name, min(size, most))
        if _fingerprint(content) != {"size": size, "sha256": sha256}:
            raise Damaged(f"{name} is not what {MANIFEST} says (its size or sha256 differs)")
        if name.endswith(".json"):
            if name == STATE:
                state = _parse(STATE, content)
            continue
        stem = name.removesuffix(".safetensors")
        try:
            tensors[stem], _ = read_tensors(content)
            if expected is not None:
                check_tensors(tensors[stem], expected[stem])
        except BadFile as error:
            raise Damaged(f"{name} {error}") from error
    return Checkpoint(int(path.name.removeprefix("step-")), manifest.run_id, tensors, state)


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


def _bytes_of(tensors: Mapping[str, Tensor]) -> int:
    """The most that a file of such tensors takes."""
    return MAX_HEADER_BYTES + sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _write_durably(file: Path, content: bytes) -> None:
    with open(file, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _read(file: Path, max_bytes: int) -> bytes:
    try:
        return read_file(file, max_bytes, follow_links=False)
    except BadFile as error:
        raise Damaged(f"{file.name} {error}") from error


def _parse(name: str, content: bytes) -> dict[str, Any]:
    try:
        return parse_json_object(content)
    except BadFile as error:
        raise Damaged(f"{name} {error}") from error


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
