"""Generates images ahead of their use, in a thread or in several processes."""

from __future__ import annotations

import collections
import functools
import multiprocessing
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from gan_dist.config import InputError
from gan_dist.distributed.machine import fix_kernels
from gan_dist.distributed.numerics import set_numerics
from gan_dist.evaluation.features import single_thread
from gan_dist.results.sample import Sampler

AHEAD = 2  # chunks per process that are generated before the first of them is used

Result = TypeVar("Result")
Finish = Callable[[Sampler, int, UInt8[Tensor, "n c h w"]], Result]
"""(sampler, number of the chunk, its pixels) -> what is returned from the process. A function of a module, or an object
that can be pickled."""


def find_devices(name: str) -> list[torch.device]:
    """The devices that a name stands for: all of a kind, or one.

    Args:
        name: auto, cpu, or a kind or device of torch's accelerator, such as cuda or cuda:1.

    Raises:
        InputError: there is no such device.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    found = {"cpu": [torch.device("cpu")]}
    if accelerator is not None:
        every = [torch.device(accelerator.type, index) for index in range(torch.accelerator.device_count())]
        found |= {accelerator.type: every} | {str(device): [device] for device in every}
    found["auto"] = found["cpu" if accelerator is None else accelerator.type]
    if name not in found:
        raise InputError(f"device={name} is not available on this machine; choose from {', '.join(sorted(found))}")
    return found[name]


def as_array(sampler: Sampler, chunk: int, pixels: UInt8[Tensor, "n c h w"]) -> np.ndarray:
    """The pixels of a chunk, as processes return them. A tensor would be sent through shared memory."""
    return pixels.numpy()


def generate_ahead(
    sampler: Sampler,
    finish: Finish[Result],
    processes: int = 1,
    devices: Sequence[torch.device] = (torch.device("cpu"),),
) -> Iterator[Result]:
    """Generate all chunks of a sampler, and yield what `finish` returns for each, in order.

    On a CPU each process computes on one thread, since the number of threads can change the rounding: any number of
    processes gives the same bits. One process generates in a thread, beside the caller. The memory that is used does
    not depend on the number of chunks.

    Args:
        sampler: on the CPU.
        finish: is called where the chunk was generated.
        processes: number of processes.
        devices: are used in turn by the processes.

    Raises:
        InputError: a process died.
    """
    fix_kernels()
    executor, work = _workers(sampler, processes, devices)
    with single_thread(), executor:
        pending: collections.deque[Future[Result]] = collections.deque()
        try:
            for chunk in range(sampler.chunks):
                pending.append(executor.submit(work, finish, chunk))
                if len(pending) > AHEAD * processes:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise InputError(
                f"processes={processes} failed: one of them died, which lack of memory can cause; use fewer"
            ) from error
        finally:
            for future in pending:
                future.cancel()


def _workers(
    sampler: Sampler, processes: int, devices: Sequence[torch.device]
) -> tuple[Executor, Callable[[Finish[Any], int], Any]]:
    """What generates, and the function that it calls with (finish, number of the chunk)."""
    if processes == 1:
        return ThreadPoolExecutor(1), functools.partial(_generate, _placed(sampler, devices[0]))
    context: Any = multiprocessing.get_context("spawn")  # CUDA can't be used in a forked process
    turns = context.SimpleQueue()
    for process in range(processes):
        turns.put(str(devices[process % len(devices)]))
    # Pickled here, so that every process has this generator, also if a run that is training writes a newer one.
    return ProcessPoolExecutor(processes, context, _start_process, (pickle.dumps(sampler), turns)), _generate_here


def _placed(sampler: Sampler, device: torch.device) -> Sampler:
    """A sampler on its device, which computes in fp32, as in the evaluations of a run."""
    set_numerics(device, tf32=False, deterministic=False)
    return sampler.to(device)


def _generate(sampler: Sampler, finish: Finish[Result], chunk: int) -> Result:
    return finish(sampler, chunk, sampler.pixels(chunk))


_SAMPLERS: list[Sampler] = []  # of a process that `_start_process` has started


def _start_process(pickled: bytes, turns: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the processes
    torch.set_num_threads(1)
    sampler: Sampler = pickle.loads(pickled)
    _SAMPLERS.append(_placed(sampler, torch.device(turns.get())))


def _generate_here(finish: Finish[Result], chunk: int) -> Result:
    return _generate(_SAMPLERS[0], finish, chunk)
