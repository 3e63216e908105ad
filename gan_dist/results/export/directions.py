"""The latent directions that change the images of a generator most."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from gan_dist.seeding import sample_latents

SEED = 0
PASSES = 16_384  # images in all: a second for a small network
FEWEST, MOST = 2, 128  # latents
CHUNK = 64
EPSILON = 0.05  # standard deviations of a latent


@dataclass(frozen=True)
class Directions:
    """Orthonormal directions in the space of latents."""

    vectors: Float[Tensor, "directions latent"]
    """From the strongest to the weakest."""
    shares: Float[Tensor, " directions"]
    """The part of the mean squared change of an image, over all directions, that each one causes."""


def principal_directions(
    generator: nn.Module, count: int, labels: Int64[Tensor, " n"] | None, latents: int = MOST
) -> Directions:
    """The eigenvectors of the mean of J^T J over random latents, with J the Jacobian of the image by the latent.

    For small steps e, |G(z + e) - G(z)|^2 is e^T J^T J e, so these directions change the pixels most. They are those of
    Wang and Ponce 2021 (arXiv:2101.06006, section 2), with the squared distance of pixels, averaged over latents; J is
    approximated by central differences.

    Args:
        generator: from `load_generator`.
        count: number of directions; fewer if a latent has fewer dimensions.
        labels: of `latents` images of a conditional generator.
        latents: number of random latents.
    """
    base = sample_latents(latents, generator.latent_dim, SEED, "directions")  # type: ignore[arg-type]
    steps = EPSILON * torch.eye(base.shape[1])
    metric = torch.zeros(base.shape[1], base.shape[1], dtype=torch.float64)
    with torch.no_grad():
        for index, latent in enumerate(base):
            asked = None if labels is None else labels[index].expand(CHUNK)
            columns = [
                (_images(generator, latent + step, asked) - _images(generator, latent - step, asked)) / (2 * EPSILON)
                for step in steps.split(CHUNK)
            ]
            jacobian = torch.cat(columns).flatten(1)  # (latent, pixels)
            metric += (jacobian @ jacobian.T).double()
    values, vectors = torch.linalg.eigh(metric)
    strongest = vectors.T.flip(0)[:count]
    # An eigenvector's sign is arbitrary: its largest number is positive.
    largest = strongest.gather(1, strongest.abs().argmax(1, keepdim=True))
    shares = values.flip(0).clamp(min=0)
    return Directions((strongest * largest.sign()).float(), (shares / shares.sum())[:count].float())


def affordable_latents(latent_dim: int, multiplications: int) -> int:
    """The number of latents for `principal_directions` that takes seconds, not minutes.

    Args:
        latent_dim: size of a latent.
        multiplications: for one image.
    """
    passes = min(PASSES, 3e10 / multiplications)
    return int(max(FEWEST, min(MOST, passes / (2 * latent_dim))))


def _images(generator: nn.Module, latents: Tensor, labels: Tensor | None) -> Tensor:
    return generator(latents, None if labels is None else labels[: len(latents)])
