"""Two multi-layer perceptrons, on images as vectors: the pair of the seed preset. No layer mixes samples of a batch."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor, nn

from gan_dist.config import ModelConfig
from gan_dist.data.batch import Labels
from gan_dist.models.architecture import Architecture, ImageShape
from gan_dist.models.labels import LatentsWithClass, Projection, logits_of


class Generator(nn.Module):
    """Latent vectors to images: three linear layers with ReLU between them, then Tanh.

    Args:
        latent_dim: size of a latent vector.
        hidden_dim: units of each of the two hidden layers.
        image_shape: (C, H, W).
        classes: number of classes, or 0.
        label_dim: size of the embedding of a class.
    """

    def __init__(
        self, latent_dim: int, hidden_dim: int, image_shape: ImageShape, classes: int = 0, label_dim: int = 1
    ) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.input = LatentsWithClass(latent_dim, classes, label_dim)
        self.layers = nn.Sequential(
            nn.Linear(self.input.size, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, math.prod(image_shape)),
            nn.Tanh(),
        )

    @classmethod
    def from_config(cls, config: ModelConfig, image_shape: ImageShape, classes: int) -> Generator:
        return cls(config.latent_dim, config.hidden_dim, image_shape, classes, config.label_dim)

    def forward(self, latents: Float[Tensor, "n latent"], labels: Labels | None = None) -> Float[Tensor, "n c h w"]:
        """Returns images in [-1, 1]."""
        return self.layers(self.input(latents, labels)).view(-1, *self.image_shape)


class Discriminator(nn.Module):
    """Images to the logit of the probability that they are real: three hidden layers with LeakyReLU(0.2).

    Losses of logits are exact, and autocast allows them.

    Args:
        hidden_dim: units of each of the three hidden layers.
        image_shape: (C, H, W).
        classes: number of classes, or 0.
    """

    def __init__(self, hidden_dim: int, image_shape: ImageShape, classes: int = 0) -> None:
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
        self.projection = Projection(classes, hidden_dim)

    @classmethod
    def from_config(cls, config: ModelConfig, image_shape: ImageShape, classes: int) -> Discriminator:
        return cls(config.hidden_dim, image_shape, classes)

    def forward(self, images: Float[Tensor, "n c h w"], labels: Labels | None = None) -> Float[Tensor, " n"]:
        """Returns logits; above 0 means real."""
        return logits_of(self.layers, self.projection, images, labels)

    def probability(self, images: Float[Tensor, "n c h w"], labels: Labels | None = None) -> Float[Tensor, " n"]:
        """Returns the probability that each image is real."""
        return self(images, labels).sigmoid()


ARCHITECTURE = Architecture(
    Generator.from_config, Discriminator.from_config, size_fields=("hidden_dim", "latent_dim"), conditional=True
)
