"""The state of an optimizer as named tensors, as safetensors files hold them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """The state as "0.<name>" -> tensor, empty before the first step. Hyperparameters are in the configuration.

    Args:
        optimizer: over one vector, or over slices of one: then the vectors of the state are those of the whole vector,
            and the numbers those of the first slice, to which the others are equal.
    """
    slots = list(optimizer.state_dict()["state"].values())
    return {f"0.{name}": _joined([slot[name] for slot in slots]) for name in (slots[0] if slots else ())}


def load_optimizer_tensors(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load the tensors of `optimizer_tensors`, whatever the number of slices was."""
    sizes = [parameter.numel() for parameter in optimizer.param_groups[0]["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name = key.removeprefix("0.")
        for index, part in enumerate(_split(tensor, sizes)):
            state.setdefault(index, {})[name] = part
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if len(parts) > 1 and parts[0].ndim else parts[0]


def _split(tensor: Tensor, sizes: list[int]) -> list[Tensor]:
    if len(sizes) == 1:
        return [tensor]
    # A number is copied: the optimizer adds to that of each slice.
    return list(tensor.split(sizes)) if tensor.ndim else [tensor.clone() for _ in sizes]
