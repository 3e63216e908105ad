"""The files of a checkpoint: written durably, hashed, and verified when they are read.

A checkpoint is a folder step-00000600 of safetensors files, state.json, and manifest.json with the size and sha256 of
each. Neither format can execute code when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from gan_dist.files import MAX_JSON_BYTES, BadFile, is_whole, parse_json_object, read_file, sync
from gan_dist.tensors import check_tensors, read_tensors, tensor_bytes

FORMAT = 3
MANIFEST = "manifest.json"
STATE = "state.json"
FOLDER_NAME = re.compile(r"step-(\d{8,15})")
MAX_BYTES = 2**36  # of a file whose tensors are not known beforehand
MAX_HEADER_BYTES = 2**20  # of a safetensors file
_FILE_NAME = re.compile(r"\w{1,64}\.(safetensors|json)")  # no path out of the folder

ExpectedTensors = Mapping[str, Mapping[str, Tensor]]
"""Stem of a file -> name -> a tensor of the right shape and dtype, which may be on the meta device."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to resume, on the CPU."""

    step: int
    run_id: str
    """Of the run that wrote it."""
    tensors: dict[str, dict[str, Tensor]]
    """Stem of a file -> name -> tensor."""
    state: dict[str, Any]
    """Everything other than tensors."""


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json."""

    run_id: str
    permanent: bool
    """Whether the checkpoint is never removed."""
    files: dict[str, tuple[int, str]]
    """Name -> size in bytes, sha256."""


class DamagedCheckpoint(Exception):
    """A checkpoint is not as it was written. The message names the file and the damage."""


class ForeignCheckpoint(Exception):
    """Another run wrote a checkpoint. The message gives the evidence."""


def write_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    run_id: str,
    permanent: bool,
) -> None:
    """Write the files of a checkpoint and sync them to the disk.

    Args:
        folder: where they are written; it must not exist.
        step: completed steps.
        tensors: stem of a file -> name -> tensor, on any device.
        state: everything other than tensors, as JSON can hold it.
        run_id: of the run.
        permanent: whether the checkpoint is never removed.

    Raises:
        OSError: the disk failed.
    """
    folder.mkdir()
    files = {f"{stem}.safetensors": tensor_bytes(group) for stem, group in tensors.items()}
    files[STATE] = json.dumps({**state, "step": step}, indent=1).encode()
    manifest = {
        "format": FORMAT,
        "run": run_id,
        "step": step,
        "permanent": permanent,
        "files": {name: _fingerprint(content) for name, content in files.items()},
    }
    files[MANIFEST] = json.dumps(manifest, indent=1).encode()
    for name, content in files.items():
        _write_durably(folder / name, content)
    sync(folder)


def read_manifest(folder: Path) -> Manifest:
    """Read and check manifest.json.

    Raises:
        DamagedCheckpoint: it is not as `write_checkpoint` writes it.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise DamagedCheckpoint("it is not a folder")
    manifest = _parse(MANIFEST, _read(folder / MANIFEST, MAX_JSON_BYTES))
    name, step = FOLDER_NAME.fullmatch(folder.name), manifest.get("step")
    if manifest.get("format") != FORMAT or name is None or not is_whole(step) or step != int(name.group(1)):
        raise DamagedCheckpoint(f"{MANIFEST} has another format or step")
    run_id, permanent, entries = manifest.get("run"), manifest.get("permanent"), manifest.get("files")
    if not isinstance(run_id, str) or not isinstance(permanent, bool) or not isinstance(entries, dict):
        raise DamagedCheckpoint(f"{MANIFEST} has fields of the wrong type")
    files = {}
    for file, entry in entries.items():
        if not _FILE_NAME.fullmatch(file) or file == MANIFEST:
            raise DamagedCheckpoint(f"{MANIFEST} names a file that no checkpoint has: {file[:100]!r}")
        size, sha256 = (entry.get("size"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
        if not (is_whole(size) and size >= 0 and isinstance(sha256, str)):
            raise DamagedCheckpoint(f"{MANIFEST} lacks the size and sha256 of {file}")
        files[file] = size, sha256
    if STATE not in files:
        raise DamagedCheckpoint(f"{MANIFEST} does not name {STATE}")
    return Manifest(run_id, permanent, files)


def read_checkpoint(folder: Path, expected: ExpectedTensors | None = None) -> Checkpoint:
    """Read and verify a checkpoint. Reads nothing outside its folder.

    Args:
        folder: of the checkpoint.
        expected: the tensors that it must have; None: any.

    Raises:
        DamagedCheckpoint: a file is missing, differs from the manifest, or does not have the expected tensors.
    """
    manifest = read_manifest(folder)
    stems = {Path(name).stem for name in manifest.files} - {"state"}
    if expected is not None and (differing := expected.keys() ^ stems):
        raise DamagedCheckpoint(f"{MANIFEST} names other files than a checkpoint of this run has ({min(differing)})")
    tensors: dict[str, dict[str, Tensor]] = {}
    state: dict[str, Any] = {}
    for name, (size, sha256) in manifest.files.items():
        limit = _max_bytes(expected[Path(name).stem]) if expected is not None and name != STATE else MAX_BYTES
        content = _read(folder / name, min(size, limit))
        if _fingerprint(content) != {"size": size, "sha256": sha256}:
            raise DamagedCheckpoint(f"{name} does not match {MANIFEST} (its size or sha256 differs)")
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
            raise DamagedCheckpoint(f"{name} {error}") from error
    return Checkpoint(int(folder.name.removeprefix("step-")), manifest.run_id, tensors, state)


def _fingerprint(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _max_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Returns the maximum size of a file with these tensors."""
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
        raise DamagedCheckpoint(f"{file.name} {error}") from error


def _parse(name: str, content: bytes) -> dict[str, Any]:
    try:
        return parse_json_object(content)
    except BadFile as error:
        raise DamagedCheckpoint(f"{name} {error}") from error
