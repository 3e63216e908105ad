"""A vector of weights as several parameters, so that the fused optimizer keeps a GPU busy.

On CUDA, torch's fused optimizers cut each parameter into chunks of 65,536 numbers and compute each in one block
(`multi_tensor_apply_for_fused_optimizer` in ATen/native/cuda/MultiTensorApply.cuh). A vector of 300,000 weights is
5 blocks, and an H100 has 132 multiprocessors. Chunks never span two parameters, so the same vector as 36 parameters is
36 blocks. One launch takes at most 36 parameters (the arguments of a kernel had 4 KB); more would be further launches,
which follow each other, so they would not be faster.

Adam is elementwise: the slices change nothing but the blocks. The steps that it counts for each slice are equal.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

CHUNK = 65_536  # numbers in a block: kChunkSize
MAX_SLICES = 36  # parameters in a launch: depth_to_max_tensors[3], for weights, gradients and two moments
ALIGNMENT = 2_048  # numbers that a block computes at once: 512 threads, 4 numbers each


def count_slices(weights: int, multiprocessors: int) -> int:
    """The number of slices that keeps a GPU busiest in one launch.

    Args:
        weights: size of the vector.
        multiprocessors: of the GPU; 1 for other devices.
    """
    slices = min(multiprocessors, MAX_SLICES)
    if weights >= slices * CHUNK:  # the chunks of one parameter are at least as many blocks
        return 1
    return min(slices, -(-weights // ALIGNMENT))


def multiprocessors_of(device: torch.device) -> int:
    """The number of multiprocessors of a GPU; 1 for other devices."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def slice_sizes(weights: int, slices: int) -> list[int]:
    """The sizes of at most `slices` slices: equal multiples of `ALIGNMENT`, but for the last one."""
    size = -(-weights // (slices * ALIGNMENT)) * ALIGNMENT
    return [min(size, weights - start) for start in range(0, weights, size)]


def slices_of(vector: nn.Parameter, slices: int) -> list[nn.Parameter]:
    """The parameters that an optimizer gets for a vector: its slices in order, or itself as the only one."""
    if slices == 1:
        return [vector]
    return [nn.Parameter(part) for part in vector.detach().split(slice_sizes(len(vector), slices))]


def vector_of(slices: Sequence[nn.Parameter]) -> Float[Tensor, " weights"]:
    """The vector of `slices_of`, without its gradient."""
    first, *others = (part.detach() for part in slices)
    if not others:
        return first
    ends = [part.storage_offset() + len(part) for part in (first, *others)]
    assert [part.storage_offset() for part in others] == ends[:-1], "the slices do not follow each other"
    return first.as_strided((sum(map(len, slices)),), (1,))
