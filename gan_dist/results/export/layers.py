"""Networks as lists of operations, which a program without torch can execute: templates/network.js.

A new kind of layer is one function and a line in LAYERS, and an operation of the same name in operations.js. A new
architecture is a line for each of its networks in NETWORKS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from gan_dist.config import InputError
from gan_dist.models import conv, mlp, resampling, residual
from gan_dist.models.labels import LatentsWithClass, Projection

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Operation:
    """One step of a network: maps the output of the previous one, without the dimension of the batch, to its own."""

    kind: str
    """Its name in operations.js."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Numbers, by name."""
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    branch: tuple[Operation, ...] = ()
    """Of a "residual": operations whose output is added to their input."""
    shape: Shape = ()
    """Of the output."""

    def multiplications(self) -> int:
        """Products with weights for one image."""
        positions = self.shape[1] * self.shape[2] if self.kind == "convolution" else 1
        own = self.weights["weight"].numel() * positions if "weight" in self.weights else 0
        return own + sum(operation.multiplications() for operation in self.branch)


class UnsupportedModule(Exception):
    """A module has no equivalent operation. The message describes it."""


def describe_network(network: nn.Module, argument: str) -> tuple[Operation, ...]:
    """The operations of a generator or a discriminator.

    Args:
        network: in eval mode, on the CPU. A generator has attributes as those of `load_generator`.
        argument: from which it was read, for messages.

    Raises:
        InputError: the network, or one of its layers, is not declared here.
    """
    try:
        if type(network) not in NETWORKS:
            raise UnsupportedModule(f"{type(network).__module__}.{type(network).__name__}")
        with torch.no_grad():
            return NETWORKS[type(network)](network)
    except UnsupportedModule as error:
        raise InputError(
            f"{argument} has a module that format=html does not know ({error}); declare it in "
            "results/export/layers.py, or use --format onnx"
        ) from None


# Layers: each function gets an input of the layer, too, with a batch of 1.

Operations = Iterator[Operation]


def linear(layer: nn.Linear, sample: Tensor) -> Operations:
    yield Operation("linear", weights=parameters(layer))


def convolution(layer: nn.Conv2d, sample: Tensor) -> Operations:
    padding = layer.padding if isinstance(layer.padding, tuple) else None
    if layer.stride != (1, 1) or layer.dilation != (1, 1) or layer.padding_mode != "zeros" or padding is None:
        raise UnsupportedModule(repr(layer))
    yield Operation("convolution", {"groups": layer.groups, "padding": list(padding)}, parameters(layer))


def average_pool(layer: nn.AvgPool2d, sample: Tensor) -> Operations:
    halves = layer.kernel_size == 2 and layer.stride == 2 and layer.padding == 0 and layer.ceil_mode
    if not halves or layer.divisor_override is not None:
        raise UnsupportedModule(repr(layer))
    yield Operation("average_pool")


def residual_block(layer: residual.ResidualBlock, sample: Tensor) -> Operations:
    yield Operation("residual", branch=trace(layer.branch, sample))


def basis(layer: residual.Basis, sample: Tensor) -> Operations:
    yield Operation("linear", weights=parameters(layer.factors), shape=(len(layer.maps),))
    yield Operation("scale_maps", weights={"maps": layer.maps})


def parameters(layer: nn.Module) -> dict[str, Tensor]:
    return dict(layer.named_parameters())


def plain(kind: str, **settings: str) -> Callable[[Any, Tensor], Operations]:
    """An operation without weights. `settings`: its name for a number -> the layer's attribute."""

    def operation(layer: nn.Module, sample: Tensor) -> Operations:
        yield Operation(kind, {name: getattr(layer, attribute) for name, attribute in settings.items()})

    return operation


def relu(layer: nn.ReLU, sample: Tensor) -> Operations:
    yield Operation("leaky_relu", {"slope": 0.0})


# Type of a layer -> its operations. Only the exact type: a subclass may compute something else.
LAYERS: dict[type[nn.Module], Callable[[Any, Tensor], Operations]] = {
    nn.Linear: linear,
    nn.Conv2d: convolution,
    nn.ReLU: relu,
    nn.LeakyReLU: plain("leaky_relu", slope="negative_slope"),
    nn.Tanh: plain("tanh"),
    nn.Flatten: plain("reshape"),
    nn.Unflatten: plain("reshape"),
    nn.PixelShuffle: plain("pixel_shuffle", factor="upscale_factor"),
    nn.PixelUnshuffle: plain("pixel_unshuffle", factor="downscale_factor"),
    nn.AvgPool2d: average_pool,
    conv.Enlarge: plain("enlarge"),
    resampling.Upsample: plain("upsample"),
    resampling.Downsample: plain("downsample"),
    residual.ResidualBlock: residual_block,
    residual.Basis: basis,
}


def trace(layers: Iterable[nn.Module], sample: Tensor) -> tuple[Operation, ...]:
    """The operations of layers that follow each other. The last one of a layer has the shape that the layer returns.

    Args:
        layers: in eval mode.
        sample: an input of the first one, with a batch of 1.

    Raises:
        UnsupportedModule: a layer is not in LAYERS.
    """
    found: list[Operation] = []
    for layer in layers:
        if type(layer) not in LAYERS:
            raise UnsupportedModule(f"{type(layer).__module__}.{type(layer).__name__}")
        *before, last = LAYERS[type(layer)](layer, sample)
        sample = layer(sample)
        found += [*before, replace(last, shape=tuple(sample.shape[1:]))]
    return tuple(found)


# Networks


def generator_operations(network: Any) -> tuple[Operation, ...]:
    """LatentsWithClass, then layers in a row. The shape of the last output is that of an image."""
    entry: LatentsWithClass = network.input
    table = {} if entry.embedding is None else {"embedding": entry.embedding.weight}
    first = Operation("input", weights=table, shape=(entry.size,))
    layers = trace(network.layers, torch.zeros(1, entry.size))
    return (first, *layers[:-1], replace(layers[-1], shape=tuple(network.shape)))


def clamped_generator_operations(network: Any) -> tuple[Operation, ...]:
    """The same, with images clamped to [-1, 1], as in eval mode."""
    operations = generator_operations(network)
    return (*operations, Operation("clamp", shape=operations[-1].shape))


def discriminator_operations(network: Any) -> tuple[Operation, ...]:
    """Layers in a row. The last one, which is linear, and the Projection become one operation."""
    projection: Projection = network.projection
    *hidden, last = network.layers
    if type(last) is not nn.Linear:
        raise UnsupportedModule(repr(last))
    table = {} if projection.embedding is None else {"embedding": projection.scale * projection.embedding.weight}
    logit = Operation("logit", weights=parameters(last) | table, shape=(1,))
    return (*trace(hidden, torch.zeros(1, *network.shape)), logit)


# Type of a network -> its operations.
NETWORKS: dict[type[nn.Module], Callable[[nn.Module], tuple[Operation, ...]]] = {
    mlp.Generator: generator_operations,
    conv.Generator: generator_operations,
    residual.Generator: clamped_generator_operations,
    mlp.Discriminator: discriminator_operations,
    conv.Discriminator: discriminator_operations,
    residual.Discriminator: discriminator_operations,
}
