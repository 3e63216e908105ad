"""Figures of a conditional generator: whether it obeys the classes that are asked for, and how good each class is."""

from __future__ import annotations

from gan_dist.evaluation.classes import MAX_SHARES
from gan_dist.evaluation.distances import frechet_between
from gan_dist.evaluation.estimates import Estimate, Figures, mean_of, proportion
from gan_dist.evaluation.features import ImageFeatures, Reference
from gan_dist.evaluation.nearest import mean_distance

PREFIXES = ("asked/", "within/")  # of the names of these figures
MIN_OF_CLASS = 20  # images, generated and real; a distance of fewer is meaningless


def asked_and_obtained(images: ImageFeatures, reference: Reference) -> Figures:
    """The share of images that the classifier takes for the class that was asked for: of all, and within each class.

    Of real images it is the classifier's accuracy, above which a generator gains nothing. Empty if no classes were
    asked for; with more than MAX_SHARES classes, only the share of all.
    """
    classes = images.logits.shape[1]
    if images.labels is None or classes == 1:  # a classifier without labels
        return {}
    right = images.logits.argmax(1) == images.labels
    shown = range(classes) if classes <= MAX_SHARES else ()
    of_classes = {label: right[images.labels == label] for label in shown}
    figures = {f"asked/{label}": proportion(found) for label, found in of_classes.items() if len(found)}
    return {"asked/obtained": proportion(right), **figures}


def within_class_diversities(images: ImageFeatures, reference: Reference) -> Figures:
    """The mean distance of the features of two images of the same class. 0 if all its images are equal.

    Classes with fewer than MIN_OF_CLASS images are left out. Empty if no classes were asked for, or more than
    MAX_SHARES.
    """
    if images.labels is None or images.logits.shape[1] > MAX_SHARES:
        return {}
    classes = {label: images.features[images.labels == label] for label in images.labels.unique().tolist()}
    return {
        f"within/{label}/diversity": mean_distance(features)
        for label, features in classes.items()
        if len(features) >= MIN_OF_CLASS
    }


def within_class_distances(images: ImageFeatures, reference: Reference) -> Figures:
    """The Fréchet distance between the generated and the real images of each class, and its mean over the classes.

    It is sensitive to a class that has collapsed by itself, which the distance of all images hardly shows. Comparable
    only for one classifier and one number of images. Classes with fewer than MIN_OF_CLASS images are left out. Empty if
    no classes were asked for; with more than MAX_SHARES classes, only the mean.
    """
    if images.labels is None or reference.labels is None:
        return {}
    found: dict[int, Estimate] = {}
    for label in reference.labels.unique().tolist():
        generated, real = images.features[images.labels == label], reference.features[reference.labels == label]
        if min(len(generated), len(real)) >= MIN_OF_CLASS:
            found[label] = frechet_between(generated, real)
    if not found:
        return {}
    figures = {"within/frechet": mean_of([*found.values()])}
    if len(found) <= MAX_SHARES:
        figures |= {f"within/{label}": estimate for label, estimate in found.items()}
    return figures
