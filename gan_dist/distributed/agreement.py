"""What all ranks must have in common before the first step: the configuration, the software, the run's folder.

On one machine they have it by themselves. On several each host brings its own command line, installation and disks.
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
from gan_dist.distributed.launcher import on_main_process
from gan_dist.outputs.checkpoint import Checkpoints
from gan_dist.outputs.folder import RunFolder

DECISIVE = {"torch": torch.__version__, "accelerate": accelerate.__version__}
"""Packages that have a say in a run's numbers, and their versions, installed as a distribution or not."""


@dataclass(frozen=True)
class RankEnvironment:
    """What a rank brings along."""

    host: str
    values: Mapping[str, Any]
    """The configuration, without what each host may have to itself."""
    software: Mapping[str, str]
    """Package -> version; of our own, a fingerprint of its code."""


def check_same_start(config: Config) -> None:
    """Check that all ranks were started with one configuration and one state of the software. A collective.

    Args:
        config: the resolved configuration of this rank.

    Raises:
        InputError: the same on every rank; names the first rank that differs from rank 0, and in what.
    """
    values = {name: value for name, value in to_flat(config).items() if not name.startswith(HOST_SPECIFIC)}
    software = {"gan_dist's code": _code()} | {f"{name}'s version": version for name, version in DECISIVE.items()}
    first, *others = gather_object([RankEnvironment(socket.gethostname(), values, software)])
    for rank, other in enumerate(others, 1):
        ranks = f"rank {rank} ({other.host}) and rank 0 ({first.host})"
        if differing := _differing(first.values, other.values):
            raise InputError(f"{ranks} were started with different values: {differing}; start all with one command")
        if differing := _differing(first.software, other.software):
            raise InputError(f"{ranks} differ in {differing}; install the same on every host")


def check_same_folder(shared: bool, folder: RunFolder, accelerator: Accelerator) -> None:
    """Check that every host sees the run's folder, so that whichever gets rank 0 after a stop can go on. A collective.

    Args:
        shared: run.shared. Where it is False only rank 0 needs the folder; then nobody may see newer checkpoints there
            than rank 0, which would mean that another host was the one with the run.
        folder: the run's; rank 0 has locked it, so nobody else writes there.
        accelerator: of the ranks.

    Raises:
        InputError: the same on every rank.
    """
    here = socket.gethostname()
    if shared:
        mark = on_main_process(accelerator, folder.leave_mark)
        try:
            seen = gather_object([(here, folder.sees(mark))])
        finally:  # a rank may be lost meanwhile
            if accelerator.is_main_process:
                folder.remove_mark(mark)
        for rank, (host, sees) in enumerate(seen):
            if not sees:
                raise InputError(
                    f"run.dir={folder.path} is not one folder on all hosts: rank {rank} ({host}) does not see what "
                    f"rank 0 ({seen[0][0]}) writes there; put it on a file system that they share, or "
                    "say --run.no-shared where the same host has rank 0 after every stop"
                )
        return
    newest = max(Checkpoints(folder.checkpoints, keep=1).steps(), default=-1)
    (main, known), *others = gather_object([(here, newest)])
    for rank, (host, step) in enumerate(others, 1):
        if step > known:
            there = f"none newer than step {known:,}" if known >= 0 else "none"
            raise InputError(
                f"run.dir={folder.path}: rank {rank} ({host}) has a checkpoint of step {step:,} there, rank 0 ({main}) "
                f"{there}, and run.shared=False; let {host} have rank 0, as before, or take another folder"
            )


def _differing(first: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {other.get(name)} and {first[name]}" for name in first if other.get(name) != first[name])


def _code() -> str:
    """A fingerprint of the package's source."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parent.parent
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]
