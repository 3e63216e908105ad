"""A model of the time of a training step on GPUs. Nothing of it was measured on a GPU by this project.

    step         = max(host, images, kernels + arithmetic + traffic + all-reduces)
    host         = operations x 7 us in eager mode; one launch of a graph and 3 operations with --train.capture
    images       = bytes of this rank's images / (copy from a file), 0 if they are on the device
    kernels      = operations x 2 us
    arithmetic   = floating-point operations of this rank's images / (40 % of the peak)
    traffic      = bytes that the operations read and write / (80 % of the bandwidth)
    all-reduces  = one for each network, of its weights in fp32, by NCCL's own model of ring and tree

The number of operations is that of the table OPERATIONS in tests/test_device.py; gpu_figures.py has the other numbers
and their sources. `python benchmarks/gpu_tables.py` prints the tables of docs/scaling.md.
"""

from __future__ import annotations

import ast
import math
from pathlib import Path

from gpu_figures import (
    ARITHMETIC,
    COUNTS,
    EAGER,
    GRAPH,
    H100,
    HOST_COPY,
    KERNEL,
    PCIE,
    PROTOCOLS,
    TRAFFIC,
    Machine,
    Protocol,
)

LOCAL = 8  # GPUs of a host
GPUS = tuple(2**i for i in range(10))
OUTSIDE = 3  # operations of a step that are outside its graph; tests/test_capture.py counts them
GRAPHS = 1  # of a step
FALLS = 0.98  # a step that is not 2 % shorter counts as equally long
TREE = (
    (10, 10, 10, 10, 9, 8, 7, 7, 7, 7, 6, 5, 4, 4, 5, 6, 7, 8, 9, 10, 10, 10, 10, 10),
    (10, 10, 10, 10, 10, 9, 8, 8, 8, 7, 6, 6, 6, 6, 6, 6, 8, 9, 9, 9, 9, 10, 10, 10),
    (9, 9, 9, 9, 9, 9, 9, 8, 7, 6, 6, 5, 5, 5, 5, 6, 7, 8, 7, 7, 8, 9, 9, 9),
)
"""Tenths of a tree's bandwidth that NCCL reaches with LL, LL128 and Simple, for messages of 64 bytes x 2^i."""
OPERATIONS_FILE = Path(__file__).parents[1] / "tests" / "test_device.py"


def read_operations() -> dict[tuple[str, str, str], tuple[int, ...]]:
    """The table OPERATIONS: (preset, precision, reduction) -> for 1, 2 and 8 ranks."""
    for node in ast.parse(OPERATIONS_FILE.read_text()).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "OPERATIONS" and node.value:
            found: dict[tuple[str, str, str], tuple[int, ...]] = ast.literal_eval(node.value)
            return found
    raise LookupError(f"{OPERATIONS_FILE} has no table OPERATIONS")


OPERATIONS = read_operations()


def all_reduce(size: float, gpus: int, machine: Machine) -> float:
    """Seconds of an all-reduce of `size` bytes: the fastest of NCCL's algorithms and protocols."""
    if gpus == 1:
        return 0.0
    return min(_protocol_time(size, gpus, machine, i, protocol) for i, protocol in enumerate(PROTOCOLS))


def _protocol_time(size: float, gpus: int, machine: Machine, index: int, protocol: Protocol) -> float:
    hosts = math.ceil(gpus / LOCAL)
    bandwidth = machine.nvlink if hosts == 1 else min(machine.nvlink, machine.network)
    bandwidth *= protocol.share if hosts == 1 else protocol.share_network
    if protocol.limited:
        bandwidth = min(bandwidth, machine.low_latency[min(hosts, 3) - 1])
    if protocol.ring:
        steps, between = 2 * (gpus - 1), 2 * (hosts - 1)
        inside = max(protocol.nvlink, protocol.posts * machine.post if hosts > 1 else 0.0)
        latency = protocol.base + (steps - between) * inside + between * protocol.network
        return latency + size * steps / gpus / bandwidth
    latency = protocol.base + 2 * ((gpus // hosts - 1) * protocol.nvlink + math.log2(hosts) * protocol.network)
    level = int(math.log2(max(size, 64) / 64))
    factor = TREE[index % 3][level] / 10 if level < 24 else 1.0
    return latency + size / (0.5 * bandwidth * factor)


def step(
    preset: str,
    batch: int,
    gpus: int,
    graphs: bool,
    precision: str = "bf16",
    machine: Machine = H100,
    file: bool = False,
) -> float:
    """Seconds of a step.

    Args:
        preset: key of COUNTS.
        batch: global batch size, not smaller than `gpus`.
        gpus: one rank each.
        graphs: with --train.capture.
        precision: no (fp32 without TF32) or bf16.
        machine: of the GPUs.
        file: the images come from a file instead of the device's memory.
    """
    counts, images = COUNTS[preset], batch / gpus
    operations = OPERATIONS[preset, precision, "plain"][min(2, int(math.log2(gpus)))]
    host = GRAPHS * GRAPH + OUTSIDE * EAGER if graphs else operations * EAGER
    half = 0.5 if precision == "bf16" else 1.0  # of the bytes of each image; weights and optimizers stay in fp32
    peak = machine.bf16 if precision == "bf16" else machine.fp32
    arithmetic = images * counts.flops / (ARITHMETIC * peak)
    traffic = (half * images * counts.traffic + counts.constant) / (TRAFFIC * machine.memory)
    reduced = sum(all_reduce(4 * weights, gpus, machine) for weights in (counts.discriminator, counts.generator))
    data = images * image_seconds(preset) if file else 0.0
    return max(host, data, operations * KERNEL + arithmetic + traffic + reduced)


def image_seconds(preset: str) -> float:
    """Seconds in which an image comes from a file to a GPU."""
    return COUNTS[preset].pixels * (1 / HOST_COPY + 1 / PCIE)


def efficiency(preset: str, batch: int, gpus: int, graphs: bool) -> float:
    """Share of perfect scaling at a fixed global batch."""
    return step(preset, batch, 1, graphs) / step(preset, batch, gpus, graphs) / gpus


def limits(preset: str, batch: int, graphs: bool) -> tuple[int, int, float]:
    """The most GPUs with an efficiency of 50 %, the GPUs beyond which a step gets no shorter, and their speedup."""
    possible = [gpus for gpus in GPUS if gpus <= batch]
    half = max(gpus for gpus in possible if efficiency(preset, batch, gpus, graphs) >= 0.5)
    fastest = 1
    for gpus in possible[1:]:
        if step(preset, batch, gpus, graphs) < FALLS * step(preset, batch, fastest, graphs):
            fastest = gpus
    return half, fastest, fastest * efficiency(preset, batch, fastest, graphs)


def launch_bound(preset: str, graphs: bool) -> int:
    """The largest batch of one GPU with which a step takes less than twice as long as an empty one: a power of two."""
    images, none = 1, step(preset, 0, 1, graphs)
    while step(preset, 2 * images, 1, graphs) < 2 * none:
        images *= 2
    return images
