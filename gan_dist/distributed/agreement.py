"""Checks before the first step that all ranks have the same configuration, software and run folder.

Several hosts may differ in their command lines, installations and disks.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from gan_dist.config import HOST_SPECIFIC, Config, InputError, to_flat
from gan_dist.distributed.main_process import on_main_process
from gan_dist.outputs.checkpoint import Checkpoints
from gan_dist.outputs.folder import RunFolder

SOFTWARE = {"torch": torch.__version__, "accelerate": accelerate.__version__}
"""Versions of the packages that affect a run's numbers."""


@dataclass(frozen=True)
class RankEnvironment:
    """What must be the same on all ranks, and the host's name for messages."""

    host: str
    values: Mapping[str, Any]
    """The configuration, without the fields that may differ between hosts."""
    software: Mapping[str, str]
    """Package -> version; for gan_dist, a hash of its source code."""


def check_same_start(config: Config) -> None:
    """Check that all ranks were started with the same configuration and software. A collective.

    Args:
        config: the resolved configuration of this rank.

    Raises:
        InputError: the same on every rank; names the first rank that differs from rank 0, and the differences.
    """
    values = {name: value for name, value in to_flat(config).items() if not name.startswith(HOST_SPECIFIC)}
    software = {"gan_dist's code": _source_hash()} | {f"{name}'s version": v for name, v in SOFTWARE.items()}
    first, *others = gather_object([RankEnvironment(socket.gethostname(), values, software)])
    for rank, other in enumerate(others, 1):
        ranks = f"rank {rank} ({other.host}) and rank 0 ({first.host})"
        if differing := _differences(first.values, other.values):
            raise InputError(f"{ranks} were started with different values: {differing}; start all with one command")
        if differing := _differences(first.software, other.software):
            raise InputError(f"{ranks} differ in {differing}; install the same on every host")


def check_same_folder(shared: bool, folder: RunFolder, accelerator: Accelerator) -> None:
    """Check that every host sees the run folder, so that any of them can resume the run as rank 0. A collective.

    Args:
        shared: run.shared. If False, only rank 0 needs the folder. Then no other rank may see newer checkpoints than
            rank 0: another host would have been rank 0 before.
        folder: of the run. Rank 0 has locked it, so no other process writes there.
        accelerator: of this process.

    Raises:
        InputError: the same on every rank.
    """
    host = socket.gethostname()
    if shared:
        marker = on_main_process(accelerator, folder.create_marker)
        try:
            seen = gather_object([(host, folder.sees_marker(marker))])
        finally:  # a rank may be lost in the meantime
            if accelerator.is_main_process:
                folder.remove_marker(marker)
        for rank, (other, sees) in enumerate(seen):
            if not sees:
                raise InputError(
                    f"run.dir={folder.path} is not one folder on all hosts: rank {rank} ({other}) does not see what "
                    f"rank 0 ({seen[0][0]}) writes there; choose a folder on a shared file system, or "
                    "use --run.no-shared if the same host is rank 0 after every stop"
                )
        return
    latest = max(Checkpoints(folder.checkpoints, keep=1).steps(), default=-1)
    (main, known), *others = gather_object([(host, latest)])
    for rank, (other, step) in enumerate(others, 1):
        if step > known:
            there = f"none newer than step {known:,}" if known >= 0 else "none"
            raise InputError(
                f"run.dir={folder.path}: rank {rank} ({other}) has a checkpoint of step {step:,} there, rank 0 "
                f"({main}) {there}, and run.shared=False; make {other} rank 0, as before, or choose another --run.dir"
            )


def _differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {other.get(name)} and {first[name]}" for name in first if other.get(name) != first[name])


def _source_hash() -> str:
    """Returns a hash of the package's source code."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parent.parent
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]
