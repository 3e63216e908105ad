"""Figures of distances between images: among generated images, and to the nearest training image."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from gan_dist.evaluation.estimates import (
    Estimate,
    Figures,
    bootstrap_indices,
    confidence_interval,
    standard_deviation,
    subset_indices,
)
from gan_dist.evaluation.features import ImageFeatures, Reference

MAX_IMAGES = 1000  # generated images
TRAINING_CHUNK = 10_000  # training images compared at a time, which bounds the memory


def feature_diversity(images: ImageFeatures, reference: Reference) -> Figures:
    """How different the images are: the mean distance of the features of two images. 0 if all images are equal."""
    return {"diversity/features": mean_distance(images.features)}


def mean_distance(features: Float[Tensor, "n 128"]) -> Estimate:
    """The mean distance of two rows of the features, of at most MAX_IMAGES of them."""
    features = features[subset_indices(len(features), MAX_IMAGES, "diversity", features.device)]
    distances = torch.cdist(features, features).sum(1) / (len(features) - 1)
    samples = distances[bootstrap_indices(len(distances), distances.device)].mean(1).tolist()
    # Each image occurs in its own row and once in every other row, which doubles the deviation (Hoeffding 1948).
    return confidence_interval(distances.mean().item(), 2 * standard_deviation(samples))


def nearest_training_distance(images: ImageFeatures, reference: Reference) -> Figures:
    """Median distance to the nearest training image: L2 over the pixels in [0, 1].

    With held-out images also as a ratio: the distance of each image divided by the median distance of held-out images
    of its class, which can't have been memorized. About 1; clearly below, the generator reproduces training images.
    (The distances of the classes differ threefold: without the division a generator of many ones would appear to do
    so.)
    """
    distances, classes = nearest_distances(images, reference)

    def median(values: Float[Tensor, " n"]) -> Estimate:
        values = values.cpu()  # on CUDA, a median of each row has no deterministic kernel, as the exact mode requires
        samples = values[bootstrap_indices(len(values), values.device)].median(1).values.tolist()
        return confidence_interval(values.median().item(), standard_deviation(samples))

    figures = {"nearest/generated": median(distances)}
    if reference.held_out_distances is not None:
        figures["nearest/ratio"] = median(distances / reference.held_out_distances[classes])
    return figures


def nearest_distances(
    images: ImageFeatures, reference: Reference
) -> tuple[Float[Tensor, " selected"], Int64[Tensor, " selected"]]:
    """The distance to the nearest training image and the predicted class, for at most MAX_IMAGES of the images."""
    selected = subset_indices(len(images.pixels), MAX_IMAGES, "nearest", images.features.device)
    vectors = _vectors(images.pixels[selected.to(images.pixels.device)].to(images.features.device))
    smallest = torch.full((len(vectors),), float("inf"), device=vectors.device)
    nearest = torch.zeros(len(vectors), dtype=torch.long, device=vectors.device)
    for start in range(0, len(reference.pixels), TRAINING_CHUNK):
        chunk = _vectors(reference.pixels[start : start + TRAINING_CHUNK].to(vectors.device))
        # The squared distance minus the image's own squared norm: sufficient to find the nearest.
        found = (chunk.square().sum(1) - 2 * vectors @ chunk.T).min(1)
        nearest = torch.where(found.values < smallest, found.indices + start, nearest)
        smallest = torch.minimum(found.values, smallest)
    # Computed from the pixels again: the rounding of the sums above would give a copy a nonzero distance.
    found_pixels = reference.pixels[nearest.to(reference.pixels.device)].to(vectors.device)
    distances = (vectors - _vectors(found_pixels)).norm(dim=1)
    return distances, images.logits[selected].argmax(1)


def _vectors(pixels: Tensor) -> Tensor:
    """uint8 (n, C, H, W) to (n, C·H·W) in [0, 1]."""
    return pixels.flatten(1).float() / 255
