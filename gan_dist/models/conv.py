"""A small convolutional pair for images whose sides are multiples of 4. Nothing mixes the samples of a batch."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from gan_dist.config import InputError, ModelConfig

SLOPE = 0.2  # of every LeakyReLU


class Generator(nn.Module):
    """Latent vectors to images: two linear layers, then two transposed convolutions that double the size each.

    Their kernels of 4 with stride 2 overlap evenly, which keeps checkerboards away (Odena et al. 2016,
    doi:10.23915/distill.00003).

    Args:
        latent_dim: numbers in a latent vector.
        hidden_dim: units in the hidden linear layer.
        channels: of the larger feature map; the smaller one has twice as many.
        image_shape: (C, H, W) of an image, H and W multiples of 4.

    Raises:
        InputError: images of another size.
    """

    def __init__(self, latent_dim: int, hidden_dim: int, channels: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        image_channels, height, width = check_size(image_shape)
        self.latent_dim = latent_dim
        self.layers = nn.Sequential(
            nn.Linear(latent_dim, hidden_dim),
            nn.LeakyReLU(SLOPE),
            nn.Linear(hidden_dim, 2 * channels * height // 4 * width // 4),
            nn.LeakyReLU(SLOPE),
            nn.Unflatten(1, (2 * channels, height // 4, width // 4)),  # (n, 2 c, H/4, W/4)
            nn.ConvTranspose2d(2 * channels, channels, 4, stride=2, padding=1),  # (n, c, H/2, W/2)
            nn.LeakyReLU(SLOPE),
            nn.ConvTranspose2d(channels, image_channels, 4, stride=2, padding=1),
            nn.Tanh(),
        )

    @classmethod
    def from_config(cls, config: ModelConfig, image_shape: tuple[int, int, int]) -> Generator:
        return cls(config.latent_dim, config.hidden_dim, config.channels, image_shape)

    def forward(self, latents: Float[Tensor, "n latent"]) -> Float[Tensor, "n c h w"]:
        """Images in [-1, 1]."""
        return self.layers(latents)


class Discriminator(nn.Module):
    """Images to logits: two convolutions that halve the size each, then two linear layers.

    Args:
        hidden_dim: units in the hidden linear layer.
        channels: of the first convolution; the second has twice as many.
        image_shape: (C, H, W) of an image, H and W multiples of 4.

    Raises:
        InputError: images of another size.
    """

    def __init__(self, hidden_dim: int, channels: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        image_channels, height, width = check_size(image_shape)
        self.layers = nn.Sequential(
            nn.Conv2d(image_channels, channels, 4, stride=2, padding=1),  # (n, c, H/2, W/2)
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1),  # (n, 2 c, H/4, W/4)
            nn.LeakyReLU(SLOPE),
            nn.Flatten(),
            nn.Linear(2 * channels * height // 4 * width // 4, hidden_dim),
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


def check_size(image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """The shape itself.

    Raises:
        InputError: a side is no multiple of 4.
    """
    _, height, width = image_shape
    if height % 4 or width % 4:
        raise InputError(
            f"model.architecture=conv wants images whose sides are multiples of 4, not {height}x{width}; use mlp"
        )
    return image_shape
