"""The published figures of gpu_model.py, each with its source, and the counts of gpu_counts.py."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """Hosts of 8 GPUs. Peaks of NVIDIA's data sheets, without sparsity."""

    name: str
    fp32: float
    """Floating-point operations per second."""
    bf16: float
    memory: float
    """Bytes per second."""
    nvlink: float
    """Bytes per second and direction that NCCL counts with, of each GPU."""
    network: float
    """Bytes per second and direction of a host: 8 network cards."""
    low_latency: tuple[float, float, float]
    """Largest bandwidth of NCCL's protocol LL, in bytes per second, on 1, 2 and more hosts."""
    post: float
    """Seconds to post a message to the network (NCCL: 1 us with Intel's processors, 2 us with AMD's)."""


A100 = Machine("DGX A100 80 GB", 19.5e12, 312e12, 2.039e12, 240e9, 8 * 25e9, (87.7e9, 22.5e9, 19.0e9), 2e-6)
H100 = Machine("DGX H100", 67e12, 989e12, 3.35e12, 360e9, 8 * 50e9, (141e9, 39e9, 20.4e9), 1e-6)


@dataclass(frozen=True)
class Protocol:
    """An algorithm and protocol of NCCL's all-reduce: latencies in seconds, and the usable share of the bandwidth."""

    ring: bool
    base: float
    nvlink: float
    network: float
    share: float
    """Of the bandwidth, on one host."""
    share_network: float
    """The same on several hosts."""
    limited: bool = False
    """Whether Machine.low_latency limits the bandwidth."""
    posts: int = 1
    """Messages that are posted in each step."""


# NCCL 2.30.7, src/graph/tuning.cc: ring and tree with LL, LL128 and Simple.
PROTOCOLS = (
    Protocol(True, 6.6e-6, 0.6e-6, 2.7e-6, 0.5, 0.5, limited=True),
    Protocol(True, 14.0e-6, 1.9e-6, 4.0e-6, 0.92, 0.92),
    Protocol(True, 8.4e-6, 3.4e-6, 14.0e-6, 1.0, 1.0, posts=3),
    Protocol(False, 6.8e-6, 0.6e-6, 5.0e-6, 0.92 / 3.8, 0.92 / 3.8, limited=True),
    Protocol(False, 14.0e-6, 1.25e-6, 8.5e-6, 0.92 * 7 / 9, 0.92 * 15 / 16),
    Protocol(False, 8.4e-6, 4.0e-6, 14.0e-6, 0.92, 0.92),
)

EAGER = 7e-6  # seconds of the host for an operation in eager mode, H100
KERNEL = 2e-6  # seconds of the device for the smallest kernel in a graph
GRAPH = 8e-6  # seconds of the host for launching a graph
HOST_COPY = 2e9  # bytes per second that one thread copies from a file in the page cache
PCIE = 25e9  # bytes per second from the host to a GPU, PCIe 4.0
ARITHMETIC, TRAFFIC = 0.4, 0.8  # achieved shares of the peaks

SOURCES = (
    ("arithmetic, memory, NVLink, network", "data sheets of the A100 80 GB SXM, the H100 SXM, DGX A100 and DGX H100"),
    (
        "all-reduce",
        "NCCL 2.30.7, `src/graph/tuning.cc`: latencies and bandwidths of ring and tree; NVLink SHARP unused",
    ),
    (
        "host, 7 us an operation",
        "meta-pytorch/autoparallel#146, fitted on H100; up to 45 us with much Python: facebookresearch/sam2#768",
    ),
    (
        "kernel, 2 us",
        "**assumed**, between 0.9 us (CUDA.jl, Graphs) and 3.4 us (NVIDIA, Getting Started with CUDA Graphs)",
    ),
    (
        "launch of a graph, 8 us",
        "CUDA.jl, Graphs; 1 graph a step, and 3 operations outside it (tests/test_capture.py)",
    ),
    ("achieved arithmetic 40 %, memory 80 %", "**assumed**; small layers reach less"),
    ("images from a file, 2 GB/s", "**assumed**, one thread; PCIe 4.0: 25 GB/s"),
)


@dataclass(frozen=True)
class Counts:
    """Of a step in fp32 (gpu_counts.py)."""

    discriminator: int
    """Weights."""
    generator: int
    flops: float
    """Floating-point operations for each image."""
    traffic: float
    """Bytes read and written for each image."""
    constant: float
    """Bytes read and written whatever the batch: weights, gradients, optimizers."""
    pixels: int
    """Bytes of an image."""


COUNTS = {
    "seed": Counts(332801, 283920, 6.738e06, 2.021e05, 3.005e07, 784),
    "r3": Counts(332801, 283920, 1.139e07, 4.172e05, 3.935e07, 784),
    "conv": Counts(415809, 433488, 3.156e07, 1.002e06, 6.23e07, 784),
    "r3-conv": Counts(415809, 433488, 4.02e07, 1.383e06, 5.415e07, 784),
    "digits": Counts(418369, 442000, 3.166e07, 1.06e06, 6.294e07, 784),
    "stacked": Counts(425025, 442736, 5.555e07, 1.879e06, 5.545e07, 2352),
    "pictures": Counts(4333825, 4374192, 9.382e08, 1.841e07, 5.581e08, 12288),
    "cifar10": Counts(20691456, 20781952, 2.668e11, 4.495e09, 2.914e09, 3072),
}

# Measured all-reduces: machine, GPUs, bytes, microseconds, source.
ALL_REDUCES = (
    (A100, 2, 32, 10.14, "NVIDIA/nccl#583"),
    (H100, 2, 128, 6.0, "NVIDIA/nccl#1259, in a graph"),
    (H100, 8, 128 * 2**20, 613.3, "NVIDIA/nccl-tests#290"),
    (H100, 8, 2**30, 4038.8, "NVIDIA/nccl-tests#290"),
    (H100, 16, 8 * 2**20, 215.3, "NVIDIA/nccl-tests#290"),
    (H100, 16, 128 * 2**20, 1575.6, "NVIDIA/nccl-tests#290"),
)


@dataclass(frozen=True)
class Published:
    """Seconds per 1,000 images of a published run, on one host."""

    side: int
    gpus: int
    batch: int
    images: int
    """Of a pass, on each GPU."""
    seconds: float


def _rows(
    seconds: dict[int, tuple[float, ...]], images: dict[int, tuple[int, ...]], batch: int | None
) -> tuple[Published, ...]:
    return tuple(
        Published(side, gpus, batch or gpus * here, here, time)
        for side, times in seconds.items()
        for gpus, here, time in zip((1, 2, 4, 8), images[side], times, strict=True)
    )


# README.md of stylegan2-ada-pytorch, "Expected training time": middle of the range. train.py, --cfg=auto: the batch is
# GPUs x min(4096 / side, 32), and at most 64.
_ADA = {128: (13.25, 6.65, 4.35, 4.4), 256: (22.9, 11.5, 5.75, 4.95), 512: (73.7, 38.85, 18.9, 9.6)}
_ADA[1024] = (157.95, 83.4, 40.45, 20.4)
_ADA_IMAGES = {128: (32, 32, 16, 8), 256: (16, 16, 16, 8), 512: (8, 8, 8, 8), 1024: (4, 4, 4, 4)}
# docs/configs.md of stylegan3, "Recommended configurations": batch 32, with --batch-gpu.
_T_V100 = {128: (73.68, 37.30, 20.66, 11.31), 256: (89.15, 45.45, 23.94, 13.04), 512: (137.33, 69.65, 34.88, 18.47)}
_T_V100[1024] = (221.85, 113.44, 57.04, 28.71)
_T_A100 = {128: (27.20, 13.74, 7.52, 4.40), 256: (49.81, 25.05, 13.26, 7.32), 512: (90.25, 45.42, 22.81, 12.29)}
_T_A100[1024] = (156.91, 79.16, 39.62, 20.01)
_R_V100 = {128: (58.44, 29.92, 15.49, 8.43), 256: (87.37, 44.12, 22.42, 11.88), 512: (158.91, 79.96, 40.86, 20.44)}
_R_V100[1024] = (263.44, 134.22, 67.33, 34.12)
_R_A100 = {128: (34.23, 17.29, 9.53, 5.69), 256: (56.73, 28.60, 14.39, 8.03), 512: (110.13, 55.18, 27.99, 14.04)}
_R_A100[1024] = (184.81, 92.58, 46.53, 23.42)
_T_IMAGES = {128: (16, 16, 8, 4), 256: (16, 16, 8, 4), 512: (8, 8, 8, 4), 1024: (4, 4, 4, 4)}
_R_IMAGES = {128: (16, 16, 8, 4), 256: (8, 8, 8, 4), 512: (4, 4, 4, 4), 1024: (4, 4, 4, 4)}

PUBLISHED: dict[str, tuple[Published, ...]] = {
    "StyleGAN2-ADA, V100": _rows(_ADA, _ADA_IMAGES, None),
    "StyleGAN3-T, V100": _rows(_T_V100, _T_IMAGES, 32),
    "StyleGAN3-T, A100": _rows(_T_A100, _T_IMAGES, 32),
    "StyleGAN3-R, V100": _rows(_R_V100, _R_IMAGES, 32),
    "StyleGAN3-R, A100": _rows(_R_A100, _R_IMAGES, 32),
}
