"""Figures of a set of images against real ones. A new one is a function and a line in FIGURES.

torchmetrics must not sync_on_compute: every rank has all images already, and computes other figures than the rest.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gan_dist.evaluation.classifier import FEATURES
from gan_dist.evaluation.observed import (
    Estimate,
    Observed,
    Reference,
    choose,
    interval,
    resample,
    share,
)

KERNEL_BLOCKS = 10
KERNEL_BLOCK = 1000  # images in one, at most
MANIFOLD_ROWS = 5000  # images of each side
NEIGHBOURS = 3
DIVERSITY_ROWS = 1000  # generated images
NEAREST_ROWS = 1000  # generated images
NEAREST_CHUNK = 10_000  # training images compared at a time, to bound the memory

Figures = dict[str, Estimate]
Figure = Callable[[Observed, Reference], Figures]


class _Features(nn.Identity):
    """In the place of torchmetrics' Inception: what it is given are features already."""

    num_features = FEATURES


@contextlib.contextmanager
def _torchmetrics() -> Iterator[None]:
    """torchmetrics warns that it keeps what it is given, and shuffles it with the global generator."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", "Metric .* will save all extracted features", UserWarning)
        warnings.filterwarnings("ignore", r"std\(\): degrees of freedom is <= 0", UserWarning)
        torch.default_generator.manual_seed(0)
        yield


def frechet_distance(observed: Observed, reference: Reference) -> Figures:
    """Fréchet distance of the Gaussians with the features' means and covariances (Heusel et al. 2017,
    arXiv:1706.08500), in the features of this package's classifier, not of Inception.

    So it compares with runs of the same classifier id, and with the floor. It falls with the number of images: compare
    sets of one size.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    features = observed.features.double()
    metric = FrechetInceptionDistance(_Features(), reset_real_features=False, sync_on_compute=False).to(features.device)
    metric.update(reference.features.double(), real=True)

    def distance(features: Float[Tensor, "n 128"]) -> float:
        metric.reset()
        metric.update(features, real=False)
        return metric.compute().item()

    resampled = [distance(features[rows.to(features.device)]) for rows in resample(len(features))]
    return {"distance/frechet": interval(distance(features), resampled)}


def kernel_distance(observed: Observed, reference: Reference) -> Figures:
    """Kernel distance: squared MMD with the kernel (x·y/128 + 1)³ (Bińkowski et al. 2018, arXiv:1801.01401).

    The mean over disjoint blocks of both sides, which has no bias, whatever the number of images, and whose interval
    is that of a mean of independent terms (the block test of Zaremba et al. 2013, arXiv:1307.1954). It may be below 0.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    fake, real = observed.features, reference.features
    size = min(KERNEL_BLOCK, len(fake) // KERNEL_BLOCKS, len(real) // KERNEL_BLOCKS)
    blocks = [
        features[choose(len(features), KERNEL_BLOCKS * size, "kernel").to(features.device)].double().split(size)
        for features in (fake, real)
    ]
    distances = []
    with _torchmetrics():
        metric = KernelInceptionDistance(_Features(), subsets=1, subset_size=size, sync_on_compute=False).to(
            fake.device
        )
        for fake_block, real_block in zip(*blocks, strict=True):
            metric.reset()
            metric.update(fake_block, real=False)
            metric.update(real_block, real=True)
            distances.append(metric.compute()[0].item())
    mean = sum(distances) / len(distances)
    draws = resample(KERNEL_BLOCKS, 1000)
    resampled = torch.tensor(distances)[draws].mean(1).tolist()
    return {"distance/kernel": interval(mean, resampled, least=-float("inf"))}


def classifier_score(observed: Observed, reference: Reference) -> Figures:
    """The Inception score of this package's classifier: exp of the mean KL divergence of an image's classes from those
    of all images (Salimans et al. 2016, arXiv:1606.03498), 1 to the number of classes. High: each image is clearly one
    class, and all classes come.
    """
    from torchmetrics.image.inception import InceptionScore

    def score(logits: Float[Tensor, "n classes"]) -> float:
        metric.reset()
        metric.update(logits)
        return metric.compute()[0].item()

    logits = observed.logits.double()  # in single precision a class that no image shows has the log of 0
    with _torchmetrics():
        metric = InceptionScore(nn.Identity(), splits=1, sync_on_compute=False).to(logits.device)
        resampled = [score(logits[rows.to(logits.device)]) for rows in resample(len(logits))]
        return {"score/classifier": interval(score(logits), resampled, 1.0, float(logits.shape[1]))}


def precision_and_recall(observed: Observed, reference: Reference) -> Figures:
    """Share of generated images within the manifold of the real ones, and the reverse (Kynkäänniemi et al. 2019,
    arXiv:1904.06991). A manifold is the balls about its images that reach to the third nearest of their neighbours.

    The intervals are those of the images asked; the manifold, as drawn, is taken for given.
    """
    fake, real = (
        features[choose(len(features), MANIFOLD_ROWS, "manifold").to(features.device)]
        for features in (observed.features, reference.features)
    )
    distances = torch.cdist(fake, real)  # (fake, real)
    return {
        "precision": share(_within(distances, _radii(real))),
        "recall": share(_within(distances.T, _radii(fake))),
    }


def _radii(features: Float[Tensor, "n 128"]) -> Float[Tensor, " n"]:
    """How far it is from each row to its NEIGHBOURS-th nearest other row."""
    distances = torch.cdist(features, features).fill_diagonal_(float("inf"))
    return distances.topk(NEIGHBOURS, largest=False).values[:, -1]


def _within(distances: Float[Tensor, "n m"], radii: Float[Tensor, " m"]) -> Bool[Tensor, " n"]:
    return (distances <= radii).any(1)


def class_shares(observed: Observed, reference: Reference) -> Figures:
    """The share of images that the classifier takes for each class, and the distance of these shares from equal ones.

    The latter is the total variation, half the sum of the differences: 0 all equal, (classes - 1)/classes one class.
    """
    seen = observed.logits.argmax(1)
    classes = observed.logits.shape[1]

    def from_uniform(labels: Tensor) -> float:
        counts = torch.bincount(labels, minlength=classes)
        return (counts / len(labels) - 1 / classes).abs().sum().item() / 2

    figures = {f"classes/{label}": share(seen == label) for label in range(classes)}
    resampled = [from_uniform(seen[rows.to(seen.device)]) for rows in resample(len(seen))]
    return figures | {"classes/from_uniform": interval(from_uniform(seen), resampled, most=1.0)}


def feature_diversity(observed: Observed, reference: Reference) -> Figures:
    """How different the images are from each other: the mean distance of two images' features. 0 if all are one."""
    features = observed.features[
        choose(len(observed.features), DIVERSITY_ROWS, "diversity").to(observed.features.device)
    ]
    # The mean over images of the mean distance to the others; the bootstrap draws images.
    distances = torch.cdist(features, features).sum(1) / (len(features) - 1)
    resampled = distances[resample(len(distances)).to(distances.device)].mean(1).tolist()
    return {"diversity/features": interval(distances.mean().item(), resampled)}


def nearest_training_distance(observed: Observed, reference: Reference) -> Figures:
    """How far images are from the nearest training image: the median L2 distance of the pixels in [0, 1].

    Of held-out images, which nobody can have memorized, the floor has the same: clearly nearer is memorization.
    """
    chosen = choose(len(observed.pixels), NEAREST_ROWS, "nearest").to(observed.pixels.device)
    images = _rows(observed.pixels[chosen])
    best = torch.full((len(images),), float("inf"), device=images.device)
    nearest = torch.zeros(len(images), dtype=torch.long, device=images.device)
    for start in range(0, len(reference.pixels), NEAREST_CHUNK):
        chunk = _rows(reference.pixels[start : start + NEAREST_CHUNK])
        # The squared distance less the image's own square: enough to find the nearest.
        found = (chunk.square().sum(1) - 2 * images @ chunk.T).min(1)
        nearest = torch.where(found.values < best, found.indices + start, nearest)
        best = torch.minimum(found.values, best)
    # From the pixels again: what rounding left of the sums above would keep a copy from being at distance 0.
    distances = (images - _rows(reference.pixels[nearest])).norm(dim=1)
    resampled = distances[resample(len(distances)).to(distances.device)].median(1).values.tolist()
    return {"nearest/generated": interval(distances.median().item(), resampled)}


def _rows(pixels: Tensor) -> Tensor:
    """uint8 (n, C, H, W) to (n, C·H·W) in [0, 1]."""
    return pixels.flatten(1).float() / 255


# In this order, dealt out to two processes in turn, both are busy for about as long.
FIGURES: dict[str, Figure] = {
    "frechet": frechet_distance,
    "kernel": kernel_distance,
    "precision and recall": precision_and_recall,
    "score": classifier_score,
    "classes": class_shares,
    "diversity": feature_diversity,
    "nearest": nearest_training_distance,
}


def compute_figures(observed: Observed, reference: Reference, rank: int = 0, ranks: int = 1) -> Figures:
    """This rank's part of the figures: each is computed by one of the ranks, which all have the same images."""
    figures: Figures = {}
    for figure in list(FIGURES.values())[rank::ranks]:
        figures |= figure(observed, reference)
    return figures
