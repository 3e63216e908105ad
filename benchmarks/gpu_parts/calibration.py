"""The machine: its GPUs and versions, and what a launch, a kernel, a product, a copy and an all-reduce take on it.

These are the constants of gpu_model.py, measured. The shares of the part `speed` refer to them, so they are ratios
within one run.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from gan_dist.config import Config
from gan_dist.distributed.machine import usable_cores
from gan_dist.distributed.numerics import set_numerics
from gpu_parts.clock import this_device

REPEATS = 5
OPERATIONS = 500  # small ones, of a measurement
SMALL = 1_024  # numbers of a small operation
PRODUCTS = {"no": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
QUERIES = (
    "name",
    "driver_version",
    "clocks.max.sm",
    "clocks.max.mem",
    "power.limit",
    "compute_mode",
    "mig.mode.current",
)
LINKS = ("NV", "PIX", "PXB", "PHB", "NODE", "SYS")  # of nvidia-smi topo; NVn: n NVLinks; the others: PCIe
SIZES = (4, 65_536, 1_331_204, 17_335_300, 82_765_824)
"""Bytes of an all-reduce: a word, and the gradients of `seed`, `pictures` and `cifar10` among them."""


def describe() -> dict[str, Any]:
    """Hardware and versions. Commands that are missing leave their entries out."""
    found: dict[str, Any] = {
        "cpu": f"{_cpu_name()}, {usable_cores()} cores",
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: version(name) for name in ("torch", "accelerate", "torchvision")},
    }
    if not torch.cuda.is_available():
        return found | {"gpus": 0}
    properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    found |= {
        "gpus": len(properties),
        "gpu names": ", ".join(dict.fromkeys(each.name for each in properties)),
        "gpu memory GB": round(min(each.total_memory for each in properties) / 1e9, 1),
        "compute capability": f"{properties[0].major}.{properties[0].minor}",
        "multiprocessors": properties[0].multi_processor_count,
        "threads at once": _tried(lambda: _threads(properties[0])),
        "cuda": torch.version.cuda,
        "cudnn": _tried(torch.backends.cudnn.version),
        "nccl": _tried(lambda: ".".join(map(str, torch.cuda.nccl.version()))),
        "peer access": _tried(lambda: _peers(len(properties))),
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "NCCL variables": {name: value for name, value in os.environ.items() if name.startswith("NCCL_")} or None,
    }
    first = _output("nvidia-smi", "--query-gpu=" + ",".join(QUERIES), "--format=csv,noheader", "--id=0")
    found |= dict(zip((f"nvidia-smi {name}" for name in QUERIES), first.split(", "), strict=False)) if first else {}
    matrix = [line.split() for line in _output("nvidia-smi", "topo", "-m").splitlines() if line.startswith("GPU")]
    links = {word for line in matrix for word in line if word.startswith(LINKS)}
    found["topology"] = ", ".join(sorted(links)) or None
    return found


def _tried(find: Callable[[], Any]) -> Any:
    """None if it is not to be found here."""
    try:
        return find()
    except Exception as error:
        return f"unknown ({type(error).__name__})"


def _threads(properties: Any) -> int:
    return properties.multi_processor_count * properties.max_threads_per_multi_processor


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as stream:
            return next(line.partition(":")[2].strip() for line in stream if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _peers(gpus: int) -> str:
    pairs = [(a, b) for a in range(gpus) for b in range(gpus) if a != b]
    return f"{sum(torch.cuda.can_device_access_peer(*pair) for pair in pairs)} of {len(pairs)} pairs"


def _output(*words: str) -> str:
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=15, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def calibrate(short: bool) -> dict[str, Any]:
    """Measure this rank's device.

    Returns:
        "launch us": of the host, for an operation in eager mode; "kernel us": of the device, for a small kernel of a
        graph; "graph us": of the host, for the launch of a graph; "TFLOP/s PRECISION": of a large product; "copy GB/s":
        bytes read and written by a copy on the device. Those of graphs are None without CUDA.
    """
    device = this_device()
    numbers = torch.zeros(SMALL, device=device)

    def operations() -> None:
        for _ in range(OPERATIONS):
            numbers.add_(1)

    found: dict[str, Any] = {"launch us": 1e6 * _host_seconds(operations, device) / OPERATIONS}
    found |= {"kernel us": None, "graph us": None}
    if device.type == "cuda":
        many, one = _graph(operations), _graph(lambda: numbers.add_(1))
        found["kernel us"] = 1e6 * _seconds(many.replay, device) / OPERATIONS
        found["graph us"] = 1e6 * _host_seconds(lambda: [one.replay() for _ in range(100)], device) / 100
    side = 128 if short else 8_192 if device.type == "cuda" else 1_024
    for precision, dtype in PRODUCTS.items():
        if device.type == "cpu" and precision in ("tf32", "fp16"):
            continue
        set_numerics(device, tf32=precision == "tf32", deterministic=False)
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        spent = _seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device)
        found[f"TFLOP/s {precision}"] = 2e-12 * side**3 / spent
    set_numerics(device, tf32=Config().train.tf32, deterministic=False)
    source = torch.zeros(2**20 if short else 2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    found["copy GB/s"] = 2e-9 * source.nbytes / _seconds(lambda: target.copy_(source), device)
    return found


def all_reduces(short: bool) -> dict[str, Any]:
    """Microseconds of all-reduces of several sizes, on the ranks of this process group: bytes -> us."""
    from gpu_parts.jobs import start

    device, found = start(Config()).device, {}
    for size in SIZES[:3] if short else SIZES:
        numbers = torch.zeros(size // 4, device=device)

        def reduce(numbers: torch.Tensor = numbers) -> None:
            if dist.is_initialized():
                dist.all_reduce(numbers)

        found[str(size)] = 1e6 * _seconds(lambda: [reduce() for _ in range(10)], device) / 10
    return found


def _graph(work: Callable[[], object]) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Duration of work that the device has finished: the median after one repeat."""
    return median(_durations(work, device, finished=True))


def _host_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Duration on the host alone. The queue of a GPU, of about 1,000 launches, is empty before each repeat."""
    return median(_durations(work, device, finished=False))


def _durations(work: Callable[[], object], device: torch.device, finished: bool) -> list[float]:
    spent = []
    for _ in range(REPEATS + 1):
        _synchronize(device)
        began = time.perf_counter()
        work()
        if finished:
            _synchronize(device)
        spent.append(time.perf_counter() - began)
    _synchronize(device)
    return spent[1:]


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
