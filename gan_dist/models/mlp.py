"""The seed's pair: two plain multi-layer perceptrons over images as vectors. Nothing mixes the samples of a batch."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor, nn

from gan_dist.config import ModelConfig


class Generator(nn.Module):
    """Latent vectors to images: three linear layers, ReLU between them, Tanh at the end.

    Args:
        latent_dim: numbers in a latent vector.
        hidden_dim: units in each of the two hidden layers.
        image_shape: (C, H, W) of an image.
    """

    def __init__(self, latent_dim: int, hidden_dim: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.image_shape = image_shape
        self.layers = nn.Sequential(
            nn.Linear(latent_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, math.prod(image_shape)),
            nn.Tanh(),
        )

    @classmethod
    def from_config(cls, config: ModelConfig, image_shape: tuple[int, int, int]) -> Generator:
        return cls(config.latent_dim, config.hidden_dim, image_shape)

    def forward(self, latents: Float[Tensor, "n latent"]) -> Float[Tensor, "n c h w"]:
        """Images in [-1, 1]."""
        return self.layers(latents).view(-1, *self.image_shape)


class Discriminator(nn.Module):
    """Images to the logit of the probability that they are real: three hidden layers with LeakyReLU(0.2).

    The logit, not the probability, leaves the network: the loss is exact and autocast allows it.

    Args:
        hidden_dim: units in each of the three hidden layers.
        image_shape: (C, H, W) of an image.
    """

    def __init__(self, hidden_dim: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),  # (n, C*H*W)
            nn.Linear(math.prod(image_shape), hidden_dim),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden_dim, hidden_dim),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden_dim, hidden_dim),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden_dim, 1),
        )

    @classmethod
    def from_config(cls, config: ModelConfig, image_shape: tuple[int, int, int]) -> Discriminator:
        return cls(config.hidden_dim, image_shape)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        """Logits: above 0 means real."""
        return self.layers(images).squeeze(1)

    def probability(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        """The probability, in [0, 1], that an image is real: 1 real, 0 fake."""
        return self(images).sigmoid()
