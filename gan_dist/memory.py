"""The available memory of this machine, to reject allocations that do not fit before they are made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def available_memory(meminfo: Path = Path("/proc/meminfo"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that processes may still allocate: the kernel's estimate, or a cgroup's limit if it is lower.

    Args:
        meminfo: the kernel's memory statistics.
        cgroups: the root of the cgroup file system, version 2.

    Returns:
        The number of bytes; None if neither can be read.
    """
    sizes = [_from_meminfo(meminfo), *(_limit(folder / "memory.max") for folder in _own_cgroups(cgroups))]
    return min((size for size in sizes if size is not None), default=None)


def _from_meminfo(file: Path) -> int | None:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _own_cgroups(root: Path) -> list[Path]:
    """The cgroup of this process and its parents, all of whose limits apply."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return [root]
    path = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    own = root / path
    return [own, *(parent for parent in own.parents if parent.is_relative_to(root))]


def _limit(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # no such cgroup, or "max"
        return None


def out_of_memory(error: BaseException) -> BaseException | None:
    """The error among the causes of another one that says that a GPU's memory is exhausted; a capture may hide it."""
    import torch

    found: BaseException | None = error
    while found is not None and not isinstance(found, torch.OutOfMemoryError):
        found = found.__cause__ or found.__context__
    return found


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a device; None if unknown."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    return available_memory() if device.type == "cpu" else None
