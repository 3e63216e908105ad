"""Numerical settings of CUDA's libraries: TensorFloat-32, and deterministic kernels.

torch's defaults differ between its libraries: from Ampere GPUs on, convolutions in fp32 use TensorFloat-32 and matrix
products do not. Both are set here, in one way, and recorded in environment.json.
"""

from __future__ import annotations

import os
from typing import Any

import torch

from gan_dist.config import InputError

CUBLAS_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
CUBLAS_DETERMINISTIC = (":4096:8", ":16:8")  # the values with which cuBLAS documents reproducible results
TF32_VARIABLE = "NVIDIA_TF32_OVERRIDE"  # read by NVIDIA's libraries; stronger than torch's settings


def fix_cublas() -> None:
    """Make cuBLAS deterministic. Call it before the first product on a GPU, at which the variable is read.

    Raises:
        InputError: the user's variables contradict it.
    """
    if not torch.cuda.is_available():
        return
    workspace = os.environ.setdefault(CUBLAS_VARIABLE, CUBLAS_DETERMINISTIC[0])
    if workspace not in CUBLAS_DETERMINISTIC:
        raise InputError(
            f"the variable {CUBLAS_VARIABLE}={workspace} is incompatible with train.exact_shards on a GPU: cuBLAS is "
            f"deterministic with {' and '.join(CUBLAS_DETERMINISTIC)} only; use one of them, or unset it"
        )
    if (override := os.environ.get(TF32_VARIABLE, "0")) != "0":
        raise InputError(
            f"the variable {TF32_VARIABLE}={override} is incompatible with train.exact_shards, which computes in full "
            "fp32; unset it"
        )


def set_numerics(device: torch.device, tf32: bool, deterministic: bool, benchmark: bool = False) -> None:
    """Set the precision of fp32 operations, and whether every operation must be deterministic. On CUDA only.

    With `deterministic`, an operation without a deterministic kernel raises an error (the list is in the documentation
    of torch.use_deterministic_algorithms). The step has none: nearest-neighbour `interpolate`, `index_select` of the
    images and `bucketize` add nothing atomically, the embedding's gradient has a deterministic kernel, and bilinear
    resampling and translation are built from operations that have one (`models.resampling`, `gan.augmentation`).

    Args:
        device: of this process.
        tf32: allow TensorFloat-32, in matrix products and convolutions alike.
        deterministic: as the exact mode requires.
        benchmark: let cuDNN time its kernels for each convolution, and use the fastest. It does so the first time that
            a shape occurs, so before a CUDA graph is captured. The choice differs between GPUs and between runs.
    """
    if device.type != "cuda":
        return
    _set_tf32(tf32)
    torch.backends.cudnn.benchmark = benchmark
    torch.backends.cudnn.deterministic = deterministic
    # What torch.use_deterministic_algorithms sets, without importing torch's compiler, which takes seconds.
    torch.set_deterministic_debug_mode("error" if deterministic else "default")
    # Otherwise deterministic mode fills the result of each torch.empty, although every kernel overwrites it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def describe_numerics(device: torch.device) -> dict[str, Any]:
    """Returns the settings, for environment.json."""
    described: dict[str, Any] = {"deterministic_algorithms": torch.are_deterministic_algorithms_enabled()}
    if device.type != "cuda":
        return described
    matmul, cudnn = _tf32()
    return described | {
        "tf32_matmul": matmul,
        "tf32_cudnn": cudnn,
        "cudnn": torch.backends.cudnn.version(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        CUBLAS_VARIABLE: os.environ.get(CUBLAS_VARIABLE),
        TF32_VARIABLE: os.environ.get(TF32_VARIABLE),
    }


# torch 2.9 replaced `allow_tf32` by `fp32_precision`, and raises errors where a process uses both.


def _set_tf32(enabled: bool) -> None:
    backends: Any = torch.backends
    if not hasattr(backends.cudnn, "conv"):
        backends.cuda.matmul.allow_tf32 = backends.cudnn.allow_tf32 = enabled
        return
    for operation in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn):
        operation.fp32_precision = "tf32" if enabled else "ieee"


def _tf32() -> tuple[bool, bool]:
    """Whether it is allowed, in matrix products and in cuDNN."""
    backends: Any = torch.backends
    if not hasattr(backends.cudnn, "conv"):
        return backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32
    return backends.cuda.matmul.fp32_precision == "tf32", backends.cudnn.conv.fp32_precision == "tf32"
