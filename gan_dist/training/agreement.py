"""What all ranks must have in common before the first step: the configuration, the software, the run's folder.

On one machine they have it by themselves. On several each host brings its own command line, installation and disks.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gan_dist.config import HOSTS_OWN, Config, InputError, to_flat
from gan_dist.run.checkpoint import Checkpoints
from gan_dist.run.folder import RunFolder

Exchange = Callable[[list[Any]], list[Any]]
"""A list of this rank -> those of all ranks one behind the other, in their order; a collective."""

DECISIVE = ("torch", "accelerate")  # packages whose versions have a say in a run's numbers


@dataclass(frozen=True)
class Brought:
    """What a rank brings along."""

    host: str
    values: Mapping[str, Any]
    """The configuration, without what each host may have to itself."""
    software: Mapping[str, str]
    """Package -> version; of our own, a fingerprint of its code."""


def check_same_start(config: Config, exchange: Exchange) -> None:
    """Check that all ranks were started with one configuration and one state of the software. A collective.

    Args:
        config: the resolved configuration of this rank.
        exchange: see `Exchange`.

    Raises:
        InputError: the same on every rank; names the first rank that differs from rank 0, and in what.
    """
    values = {name: value for name, value in to_flat(config).items() if not name.startswith(HOSTS_OWN)}
    software = {"gan_dist's code": _code()} | {f"{name}'s version": version(name) for name in DECISIVE}
    first, *others = exchange([Brought(socket.gethostname(), values, software)])
    for rank, other in enumerate(others, 1):
        ranks = f"rank {rank} ({other.host}) and rank 0 ({first.host})"
        if differing := _differing(first.values, other.values):
            raise InputError(f"{ranks} were started with different values: {differing}; start all with one command")
        if differing := _differing(first.software, other.software):
            raise InputError(f"{ranks} differ in {differing}; install the same on every host")


def check_same_folder(folder: RunFolder, exchange: Exchange) -> None:
    """Check that no rank sees newer checkpoints in the run's folder than rank 0, which goes on from them. A collective.

    So it is where the folder is on each host's own disk, and another host than before has rank 0. A host that sees
    nothing is no mistake: rank 0 alone needs the folder.

    Args:
        folder: the run's; rank 0 has locked it, so nobody else writes there.
        exchange: see `Exchange`.

    Raises:
        InputError: the same on every rank.
    """
    newest = max(Checkpoints(folder.checkpoints, keep=1).steps(), default=-1)
    (host, known), *others = exchange([(socket.gethostname(), newest)])
    for rank, (other, seen) in enumerate(others, 1):
        if seen > known:
            there = f"none newer than step {known:,}" if known >= 0 else "none"
            raise InputError(
                f"run.dir={folder.path} is not one folder on all hosts: rank {rank} ({other}) sees a checkpoint of "
                f"step {seen:,} there, rank 0 ({host}) {there}; put it on a file system that they share, or start "
                f"{other} as the main host"
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
