"""Figures of the predicted classes: their shares, and the modes of stacked images."""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor

from gan_dist.evaluation.estimates import (
    Figures,
    bootstrap_indices,
    confidence_interval,
    proportion,
    standard_deviation,
)
from gan_dist.evaluation.features import ImageFeatures, Reference

MAX_SHARES = 100


def class_shares(images: ImageFeatures, reference: Reference) -> Figures:
    """The share of images in each predicted class, and the distance of these shares from equal ones.

    The distance is the total variation, half the sum of absolute differences: 0 if all shares are equal, (classes -
    1)/classes if there is only one class. Empty if the classifier was trained without labels; with more than MAX_SHARES
    classes, only the distance.
    """
    labels = images.logits.argmax(1)
    classes = images.logits.shape[1]
    if classes == 1:  # a classifier without labels
        return {}

    def from_uniform(labels: Tensor) -> float:
        counts = torch.bincount(labels, minlength=classes)
        return (counts / len(labels) - 1 / classes).abs().sum().item() / 2

    shown = range(classes) if classes <= MAX_SHARES else ()
    figures = {f"classes/{label}": proportion(labels == label) for label in shown}
    samples = [from_uniform(labels[indices]) for indices in bootstrap_indices(len(labels), labels.device)]
    distance = confidence_interval(from_uniform(labels), standard_deviation(samples), highest=1.0)
    return figures | {"classes/from_uniform": distance}


def modes(images: ImageFeatures, reference: Reference) -> Figures:
    """Of stacked images, the number of combinations of classes, and the KL divergence of their frequencies from equal
    ones (Stacked MNIST: Srivastava et al. 2017, arXiv:1705.07761; Lin et al. 2018, arXiv:1712.04086).

    Both depend on the number of images; the literature uses about 26,000. Empty if the images are not stacked.
    """
    if images.stack == 1 or images.logits.shape[1] == 1:
        return {}
    return modes_of_labels(images.logits.argmax(1).view(-1, images.stack), images.logits.shape[1])


def modes_of_labels(labels: Int64[Tensor, "n stack"], classes: int) -> Figures:
    """The figures of `modes`, from the class of each image in each stack."""
    stack = labels.shape[1]
    combinations = (labels * classes ** torch.arange(stack, device=labels.device)).sum(1)
    total = classes**stack

    def found_and_divergence(combinations: Tensor) -> tuple[float, float]:
        shares = torch.bincount(combinations, minlength=total).double() / len(combinations)
        divergence = torch.special.xlogy(shares, shares * total).sum()
        return (shares > 0).double().sum().item(), divergence.item()

    found, divergence = found_and_divergence(combinations)
    samples = [
        found_and_divergence(combinations[indices])
        for indices in bootstrap_indices(len(combinations), combinations.device)
    ]
    deviations = [standard_deviation([sample[i] for sample in samples]) for i in (0, 1)]
    return {
        "modes/found": confidence_interval(found, deviations[0], highest=float(total)),
        "modes/divergence": confidence_interval(divergence, deviations[1]),
    }
