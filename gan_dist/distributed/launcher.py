"""What the launcher gave us: ranks, threads, precision; and ranks that act as one."""

from __future__ import annotations

import ctypes
import datetime
import errno
import os
import platform
import socket
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import yaml
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, InitProcessGroupKwargs, broadcast_object_list
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from gan_dist.config import InputError, Stopped, TrainingFailed, package_version
from gan_dist.distributed.environment import read_environment
from gan_dist.distributed.peers import Peers
from gan_dist.files import BadFile, read_file

T = TypeVar("T")

CPU_QUOTA = "/sys/fs/cgroup/cpu.max"  # of this container: microseconds of processor time, in how many
MAX_LAUNCH_CONFIG_BYTES = 64 * 2**10  # YAML is parsed at about 100 kB/s


def start_accelerator(mixed_precision: str | None, threads: int | None, timeout: float) -> Accelerator:
    """Join the ranks that the launcher started, on whatever device there is, and take a fair share of the cores.

    Args:
        mixed_precision: "no", "bf16" or "fp16"; None: what the launcher was given.
        threads: CPU threads of this process; None: the cores divided by the processes on this machine.
        patience: seconds that a collective waits for the other processes.

    Raises:
        InputError: fp16 without a GPU, variables of a launcher that make no sense, or a launcher that starts its
            processes another way.
        TrainingFailed: the ranks did not find each other in time; said by the first one of each host.
    """
    has_gpu = torch.accelerator.is_available()
    precision = mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", "bf16", "fp16"):
        raise InputError(f"mixed_precision={precision} is not supported; use no, bf16 or fp16")
    if precision == "fp16" and not has_gpu:
        raise InputError("mixed_precision=fp16 needs a GPU, and there is none here; use bf16 or no")
    wait = datetime.timedelta(seconds=timeout)
    launched = read_environment()
    try:
        _meet_again_after_a_restart(has_gpu, wait)
        accelerator = Accelerator(
            # Without this a multi-process launch on a machine without a GPU makes two runs of one process each.
            cpu=not has_gpu,
            mixed_precision=precision,
            log_with="wandb",
            dataloader_config=DataLoaderConfiguration(split_batches=True),  # the batch size is global
            kwargs_handlers=[InitProcessGroupKwargs(timeout=wait)],
        )
    except dist.DistError as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        why = _resolution_error() or str(error).splitlines()[0].rstrip(".")
        raise TrainingFailed(
            f"the {launched.ranks} processes did not meet at {where} ({why}); see that all of them "
            "are started, that this is an address of the first host, and that its port is free and open",
            reported_by=launched.rank - launched.local_rank,
        ) from error
    except ValueError as error:  # variables of MPI, which Accelerate reads as well, and which don't say enough
        raise InputError(f"the launcher's variables can't be used: {str(error).splitlines()[0]}") from error
    _keep_freed_memory()
    # The launcher sets OMP_NUM_THREADS=1 whatever the machine, and Accelerate sets threads where it is unset.
    torch.set_num_threads(threads or max(1, usable_cores() // launched.local_ranks))
    if accelerator.num_processes != launched.ranks:
        raise InputError(
            f"the launcher started {launched.ranks} processes and {accelerator.num_processes} found each other; "
            "launch with accelerate_config.yaml, or with torchrun"
        )
    return accelerator


def _resolution_error() -> str | None:
    """Why the name of the first host has no address, where that is so; torch says then that it has waited in vain."""
    try:
        socket.getaddrinfo(os.environ.get("MASTER_ADDR"), None)
    except (OSError, UnicodeError) as error:
        return f"the name can't be resolved: {getattr(error, 'strerror', None) or error}"
    return None


def _meet_again_after_a_restart(has_gpu: bool, timeout: datetime.timedelta) -> None:
    """Join the group of this attempt, where the launcher restarted its workers after one of them died.

    With a static rendezvous (accelerate's default) the workers of the next attempt find the store of the one before,
    addresses of the dead included, and wait for them in vain. Keys of their own lead them to each other.
    """
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if attempt == "0" or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), ranks, is_master=False, timeout=timeout
    )
    dist.init_process_group(
        None if has_gpu else "gloo",
        store=dist.PrefixStore(f"attempt-{attempt}", store),
        rank=rank,
        world_size=ranks,
        timeout=timeout,
    )


def _keep_freed_memory() -> None:
    """Have glibc keep what a step frees for the next step, instead of asking the kernel for it again each time.

    At a batch of 1,024 the tensors of a step are larger than what malloc keeps by itself, and zeroing thousands of
    fresh pages took up to a quarter of a step. Other C libraries have other ways, and are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD, at its greatest: larger blocks alone are mapped one by one
        mallopt(-1, 2**30)  # M_TRIM_THRESHOLD: the heap is given back when so much of its end is free


def launch_here(work: Callable[[Path], int], folder: Path, processes: int | None) -> int:
    """Start processes on this machine that do `work` together, as torchrun would.

    Args:
        work: a function that a new process can import; it returns an exit code.
        folder: its argument.
        processes: how many; None: one for each GPU, without a GPU two.

    Returns:
        The worst exit code; 1 if a process died.
    """
    processes = processes or (torch.accelerator.device_count() if torch.accelerator.is_available() else 2)
    if processes == 1:
        return work(folder)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does, without its warning
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


def fix_kernels() -> None:
    """Have the CPU's matrix products give the same bits whatever the number of threads. Before the first of them.

    For small batches (5 to 10 rows) MKL otherwise splits the sums over its threads. The setting costs nothing that
    can be measured; other libraries than MKL do not heed it.
    """
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


def usable_cores() -> int:
    """Cores that this process may use: those it is bound to, or fewer if its container has a smaller quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (int(word) for word in Path(CPU_QUOTA).read_text().split())
    except (OSError, ValueError):  # no cgroup, or the quota is "max"
        return cores
    return max(1, min(cores, quota // period)) if quota > 0 and period > 0 else cores


def on_main_process(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Do `work` on rank 0 alone; every rank gets its result, or its InputError, Stopped or TrainingFailed.

    An OSError becomes a TrainingFailed if another try may help (the disk is full or away), else an InputError.

    So files are read and written once, and no rank can disagree with another about what is in them. A collective:
    every rank must reach it. The result travels pickled between our own processes.

    Where the ranks have their `Peers`, the others wait for as long as rank 0 is alive, however long `work` takes.

    Raises:
        TrainingFailed: on the other ranks, if `work` raised something else; rank 0, which says it, raises just that.
        dist.DistError, RuntimeError: a rank was lost meanwhile.
    """
    outcome: list[Any] = [None]
    unexpected: Exception | None = None
    peers = Peers.current
    if accelerator.is_main_process:
        try:
            outcome[0] = work()
        except (InputError, Stopped, TrainingFailed) as error:
            outcome[0] = error
        except OSError as error:
            outcome[0] = _describe(error)
        except Exception as error:  # a mistake of ours; the others must not wait for rank 0 in vain
            unexpected = error
            outcome[0] = TrainingFailed(f"rank 0 failed: {type(error).__name__}: {error}")
        if peers is not None:
            peers.announce_done()
    elif peers is not None:
        peers.wait_for_main()
    broadcast_object_list(outcome)
    if unexpected is not None:
        raise unexpected
    if isinstance(outcome[0], InputError | Stopped | TrainingFailed):
        raise outcome[0]
    return outcome[0]


def _describe(error: OSError) -> InputError | TrainingFailed:
    said = f"{error.filename or 'a file'} can't be used ({error.strerror or error})"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE):
        return TrainingFailed(f"{said}; make room or bring the disk back, and start the same command again")
    return InputError(f"{said}; fix it, and start the same command again")


def launch_advice(processes: int) -> list[str]:
    """What the user should know of the launch: some spellings start fewer processes than asked for, silently.

    Among them are --cpu --num_processes 2, and a config file with MULTI_CPU.

    Args:
        processes: how many run.
    """
    asked = _processes_asked_for()
    if asked is None or asked <= 1 or processes > 1:
        return []
    return [
        f"accelerate launch was asked for {asked} processes and started one: on a machine without a GPU use "
        f"--config_file accelerate_config.yaml --num_processes {asked}"
    ]


def _processes_asked_for() -> int | None:
    """The number on accelerate launch's command line, else in its config file; None where that can't be seen."""
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return None
    if "ACCELERATE_MIXED_PRECISION" not in os.environ or "launch" not in words:
        return None
    options = words[words.index("launch") + 1 :]
    asked: Any = _option(options, "num_processes")
    if asked is None and (file := _option(options, "config_file")) is not None:
        try:
            config = yaml.safe_load(read_file(Path(file), MAX_LAUNCH_CONFIG_BYTES))
        except (BadFile, yaml.YAMLError, ValueError, RecursionError):  # accelerate launch has read more into it
            return None
        asked = config.get("num_processes") if isinstance(config, dict) else None
    digits = str(asked)
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else None


def _option(words: list[str], name: str) -> str | None:
    """The value of --name or --na-me among a command's words, as "--name value" or "--name=value"."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        flag, _, value = word.partition("=")
        if flag.lstrip("-").replace("-", "_") == name and flag.startswith("--"):
            return value or following
    return None


def describe_machine(accelerator: Accelerator) -> dict[str, Any]:
    """What environment.json says of the software and the hardware of this session."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    packages = ("torch", "torchvision", "accelerate", "wandb", "numpy", "safetensors")
    return {
        "processes": accelerator.num_processes,
        "host": platform.node(),
        "device": str(device.type),
        "device_name": name,
        "mixed_precision": accelerator.mixed_precision,
        "threads_per_process": torch.get_num_threads(),
        "cores": usable_cores(),
        "distributed_type": accelerator.distributed_type.value,
        "platform": platform.platform(),
        "versions": {"python": platform.python_version(), "gan_dist": package_version()}
        | {name: version(name) for name in packages},
    }
