"""Convolutions in the layout in which the channels of a pixel are neighbours in memory (channels last).

cuDNN's kernels for tensor cores compute in this layout, and convert the tensors of any other one in each call.
https://docs.pytorch.org/tutorials/intermediate/memory_format_tutorial.html

The maps are converted, not the weights: these are views of one vector, whose order the optimizer's state and the
checkpoints share. torch converts the weights in each call to the layout of the maps; they are small beside them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def use_channels_last(*networks: nn.Module) -> bool:
    """Give every convolution of networks, and of copies that are made from them, its maps with the channels last.

    Layers between convolutions keep the layout of their input where they can. A map with one channel is the same in
    both layouts and counts as the default one.

    Returns:
        Whether there are any convolutions.
    """
    modules = (module for network in networks for module in network.modules())
    convolutions = [module for module in modules if isinstance(module, nn.Conv2d)]
    for convolution in convolutions:
        convolution.register_forward_pre_hook(_to_channels_last)
    return bool(convolutions)


def _to_channels_last(convolution: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (maps,) = inputs
    return (maps.contiguous(memory_format=torch.channels_last),)
