"""Two small convolutional networks for images whose sides are multiples of 4. No layer mixes samples of a batch.

Both networks convolve feature maps with a quarter of the image's sides, where a pixel stands for a patch of 4 x 4
(sub-pixel convolution, Shi et al. 2016, arXiv:1609.05158). CPUs are slowest at convolutions with few channels at full
size: two strided convolutions of the same cost take 1.5 times as long per step and do not give better images in the
same time.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from gan_dist.config import ModelConfig
from gan_dist.models.architecture import Architecture, ImageShape

SLOPE = 0.2  # of every LeakyReLU
PATCH = 4  # pixels per side


class Generator(nn.Module):
    """Latent vectors to images: two linear layers, then two convolutions, the last of which outputs patches.

    Args:
        latent_dim: size of a latent vector.
        hidden_dim: units of the hidden linear layer.
        channels: of the feature maps.
        image_shape: (C, H, W); H and W are multiples of 4.
    """

    def __init__(self, latent_dim: int, hidden_dim: int, channels: int, image_shape: ImageShape) -> None:
        super().__init__()
        image_channels, rows, columns = count_patches(image_shape)
        self.layers = nn.Sequential(
            nn.Linear(latent_dim, hidden_dim),
            nn.LeakyReLU(SLOPE),
            nn.Linear(hidden_dim, channels * rows * columns),
            nn.LeakyReLU(SLOPE),
            nn.Unflatten(1, (channels, rows, columns)),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(channels, image_channels * PATCH**2, 3, padding=1),
            nn.PixelShuffle(PATCH),
            nn.Tanh(),
        )

    @classmethod
    def from_config(cls, config: ModelConfig, image_shape: ImageShape) -> Generator:
        return cls(config.latent_dim, config.hidden_dim, config.channels, image_shape)

    def forward(self, latents: Float[Tensor, "n latent"]) -> Float[Tensor, "n c h w"]:
        """Returns images in [-1, 1]."""
        return self.layers(latents)


class Discriminator(nn.Module):
    """Images to logits: two convolutions, the first of which takes patches, then two linear layers.

    Args:
        hidden_dim: units of the hidden linear layer.
        channels: of the feature maps.
        image_shape: (C, H, W); H and W are multiples of 4.
    """

    def __init__(self, hidden_dim: int, channels: int, image_shape: ImageShape) -> None:
        super().__init__()
        image_channels, rows, columns = count_patches(image_shape)
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(PATCH),
            nn.Conv2d(image_channels * PATCH**2, channels, 3, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Flatten(),
            nn.Linear(channels * rows * columns, hidden_dim),
            nn.LeakyReLU(SLOPE),
            nn.Linear(hidden_dim, 1),
        )

    @classmethod
    def from_config(cls, config: ModelConfig, image_shape: ImageShape) -> Discriminator:
        return cls(config.hidden_dim, config.channels, image_shape)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        """Returns logits; above 0 means real."""
        return self.layers(images).squeeze(1)


def count_patches(image_shape: ImageShape) -> tuple[int, int, int]:
    """Returns the channels of an image and its height and width in patches."""
    channels, height, width = image_shape
    assert height % PATCH == width % PATCH == 0
    return channels, height // PATCH, width // PATCH


ARCHITECTURE = Architecture(
    Generator.from_config,
    Discriminator.from_config,
    size_fields=("hidden_dim", "latent_dim", "channels"),
    side_multiple=PATCH,
)
