"""How class labels enter the networks. Without classes these modules have no weights and ignore the labels."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gan_dist.data.batch import Labels


class LatentsWithClass(nn.Module):
    """The input of a generator: a latent vector, followed by an embedding of the class.

    Args:
        latent_dim: size of a latent vector.
        classes: number of classes; 0: the latent vector alone.
        label_dim: size of an embedding. Its initial numbers are standard normal, as those of a latent vector.
    """

    def __init__(self, latent_dim: int, classes: int, label_dim: int) -> None:
        super().__init__()
        self.size = latent_dim + (label_dim if classes else 0)
        """Size of an output."""
        self.embedding = nn.Embedding(classes, label_dim) if classes else None

    def forward(self, latents: Float[Tensor, "n latent"], labels: Labels | None) -> Float[Tensor, "n size"]:
        if self.embedding is None:
            return latents
        return torch.cat([latents, self.embedding(required(labels))], 1)


class Projection(nn.Module):
    """The part of D's logit that depends on the class: the inner product of the last features with an embedding of the
    class (Miyato and Koyama 2018, arXiv:1802.05637, equation 4), divided by the square root of the number of features.

    The weights of the embedding are of size 1, and the division is done in each forward pass. Adam changes each weight
    by about the learning rate in a step, so smaller initial weights without the division would change much faster in
    relation to their size (equalized learning rate, Karras et al. 2018, arXiv:1710.10196, section 4.1).

    Args:
        classes: number of classes; 0: no such part.
        features: number of D's last features.
    """

    def __init__(self, classes: int, features: int) -> None:
        super().__init__()
        self.scale = features**-0.5
        self.embedding = nn.Embedding(classes, features) if classes else None

    def forward(
        self, logits: Float[Tensor, " n"], features: Float[Tensor, "n features"], labels: Labels | None
    ) -> Float[Tensor, " n"]:
        """Returns the logits with this part added."""
        if self.embedding is None:
            return logits
        return logits + self.scale * (self.embedding(required(labels)) * features).sum(1)


def logits_of(
    layers: nn.Sequential, projection: Projection, images: Float[Tensor, "n c h w"], labels: Labels | None
) -> Float[Tensor, " n"]:
    """The logits of a discriminator.

    Args:
        layers: of the discriminator. The last one maps the last features to one number.
        projection: of its classes.
        images: in [-1, 1].
        labels: of the images; not used without classes.
    """
    *hidden, last = layers
    features = images
    for layer in hidden:
        features = layer(features)
    return projection(last(features).squeeze(1), features, labels)


def required(labels: Labels | None) -> Labels:
    """The labels of a network that needs them.

    Raises:
        ValueError: they are missing.
    """
    if labels is None:
        raise ValueError("this network is conditional: pass labels, (n,) of int64, one class for each row")
    return labels
