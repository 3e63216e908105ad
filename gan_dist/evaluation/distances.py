"""Figures computed by torchmetrics from features and logits: Fréchet and kernel distance, classifier score.

The metrics need sync_on_compute=False: every rank already has all images and computes other figures than the rest.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gan_dist.evaluation.classifier import FEATURES
from gan_dist.evaluation.estimates import (
    Estimate,
    Figures,
    bootstrap_indices,
    confidence_interval,
    standard_deviation,
    subset_indices,
)
from gan_dist.evaluation.features import ImageFeatures, Reference

KERNEL_BLOCKS = 10
MAX_BLOCK_SIZE = 1000  # images per block


class _Features(nn.Identity):
    """Replaces torchmetrics' Inception network: the inputs are features already."""

    num_features = FEATURES


@contextlib.contextmanager
def _torchmetrics() -> Iterator[None]:
    """Silence the warning that torchmetrics stores its inputs; isolate the global generator, which shuffles them."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", "Metric .* will save all extracted features", UserWarning)
        warnings.filterwarnings("ignore", r"std\(\): degrees of freedom is <= 0", UserWarning)
        torch.default_generator.manual_seed(0)
        yield


def frechet_distance(images: ImageFeatures, reference: Reference) -> Figures:
    """Fréchet distance of the Gaussians with the features' means and covariances (Heusel et al. 2017,
    arXiv:1706.08500), computed from the features of this package's classifier instead of Inception's.

    Comparable only for one classifier id and one number of images: it decreases with the number of images.
    """
    return {"distance/frechet": frechet_between(images.features, reference.features)}


def frechet_between(features: Float[Tensor, "n 128"], real: Float[Tensor, "m 128"]) -> Estimate:
    """The Fréchet distance of two sets of features. Each has two rows or more."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    features = features.double()
    metric = FrechetInceptionDistance(_Features(), reset_real_features=False, sync_on_compute=False).to(features.device)
    metric.update(real.double(), real=True)

    def distance(features: Float[Tensor, "n 128"]) -> float:
        metric.reset()
        metric.update(features, real=False)
        return metric.compute().item()

    samples = [distance(features[indices]) for indices in bootstrap_indices(len(features), features.device)]
    return confidence_interval(distance(features), standard_deviation(samples))


def kernel_distance(images: ImageFeatures, reference: Reference) -> Figures:
    """Kernel distance: squared MMD with the kernel (x·y/128 + 1)³ (Bińkowski et al. 2018, arXiv:1801.01401).

    The mean over disjoint blocks of both sets (Zaremba et al. 2013, arXiv:1307.1954), which is unbiased for any number
    of images and can therefore be negative. The interval is that of a mean over the generated blocks, each compared
    with the same real block, so that it only contains the variation of the generated ones.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    fake, real = images.features, reference.features
    size = min(MAX_BLOCK_SIZE, len(fake) // KERNEL_BLOCKS, len(real) // KERNEL_BLOCKS)
    fakes, reals = (
        features[subset_indices(len(features), KERNEL_BLOCKS * size, "kernel", features.device)].double().split(size)
        for features in (fake, real)
    )
    with _torchmetrics():
        metric = KernelInceptionDistance(_Features(), subsets=1, subset_size=size, sync_on_compute=False)
        metric = metric.to(fake.device)

        def distance(fake_block: Float[Tensor, "n 128"], real_block: Float[Tensor, "n 128"]) -> float:
            metric.reset()
            metric.update(fake_block, real=False)
            metric.update(real_block, real=True)
            return metric.compute()[0].item()

        mean = sum(map(distance, fakes, reals)) / KERNEL_BLOCKS
        from_one_block = [distance(block, reals[0]) for block in fakes]
    deviation = standard_deviation(from_one_block) / KERNEL_BLOCKS**0.5
    return {"distance/kernel": confidence_interval(mean, deviation, lowest=-float("inf"))}


def classifier_score(images: ImageFeatures, reference: Reference) -> Figures:
    """The Inception score with this package's classifier: exp of the mean KL divergence between the class probabilities
    of an image and those of all images (Salimans et al. 2016, arXiv:1606.03498), from 1 to the number of classes.

    High: each image clearly shows one class, and all classes occur. Empty if the classifier was trained without labels.
    """
    if images.logits.shape[1] == 1:
        return {}
    from torchmetrics.image.inception import InceptionScore

    def score(logits: Float[Tensor, "n classes"]) -> float:
        metric.reset()
        metric.update(logits)
        return metric.compute()[0].item()

    logits = images.logits.double()  # in single precision a missing class gives log 0
    with _torchmetrics():
        metric = InceptionScore(nn.Identity(), splits=1, sync_on_compute=False).to(logits.device)
        deviation = standard_deviation(
            [score(logits[indices]) for indices in bootstrap_indices(len(logits), logits.device)]
        )
        return {"score/classifier": confidence_interval(score(logits), deviation, 1.0, float(logits.shape[1]))}
