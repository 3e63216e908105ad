"""When it pays on GPUs to reduce gradients during the backward pass: the model of gpu_model.py, with DDP's buckets.

    python benchmarks/gpu_overlap.py

An update with DDP reduces a bucket of 1 MiB, then buckets of 25 MiB. The last one can't overlap: its gradients are
those of the first layers, which the backward pass computes last. The others overlap with half of the update. CUDA
graphs do not replay DDP's hooks, so the host launches every operation. Prints a Markdown table of steps with one vector
an update and graphs, and with DDP. Predicted: nothing was measured.
"""

from __future__ import annotations

import math
import sys

from gpu_figures import ARITHMETIC, COUNTS, EAGER, H100, KERNEL, TRAFFIC, Counts
from gpu_model import OPERATIONS, all_reduce, step

from gan_dist.trainer.gradients import BUCKET_BYTES, FIRST_BUCKET_BYTES

GPUS = (8, 16, 64)
BATCHES = (1024, 8192)
OVERLAPPED = 0.5  # share of an update during which its gradients become ready


def buckets(size: float) -> list[float]:
    """Bytes of the buckets of a network with so many bytes of gradients."""
    found = [min(size, FIRST_BUCKET_BYTES)]
    while (left := size - sum(found)) > 0:
        found.append(min(left, BUCKET_BYTES))
    return found


def exposed(size: float, seconds: float, gpus: int) -> float:
    """Seconds of communication that do not overlap.

    Args:
        size: bytes of the network's gradients.
        seconds: of the update's computation.
        gpus: one rank each.
    """
    times = [all_reduce(bucket, gpus, H100) for bucket in buckets(size)]
    return max(times[-1], sum(times) - OVERLAPPED * seconds)


def ddp_step(preset: str, batch: int, gpus: int) -> float:
    """Seconds of a step with DDP in bf16, as in `gpu_model.step`."""
    counts: Counts = COUNTS[preset]
    images, operations = batch / gpus, OPERATIONS[preset, "bf16", "plain"][min(2, int(math.log2(gpus)))]
    arithmetic = images * counts.flops / (ARITHMETIC * H100.bf16)
    traffic = (0.5 * images * counts.traffic + counts.constant) / (TRAFFIC * H100.memory)
    compute = operations * KERNEL + arithmetic + traffic
    sizes = [4 * weights for weights in (counts.discriminator, counts.generator)]
    return max(operations * EAGER, compute + sum(exposed(size, compute / 2, gpus) for size in sizes))


def main() -> int:
    head = ["preset", "MB", *(f"batch {batch:,}, {gpus} GPUs" for batch in BATCHES for gpus in GPUS)]
    rows = []
    for preset, counts in COUNTS.items():
        row = [f"`{preset}`", f"{4e-6 * max(counts.discriminator, counts.generator):.1f}"]
        for batch in BATCHES:
            for gpus in GPUS:
                flat, ddp = step(preset, batch, gpus, graphs=True), ddp_step(preset, batch, gpus)
                row.append(f"{1e3 * flat:.2f}, {1e3 * ddp:.2f} ms ({flat / ddp - 1:+.0%})")
        rows.append(row)
    for line in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(line) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
