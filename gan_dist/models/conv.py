"""A small convolutional pair for images whose sides are multiples of 4. Nothing mixes the samples of a batch.

Both networks convolve maps of a quarter of the image's sides, on which a pixel stands for a patch of 4 x 4 (sub-pixel
convolution, Shi et al. 2016, arXiv:1609.05158). Few channels at full size are what a processor convolves worst: with
two strided convolutions of the same cost a step takes half as long again, and seconds for seconds nothing is gained.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from gan_dist.config import InputError, ModelConfig

SLOPE = 0.2  # of every LeakyReLU
PATCH = 4  # pixels, of either side


class Generator(nn.Module):
    """Latent vectors to images: two linear layers, then two convolutions, of which the last makes patches.

    Args:
        latent_dim: numbers in a latent vector.
        hidden_dim: units in the hidden linear layer.
        channels: of the feature maps.
        image_shape: (C, H, W) of an image, H and W multiples of 4.

    Raises:
        InputError: images of another size.
    """

    def __init__(self, latent_dim: int, hidden_dim: int, channels: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        image_channels, rows, columns = patches(image_shape)
        self.latent_dim = latent_dim
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
    def from_config(cls, config: ModelConfig, image_shape: tuple[int, int, int]) -> Generator:
        return cls(config.latent_dim, config.hidden_dim, config.channels, image_shape)

    def forward(self, latents: Float[Tensor, "n latent"]) -> Float[Tensor, "n c h w"]:
        """Images in [-1, 1]."""
        return self.layers(latents)


class Discriminator(nn.Module):
    """Images to logits: two convolutions, of which the first sees patches, then two linear layers.

    Args:
        hidden_dim: units in the hidden linear layer.
        channels: of the feature maps.
        image_shape: (C, H, W) of an image, H and W multiples of 4.

    Raises:
        InputError: images of another size.
    """

    def __init__(self, hidden_dim: int, channels: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        image_channels, rows, columns = patches(image_shape)
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
    def from_config(cls, config: ModelConfig, image_shape: tuple[int, int, int]) -> Discriminator:
        return cls(config.hidden_dim, config.channels, image_shape)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        """Logits: above 0 means real."""
        return self.layers(images).squeeze(1)

    def probability(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        """The probability, in [0, 1], that an image is real: 1 real, 0 fake."""
        return self(images).sigmoid()


def patches(image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Channels of an image, and how many patches it is high and wide.

    Raises:
        InputError: a side is no multiple of PATCH.
    """
    channels, height, width = image_shape
    if height % PATCH or width % PATCH:
        raise InputError(
            f"model.architecture=conv wants images whose sides are multiples of {PATCH}, not {height}x{width}; use mlp"
        )
    return channels, height // PATCH, width // PATCH
