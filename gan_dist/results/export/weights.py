"""Weights of exported networks: half precision where it does not change the images, and one buffer for all."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gan_dist.results.export.layers import Operation

Precision = Literal["float16", "float32"]
MAX_GREY_LEVELS = 0.5  # of 255: a difference below 1 changes a pixel by one level at most; the rest is a margin


def choose_precision(
    network: nn.Module, outputs: Callable[[], Tensor], largest_change: float
) -> tuple[Precision, float]:
    """The smaller format of a network's weights that does not change its outputs.

    Args:
        network: whose weights are rounded, and restored.
        outputs: computes its outputs for typical inputs.
        largest_change: of an output that is allowed.

    Returns:
        "float16" if rounding the weights to it changes no output by more, else "float32"; and the largest change.
    """
    exact = outputs()
    kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    try:
        network.load_state_dict({name: tensor.half().float() for name, tensor in kept.items()})
        change = (outputs() - exact).abs().max().item()
    finally:
        network.load_state_dict(kept)
    return ("float16", change) if change <= largest_change else ("float32", 0.0)  # NaN and infinity: float32


def pack(operations: Sequence[Operation], buffer: list[Tensor], precision: Precision) -> list[dict[str, Any]]:
    """Operations as JSON. Each tensor becomes its shape and its position in `buffer`, to which it is appended."""
    packed = []
    for operation in operations:
        entry: dict[str, Any] = {"kind": operation.kind, "shape": list(operation.shape), **operation.settings}
        for name, tensor in operation.weights.items():
            position = sum(part.numel() for part in buffer)
            buffer.append(tensor.detach().flatten().to(getattr(torch, precision)))
            entry[name] = {"at": position, "shape": list(tensor.shape)}
        if operation.branch:
            entry["branch"] = pack(operation.branch, buffer, precision)
        packed.append(entry)
    return packed


def pack_network(operations: Sequence[Operation], precision: Precision) -> dict[str, Any]:
    """A network as JSON, for `compile` in network.js."""
    buffer: list[Tensor] = []
    packed = pack(operations, buffer, precision)
    return {"operations": packed, "precision": precision, "numbers": encode(buffer)}


def encode(tensors: Sequence[Tensor]) -> str:
    """The numbers of all tensors in a row, little-endian, in base64."""
    numbers = torch.cat([tensor.flatten() for tensor in tensors]).numpy()
    return base64.b64encode(numbers.astype(numbers.dtype.newbyteorder("<")).tobytes()).decode()
