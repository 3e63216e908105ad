"""Two multi-layer perceptrons, on images as vectors: the pair of the seed preset. No layer mixes samples of a batch."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor, nn

from gan_dist.config import ModelConfig
from gan_dist.models.architecture import Architecture, ImageShape


class Generator(nn.Module):
    """Latent vectors to images: three linear layers with ReLU between them, then Tanh.

    Args:
        latent_dim: size of a latent vector.
        hidden_dim: units of each of the two hidden layers.
        image_shape: (C, H, W).
    """

    def __init__(self, latent_dim: int, hidden_dim: int, image_shape: ImageShape) -> None:
        super().__init__()
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
    def from_config(cls, config: ModelConfig, image_shape: ImageShape) -> Generator:
        return cls(config.latent_dim, config.hidden_dim, image_shape)

    def forward(self, latents: Float[Tensor, "n latent"]) -> Float[Tensor, "n c h w"]:
        """Returns images in [-1, 1]."""
        return self.layers(latents).view(-1, *self.image_shape)


class Discriminator(nn.Module):
    """Images to the logit of the probability that they are real: three hidden layers with LeakyReLU(0.2).

    Losses of logits are exact, and autocast allows them.

    Args:
        hidden_dim: units of each of the three hidden layers.
        image_shape: (C, H, W).
    """

    def __init__(self, hidden_dim: int, image_shape: ImageShape) -> None:
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
    def from_config(cls, config: ModelConfig, image_shape: ImageShape) -> Discriminator:
        return cls(config.hidden_dim, image_shape)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        """Returns logits; above 0 means real."""
        return self.layers(images).squeeze(1)

    def probability(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        """Returns the probability that each image is real."""
        return self(images).sigmoid()


ARCHITECTURE = Architecture(Generator.from_config, Discriminator.from_config, size_fields=("hidden_dim", "latent_dim"))
