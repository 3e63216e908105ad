"""Times the steps of a loop, the same number on every rank, and profiles a few."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch.autograd import DeviceType
from torch.profiler import profile, supported_activities

WARM_UP = 8  # steps: graphs are captured in the fourth, allocators and libraries set up before
ESTIMATED = 2  # the last steps of the warm-up, from which the number of measured steps is computed
FEWEST, MOST = 3, 2_000
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync")


class StepClock:
    """Measures a loop that fetches something for each step.

    Args:
        accelerator: of the ranks.
        seconds: approximate duration of the measurement.
        profiled: steps under torch's profiler, after the measurement.
    """

    def __init__(self, accelerator: Accelerator, seconds: float, profiled: int) -> None:
        self.accelerator = accelerator
        self.device = accelerator.device
        self.seconds = seconds
        self.profiled = profiled
        self.steps = 0
        """Of the measurement."""
        self.spent = 0.0
        """Its seconds."""
        self._profile: profile | None = None

    def timed(self, loader: Iterable[Any]) -> Iterator[Any]:
        """The first items of a loader. A step begins when its item is fetched."""
        items = iter(loader)
        for _ in range(WARM_UP - ESTIMATED):
            yield next(items)
        began = self._now()
        for _ in range(ESTIMATED):
            yield next(items)
        step = (self._now() - began) / ESTIMATED
        self.steps = self._agreed(max(FEWEST, min(MOST, int(self.seconds / step))))
        began = self._now()
        for _ in range(self.steps):
            yield next(items)
        self.spent = self._now() - began
        if self.profiled:
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it warns if there is no GPU
            self._profile = profile(activities=supported_activities())
            with self._profile:
                for _ in range(self.profiled):
                    yield next(items)
                self._now()

    def figures(self, batch: int) -> dict[str, Any]:
        """images/s, ms a step, and of the profiled steps: kernels, their ms, and the launches of the host."""
        step = self.spent / self.steps
        return {"images/s": batch / step, "ms": 1e3 * step, "steps": self.steps} | self._profiled_figures()

    def _profiled_figures(self) -> dict[str, Any]:
        if self._profile is None:
            return {}
        events = self._profile.events() or []
        on_cpu = self.device.type == "cpu"
        kind = DeviceType.CPU if on_cpu else DeviceType.CUDA
        kernels = [e for e in events if e.device_type == kind and not getattr(e, "is_user_annotation", False)]
        time_of = [e.self_cpu_time_total if on_cpu else e.self_device_time_total for e in kernels]
        if not sum(time_of):  # CUPTI is not available
            return {"kernel ms": None, "kernels": None, "launches": None}
        launches = sum(e.name.startswith(LAUNCHES) for e in events if e.device_type == DeviceType.CPU)
        return {
            "kernel ms": 1e-3 * sum(time_of) / self.profiled,
            "kernels": len(kernels) / self.profiled,
            "launches": launches / self.profiled,
        }

    def _now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter()

    def _agreed(self, steps: int) -> int:
        """The number of rank 0: every rank must leave the loop at the same step."""
        shared = [steps]
        broadcast_object_list(shared)
        return shared[0]


def this_device() -> torch.device:
    """The current GPU of this process, or the CPU. (torch.accelerator names a GPU even where there is no driver.)"""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> float:
    """MB: of the device's allocator, or of this process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
