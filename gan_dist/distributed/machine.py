"""The machine of this process: its cores, memory allocator, matrix kernels and versions."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from gan_dist.config import package_version
from gan_dist.distributed.devices import Device, device_name
from gan_dist.distributed.numerics import describe_numerics

CPU_QUOTA = "/sys/fs/cgroup/cpu.max"  # of this container: microseconds of processor time, and per how many
_PACKAGES = ("torch", "torchvision", "accelerate", "wandb", "numpy", "safetensors")


def usable_cores() -> int:
    """Returns the number of cores that this process may use: those of its affinity, or fewer by a container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (int(word) for word in Path(CPU_QUOTA).read_text().split())
    except (OSError, ValueError):  # no cgroup, or the quota is "max"
        return cores
    return max(1, min(cores, quota // period)) if quota > 0 and period > 0 else cores


def fix_kernels() -> None:
    """Make the CPU's matrix products bitwise independent of the number of threads. Call it before the first one.

    For small batches (5 to 10 rows), MKL otherwise splits the sums over its threads. The setting has no measurable
    cost. Other libraries than MKL ignore it.
    """
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


def keep_freed_memory() -> None:
    """Make glibc keep what a step frees for the next step, instead of requesting it from the kernel again.

    At a batch of 1,024, the tensors of a step are larger than what malloc keeps by default, and zeroing thousands of
    fresh pages took up to a quarter of a step. Other C libraries are not changed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD, its maximum: only larger blocks are mapped one by one
        mallopt(-1, 2**30)  # M_TRIM_THRESHOLD: the heap shrinks when this much of its end is free


def describe_machine(accelerator: Accelerator, devices: Sequence[Device]) -> dict[str, Any]:
    """Returns the entries of environment.json about the software and hardware of this session.

    Args:
        accelerator: of this process.
        devices: of all ranks.
    """
    device = accelerator.device
    return {
        "processes": accelerator.num_processes,
        "host": platform.node(),
        "device": str(device.type),
        "device_name": device_name(device),
        "device_names": [found.name for found in devices],
        "mixed_precision": accelerator.mixed_precision,
        "threads_per_process": torch.get_num_threads(),
        "cores": usable_cores(),
        "distributed_type": accelerator.distributed_type.value,
        "numerics": describe_numerics(device),
        "platform": platform.platform(),
        "versions": {"python": platform.python_version(), "gan_dist": package_version()}
        | {package: version(package) for package in _PACKAGES},
    }
