"""Convolutional networks for images whose sides are multiples of 4. No layer mixes samples of a batch.

Both networks convolve feature maps with a quarter of the image's sides, where a pixel stands for a patch of 4 x 4
(sub-pixel convolution, Shi et al. 2016, arXiv:1609.05158). CPUs are slowest at convolutions with few channels at full
size: two strided convolutions of the same cost take 1.5 times as long per step and do not give better images in the
same time.

Larger images add stages: the grid of patches is halved until it has at most 8 patches per side, each time with one
convolution of 3 x 3. The channels double at every second halving, the first included. Each stage therefore has half the
operations of the previous one, and the cost of an image is proportional to its number of pixels.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from gan_dist.config import ModelConfig
from gan_dist.data.batch import Labels
from gan_dist.models.architecture import Architecture, ImageShape, multiples_of
from gan_dist.models.labels import LatentsWithClass, Projection, logits_of

SLOPE = 0.2  # of every LeakyReLU
PATCH = 4  # pixels per side
SMALLEST = 8  # patches per side; a larger grid is halved

Grid = tuple[int, int]
"""Rows and columns of patches."""


class Generator(nn.Module):
    """Latent vectors to images: two linear layers, the stages, then two convolutions, the last of which makes patches.

    Args:
        latent_dim: size of a latent vector.
        hidden_dim: units of the hidden linear layer.
        channels: of the feature maps with a quarter of the image's sides.
        image_shape: (C, H, W); H and W are multiples of 4.
        classes: number of classes, or 0.
        label_dim: size of the embedding of a class.
    """

    def __init__(
        self,
        latent_dim: int,
        hidden_dim: int,
        channels: int,
        image_shape: ImageShape,
        classes: int = 0,
        label_dim: int = 1,
    ) -> None:
        super().__init__()
        self.input = LatentsWithClass(latent_dim, classes, label_dim)
        image_channels, grids = image_shape[0], halved_grids(image_shape)
        widths = [stage_channels(channels, stage) for stage in range(len(grids))]
        rows, columns = grids[-1]
        stages: list[nn.Module] = []
        for stage in range(len(grids) - 1, 0, -1):  # from the smallest grid
            stages += [
                nn.Conv2d(widths[stage], widths[stage - 1], 3, padding=1),
                nn.LeakyReLU(SLOPE),
                Enlarge(grids[stage - 1]),
            ]
        self.layers = nn.Sequential(
            nn.Linear(self.input.size, hidden_dim),
            nn.LeakyReLU(SLOPE),
            nn.Linear(hidden_dim, widths[-1] * rows * columns),
            nn.LeakyReLU(SLOPE),
            nn.Unflatten(1, (widths[-1], rows, columns)),
            *stages,
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(channels, image_channels * PATCH**2, 3, padding=1),
            nn.PixelShuffle(PATCH),
            nn.Tanh(),
        )

    @classmethod
    def from_config(cls, config: ModelConfig, image_shape: ImageShape, classes: int) -> Generator:
        return cls(config.latent_dim, config.hidden_dim, config.channels, image_shape, classes, config.label_dim)

    def forward(self, latents: Float[Tensor, "n latent"], labels: Labels | None = None) -> Float[Tensor, "n c h w"]:
        """Returns images in [-1, 1]."""
        return self.layers(self.input(latents, labels))


class Discriminator(nn.Module):
    """Images to logits: two convolutions, the first of which takes patches, the stages, then two linear layers.

    Args:
        hidden_dim: units of the hidden linear layer.
        channels: of the feature maps with a quarter of the image's sides.
        image_shape: (C, H, W); H and W are multiples of 4.
        classes: number of classes, or 0.
    """

    def __init__(self, hidden_dim: int, channels: int, image_shape: ImageShape, classes: int = 0) -> None:
        super().__init__()
        image_channels, grids = image_shape[0], halved_grids(image_shape)
        widths = [stage_channels(channels, stage) for stage in range(len(grids))]
        rows, columns = grids[-1]
        stages: list[nn.Module] = []
        for stage in range(1, len(grids)):  # to the smallest grid
            stages += [
                nn.AvgPool2d(2, ceil_mode=True),
                nn.Conv2d(widths[stage - 1], widths[stage], 3, padding=1),
                nn.LeakyReLU(SLOPE),
            ]
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(PATCH),
            nn.Conv2d(image_channels * PATCH**2, channels, 3, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.LeakyReLU(SLOPE),
            *stages,
            nn.Flatten(),
            nn.Linear(widths[-1] * rows * columns, hidden_dim),
            nn.LeakyReLU(SLOPE),
            nn.Linear(hidden_dim, 1),
        )
        self.projection = Projection(classes, hidden_dim)

    @classmethod
    def from_config(cls, config: ModelConfig, image_shape: ImageShape, classes: int) -> Discriminator:
        return cls(config.hidden_dim, config.channels, image_shape, classes)

    def forward(self, images: Float[Tensor, "n c h w"], labels: Labels | None = None) -> Float[Tensor, " n"]:
        """Returns logits; above 0 means real."""
        return logits_of(self.layers, self.projection, images, labels)


class Enlarge(nn.Module):
    """Doubles the sides of feature maps by repeating each pixel, and crops them to a grid.

    Args:
        grid: rows and columns of the result: twice those of the input, or one less.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c rows columns"]:
        rows, columns = self.grid
        return functional.interpolate(maps, scale_factor=2.0, mode="nearest")[:, :, :rows, :columns]

    def extra_repr(self) -> str:
        return f"{self.grid[0]} x {self.grid[1]}"


def halved_grids(image_shape: ImageShape) -> list[Grid]:
    """The grids of the feature maps, from the largest: patches of the image, then halves, rounded up."""
    _, height, width = image_shape
    assert height % PATCH == width % PATCH == 0
    grids = [(height // PATCH, width // PATCH)]
    while max(grids[-1]) > SMALLEST:
        rows, columns = grids[-1]
        grids.append((-(-rows // 2), -(-columns // 2)))
    return grids


def stage_channels(channels: int, stage: int) -> int:
    """Channels of the feature maps after `stage` halvings: they double at the first, third, fifth … one."""
    return channels * 2 ** ((stage + 1) // 2)


ARCHITECTURE = Architecture(
    Generator.from_config,
    Discriminator.from_config,
    size_fields=("hidden_dim", "latent_dim", "channels"),
    sides=multiples_of(PATCH),
    conditional=True,
)
