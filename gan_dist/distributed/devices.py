"""The devices of all ranks: their names, and that no two processes share a GPU."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from gan_dist.config import InputError
from gan_dist.distributed.environment import ProcessEnvironment

# Launchers hide the other GPUs of the host with one of these.
VISIBLE_VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")


@dataclass(frozen=True)
class Device:
    """The device of one rank."""

    host: str
    name: str
    id: str | None
    """Identifies a GPU, also if other processes know it by another number; None: not known."""


def check_local_processes(process: ProcessEnvironment, gpus: int) -> None:
    """Check that each process of this host can have a GPU. Needs no connection.

    A process that sees one GPU may be bound to it while the others have theirs: `check_one_gpu_each` finds out.

    Args:
        process: this one.
        gpus: number of GPUs that it sees.

    Raises:
        InputError: the host has fewer GPUs than processes.
    """
    bound = gpus == 1 and any(os.environ.get(name) for name in VISIBLE_VARIABLES)
    if process.local_ranks > gpus and not bound:
        raise InputError(_too_many(process.local_ranks, gpus, socket.gethostname()))


def find_devices(accelerator: Accelerator) -> list[Device]:
    """The device of each rank. A collective: every rank must call it."""
    name, identity = device_name(accelerator.device), None
    if accelerator.device.type == "cuda":
        identity = str(getattr(torch.cuda.get_device_properties(accelerator.device), "uuid", "")) or None
    return gather_object([Device(socket.gethostname(), name, identity)])


def check_one_gpu_each(devices: Sequence[Device]) -> None:
    """Check that no two ranks have the same GPU, of which NCCL makes an error of its own.

    Raises:
        InputError: two have; the same on every rank.
    """
    for host in dict.fromkeys(device.host for device in devices):
        ids = [device.id for device in devices if device.host == host and device.id is not None]
        if len(set(ids)) < len(ids):
            error = InputError(_too_many(len(ids), len(set(ids)), host))
            error.common = True
            raise error


def device_name(device: torch.device) -> str:
    """The model of a device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()


def _too_many(processes: int, gpus: int, host: str) -> str:
    return (
        f"{processes} processes on {host} have {gpus} GPU{'s' if gpus > 1 else ''}, and each needs its own; start "
        f"{gpus} there (accelerate launch --num_processes, torchrun --nproc-per-node), or hide the GPUs with "
        "CUDA_VISIBLE_DEVICES= to train on the CPU"
    )
