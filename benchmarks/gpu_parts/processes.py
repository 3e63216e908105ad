"""Processes of the benchmark: their environment, how they are found again, and their end."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import launching
import psutil

from gpu_parts.context import Context, NoTimeLeft

MARK = "GAN_DIST_BENCHMARK"
# Of a job in which the benchmark itself was started: its processes are no ranks of that job.
DROPPED = ("ACCELERATE_", "TORCHELASTIC_", "PET_", "SLURM_", "OMPI_", "PMI_", "PMIX_", "MPI_", "WANDB_")
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK")
RANK_VARIABLES += ("GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "FORK_LAUNCHED")
_numbers = itertools.count(1)


def environment(context: Context, mark: str, cpu: bool = False) -> dict[str, str]:
    """Environment variables of a process: no network, no trackers, caches below the output folder.

    NCCL's variables and CUDA_VISIBLE_DEVICES stay as the user set them.

    Args:
        context: of the part.
        mark: value of MARK, which all its descendants inherit.
        cpu: hide the GPUs.
    """
    kept = {
        name: value
        for name, value in launching.environment().items()
        if name not in RANK_VARIABLES and not name.startswith(DROPPED)
    }
    path = os.pathsep.join([str(launching.REPOSITORY), *filter(None, [kept.get("PYTHONPATH")])])
    kept |= {MARK: mark, "PYTHONPATH": path, "WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1"}
    kept["GAN_DIST_CACHE"] = str(context.scratch.absolute() / "cache")
    if cpu or not context.on_gpu:
        kept |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return kept


@contextlib.contextmanager
def started(
    context: Context, words: Sequence[str], log: Path, cpu: bool = False, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command, and end it with all its descendants.

    Args:
        context: of the part.
        words: the command.
        log: gets what it prints.
        cpu: hide the GPUs.
        variables: more of its environment.
    """
    mark = f"{os.environ.get(MARK, context.mark)}/{os.getpid()}-{next(_numbers)}."
    env = environment(context, mark, cpu) | variables
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as stream:
        process = subprocess.Popen(
            list(words), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=env, start_new_session=True
        )
    try:
        yield process
    finally:
        end_marked(mark)
        process.wait()


def marked(mark: str) -> list[psutil.Process]:
    """Running processes whose variable MARK begins with `mark`, also those whose parents have died."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK, "").startswith(mark) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def end_marked(mark: str, patience: float = 10.0) -> int:
    """End all these processes, suspended ones too.

    Returns:
        How many there were.
    """
    ended: set[int] = set()
    give_up = time.monotonic() + patience
    while (left := [process for process in marked(mark) if process.pid != os.getpid()]) and time.monotonic() < give_up:
        for process in left:
            ended.add(process.pid)
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(left, timeout=1)
    return len(ended)


def wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """The exit code of a process; None if it still runs after so many seconds."""
    try:
        return process.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
        return None


def wait_in_time(context: Context, process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """As `wait`.

    Raises:
        NoTimeLeft: the deadline of the part came first.
    """
    limit = context.wait_limit(seconds)
    code = wait(process, limit)
    if code is None and limit < seconds:
        raise NoTimeLeft
    return code


def last_error(log: Path) -> str:
    """The line of a log that says best why a process failed."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()] if log.exists() else []
    own = [line for line in lines if line.startswith(("gan_dist:", "gpu.py:"))]
    errors = [line for line in lines if "Error" in line.split(" ")[0] and "ChildFailedError" not in line]
    return (own or errors or [line for line in lines if line] or ["it printed nothing"])[-1][:300]
