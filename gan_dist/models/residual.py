"""The residual networks of R3GAN (Huang et al. 2024, arXiv:2501.05441, section 3, config E, and appendix D).

Both networks have a stage of residual blocks for each size of the feature maps, from the image's sides down to a grid
of 4 to 7 pixels per side, and bilinear resampling between the stages. There is no normalization. Initial weights follow
Fixup (Zhang et al. 2019, arXiv:1901.09321): the last convolution of a block is zero, so each block starts as the
identity, and the others are scaled down by the number of blocks to the power of 1/4. Signals therefore keep their size
through any number of blocks.

Differences from the authors' code: pixels outside of the maps count as the border's instead of 0 when maps are
resampled. Labels enter as in the other architectures (`LatentsWithClass`, `Projection`), so D's logit has a part that
is independent of the class, and its last features are not mapped before the product with the embedding.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gan_dist.config import ModelConfig
from gan_dist.data.batch import Labels
from gan_dist.models.architecture import Architecture, ImageShape, Sides
from gan_dist.models.labels import LatentsWithClass, Projection, logits_of
from gan_dist.models.resampling import Downsample, Upsample

SLOPE = 0.2  # of every LeakyReLU
GAIN = math.sqrt(2 / (1 + SLOPE**2))  # which keeps the variance through a LeakyReLU (He et al. 2015, arXiv:1502.01852)
SMALLEST, LARGEST = 4, 7  # sides of the smallest grid


class Stage(NamedTuple):
    """The feature maps of one size."""

    rows: int
    columns: int
    channels: int


class Generator(nn.Module):
    """Latent vectors to images: learned maps of the smallest grid, scaled by a linear function of the latent vector,
    then the stages.

    There is no Tanh (section 3, config B, item e): in training, images may exceed [-1, 1]. In eval mode they are
    clamped.

    Args:
        config: of the networks.
        image_shape: (C, H, W).
        classes: number of classes, or 0.
    """

    def __init__(self, config: ModelConfig, image_shape: ImageShape, classes: int = 0) -> None:
        super().__init__()
        self.input = LatentsWithClass(config.latent_dim, classes, config.label_dim)
        stages = stages_of(config, image_shape)[::-1]
        blocks = partial(residual_blocks, config, len(stages))
        layers = [Basis(self.input.size, stages[0]), *blocks(stages[0])]
        for smaller, stage in pairwise(stages):
            layers += [*changed_channels(smaller, stage), Upsample(), *blocks(stage)]
        self.layers = nn.Sequential(*layers, scaled(nn.Conv2d(stages[-1].channels, image_shape[0], 1, bias=False)))

    def forward(self, latents: Float[Tensor, "n latent"], labels: Labels | None = None) -> Float[Tensor, "n c h w"]:
        """Returns images; in eval mode in [-1, 1]."""
        images = self.layers(self.input(latents, labels))
        return images if self.training else images.clamp(-1, 1)


class Discriminator(nn.Module):
    """Images to logits: the stages, then a convolution of the smallest grid to one pixel for each channel, and a linear
    layer.

    Args:
        config: of the networks.
        image_shape: (C, H, W).
        classes: number of classes, or 0.
    """

    def __init__(self, config: ModelConfig, image_shape: ImageShape, classes: int = 0) -> None:
        super().__init__()
        stages = stages_of(config, image_shape)
        blocks = partial(residual_blocks, config, len(stages))
        layers = [scaled(nn.Conv2d(image_shape[0], stages[0].channels, 1, bias=False)), *blocks(stages[0])]
        for stage, smaller in pairwise(stages):
            layers += [Downsample(), *changed_channels(stage, smaller), *blocks(smaller)]
        rows, columns, channels = stages[-1]
        self.layers = nn.Sequential(
            *layers,
            scaled(nn.Conv2d(channels, channels, (rows, columns), groups=channels, bias=False)),
            nn.Flatten(),
            scaled(nn.Linear(channels, 1, bias=False)),
        )
        self.projection = Projection(classes, channels)

    def forward(self, images: Float[Tensor, "n c h w"], labels: Labels | None = None) -> Float[Tensor, " n"]:
        """Returns logits; above 0 means real."""
        return logits_of(self.layers, self.projection, images, labels)


class Basis(nn.Module):
    """The generator's first maps: learned ones, each of which is multiplied by a linear function of the input.

    Args:
        size: of an input.
        stage: of the maps.
    """

    def __init__(self, size: int, stage: Stage) -> None:
        super().__init__()
        self.maps = nn.Parameter(torch.randn(stage.channels, stage.rows, stage.columns))
        self.factors = scaled(nn.Linear(size, stage.channels, bias=False))

    def forward(self, inputs: Float[Tensor, "n size"]) -> Float[Tensor, "n c rows columns"]:
        return self.factors(inputs)[:, :, None, None] * self.maps


class ResidualBlock(nn.Module):
    """Adds to the maps: a convolution of 1 x 1 to more channels, a grouped one of 3 x 3, and one of 1 x 1 back.

    Args:
        channels: of the maps.
        expansion: ratio of the channels inside to those of the maps.
        group_size: as in ModelConfig.
        depth: number of residual blocks of the network.
    """

    def __init__(self, channels: int, expansion: int, group_size: int, depth: int) -> None:
        super().__init__()
        inside = channels * expansion
        groups = count_groups(inside, group_size)
        # Three layers, and a sum of `depth` branches: L^(-1 / (2 * 3 - 2)) (arXiv:1901.09321, section 3).
        gain = GAIN * depth**-0.25
        self.branch = nn.Sequential(
            scaled(nn.Conv2d(channels, inside, 1), gain),
            nn.LeakyReLU(SLOPE),
            scaled(nn.Conv2d(inside, inside, 3, padding=1, groups=groups), gain),
            nn.LeakyReLU(SLOPE),
            scaled(nn.Conv2d(inside, channels, 1, bias=False), 0.0),
        )

    def forward(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return maps + self.branch(maps)


def residual_blocks(config: ModelConfig, stages: int, stage: Stage) -> list[nn.Module]:
    """The residual blocks of one stage of a network of `stages` stages."""
    block = partial(ResidualBlock, stage.channels, config.expansion, config.group_size, config.blocks * stages)
    return [block() for _ in range(config.blocks)]


def changed_channels(before: Stage, after: Stage) -> list[nn.Module]:
    """The layer between two stages that changes the number of channels, if they differ."""
    if before.channels == after.channels:
        return []
    return [scaled(nn.Conv2d(before.channels, after.channels, 1, bias=False))]


def scaled(layer: nn.Linear | nn.Conv2d, gain: float = 1.0) -> nn.Module:
    """Draw a layer's weights with a standard deviation of gain / sqrt(inputs of an output), and set biases to 0."""
    nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def stages_of(config: ModelConfig, image_shape: ImageShape) -> list[Stage]:
    """The stages, from the largest: both sides are halved as long as they are even and the halves are not too small.

    The channels double at each halving, up to `config.max_channels`.
    """
    _, rows, columns = image_shape
    halvings = min(count_halvings(rows), count_halvings(columns))
    widths = [min(config.channels * 2**number, config.max_channels) for number in range(halvings + 1)]
    return [Stage(rows >> number, columns >> number, width) for number, width in enumerate(widths)]


def count_halvings(side: int) -> int:
    """How often a side can be halved without a remainder until it has fewer than 2 * SMALLEST pixels."""
    if side % 2 or side < 2 * SMALLEST:
        return 0
    return 1 + count_halvings(side // 2)


def count_groups(channels: int, group_size: int) -> int:
    """The largest number of equal groups with at least `group_size` channels each; 1 if there are fewer channels."""
    return next((channels // size for size in range(group_size, channels) if channels % size == 0), 1)


def is_supported(side: int) -> bool:
    """Whether a side is SMALLEST to LARGEST pixels times a power of two."""
    return SMALLEST <= side >> count_halvings(side) <= LARGEST


ARCHITECTURE = Architecture(
    Generator,
    Discriminator,
    size_fields=("latent_dim", "channels", "max_channels", "blocks", "expansion", "group_size"),
    sides=Sides("4, 5, 6 or 7 times a power of two", is_supported),
    conditional=True,
    own_initialization=True,
)
