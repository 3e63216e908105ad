"""Connects the processes that a launcher started, or starts them on this machine."""

from __future__ import annotations

import datetime
import os
import socket
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, InitProcessGroupKwargs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from gan_dist.config import InputError, TrainingFailed
from gan_dist.distributed.devices import check_local_processes, check_one_gpu_each, find_devices
from gan_dist.distributed.environment import ProcessEnvironment, read_environment
from gan_dist.distributed.machine import keep_freed_memory, usable_cores
from gan_dist.distributed.peers import lost_at_start

WATCHDOG_FACTOR = 2  # the timeout of the GPUs' own collectives, relative to that of a wait


def start_accelerator(mixed_precision: str | None, threads: int | None, timeout: float) -> Accelerator:
    """Connect the ranks that the launcher started, on the available device, and set this process's number of threads.

    Args:
        mixed_precision: "no", "bf16" or "fp16"; None: as set by the launcher.
        threads: CPU threads of this process; None: the cores divided by the processes on this machine.
        timeout: seconds that a collective waits for the other processes.

    Raises:
        InputError: fp16 without a GPU, more processes than GPUs on a host, invalid variables of the launcher, or an
            unsupported launcher.
        TrainingFailed: the ranks did not connect in time; reported by the first one of each host.
    """
    has_gpu = torch.accelerator.is_available()
    precision = mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", "bf16", "fp16"):
        raise InputError(f"mixed_precision={precision} is not supported; use no, bf16 or fp16")
    if precision == "fp16" and not has_gpu:
        raise InputError("mixed_precision=fp16 needs a GPU, and this machine has none; use bf16 or no")
    wait = datetime.timedelta(seconds=timeout)
    launched = read_environment()
    if has_gpu:
        check_local_processes(launched, torch.accelerator.device_count())
    try:
        _init_group(has_gpu, wait)
        accelerator = Accelerator(
            # Otherwise a multi-process launch on a machine without a GPU starts two runs of one process each.
            cpu=not has_gpu,
            mixed_precision=precision,
            dataloader_config=DataLoaderConfiguration(split_batches=True),  # the batch size is global
            kwargs_handlers=[InitProcessGroupKwargs(timeout=wait)],
        )
        if accelerator.device.type == "cuda" and accelerator.device.index is not None:
            # Streams and events are made on the current GPU. Accelerate leaves it with ACCELERATE_TORCH_DEVICE=cuda:1.
            torch.cuda.set_device(accelerator.device)
        if accelerator.device.type == "cuda" and accelerator.num_processes > 1:
            _extend_watchdog(accelerator.device, WATCHDOG_FACTOR * wait)
            # torch 2.14 renamed what `Accelerator.gather` calls, and would warn on every rank.
            warnings.filterwarnings("ignore", "`torch.distributed.all_gather_into_tensor` is deprecated", FutureWarning)
            check_one_gpu_each(find_devices(accelerator))
    except dist.DistError as error:
        raise connection_failure(error, launched) from error
    except ValueError as error:  # incomplete variables of MPI, which Accelerate reads as well
        raise InputError(f"the launcher's variables can't be used: {str(error).splitlines()[0]}") from error
    keep_freed_memory()
    # The launcher always sets OMP_NUM_THREADS=1, and Accelerate sets the threads if it is unset.
    torch.set_num_threads(threads or max(1, usable_cores() // launched.local_ranks))
    if accelerator.num_processes != launched.ranks:
        raise InputError(
            f"the launcher started {launched.ranks} processes and {accelerator.num_processes} connected; "
            "launch with accelerate_config.yaml, or with torchrun"
        )
    return accelerator


def connection_failure(error: Exception, launched: ProcessEnvironment) -> TrainingFailed:
    """Why the ranks did not connect, and which of them reports it: the first one of each host.

    Rank 0 holds the store at which the ranks meet, unless the launcher does. If the connection broke and the store is
    gone, rank 0 is dead and reports nothing, so the next one does it for its host.
    """
    first = launched.rank - launched.local_rank
    if isinstance(error, dist.DistNetworkError) and first == 0 and launched.rank > 0 and not _store_answers():
        first = 1
        if "timed out" not in str(error):  # it was there
            return lost_at_start([0], reported_by=first)
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    why = _resolution_error() or str(error).splitlines()[0].rstrip(".")
    return TrainingFailed(
        f"the {launched.ranks} processes did not connect at {where} ({why}); check that all of them were started, "
        "that the address belongs to the first host, and that its port is free and open",
        reported_by=first,
    )


def _store_answers() -> bool:
    """Whether anything listens at the address of the store."""
    try:
        socket.create_connection((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), timeout=1).close()
    except OSError:
        return False
    return True


def _resolution_error() -> str | None:
    """Returns why the name of the first host has no address, if so: torch only reports a timeout then."""
    try:
        socket.getaddrinfo(os.environ.get("MASTER_ADDR"), None)
    except (OSError, UnicodeError) as error:
        return f"the name can't be resolved: {getattr(error, 'strerror', None) or error}"
    return None


def _init_group(has_gpu: bool, timeout: datetime.timedelta) -> None:
    """Initialize the process group in the cases in which Accelerate's way does not suffice.

    On CUDA, gloo connects the processes beside NCCL. Python objects are sent through it, during the start, for
    evaluations and at the end: its timeout raises an error, which NCCL's does not.

    After the launcher restarted its workers because one died, the group has keys of its own in the store. With a static
    rendezvous (accelerate's default), the workers of the next attempt use the store of the previous one, find the
    addresses of dead workers in it, and wait for them in vain.
    """
    backends = None if has_gpu else "gloo"
    if torch.cuda.is_available():
        backends = "cpu:gloo,cuda:nccl"
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if attempt == "0" or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        if torch.cuda.is_available() and "LOCAL_RANK" in os.environ and not dist.is_initialized():
            dist.init_process_group(backends, timeout=timeout)
        return
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), ranks, is_master=False, timeout=timeout
    )
    dist.init_process_group(
        backends,
        store=dist.PrefixStore(f"attempt-{attempt}", store),
        rank=rank,
        world_size=ranks,
        timeout=timeout,
    )


def _extend_watchdog(device: torch.device, timeout: datetime.timedelta) -> None:
    """Let NCCL's watchdog, which ends the process without naming a rank, act only after our deadlines have passed."""
    group: Any = dist.group.WORLD
    backend = group._get_backend(device)
    # TORCH_DISTRIBUTED_DEBUG=DETAIL wraps it in a class that lacks the method.
    getattr(backend, "wrapped_pg", backend)._set_default_timeout(timeout)


def launch_here(work: Callable[[Path], int], folder: Path, processes: int | None) -> int:
    """Start processes on this machine that call `work`, as torchrun does.

    Args:
        work: a function that a new process can import; it returns an exit code.
        folder: its argument.
        processes: their number; None: one per GPU, or two without a GPU.

    Returns:
        The highest exit code; 1 if a process died.
    """
    processes = processes or (torch.accelerator.device_count() if torch.accelerator.is_available() else 2)
    if processes == 1:
        return work(folder)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun sets it, without its warning
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id="gan-dist",
        monitor_interval=0.1,
    )
    try:
        return max(elastic_launch(config, work)(folder).values())
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        print(f"gan-dist: the process of rank {rank} died (exit code {failure.exitcode})", file=sys.stderr, flush=True)
        return 1
