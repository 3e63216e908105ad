"""The Classification Accuracy Score: whether generated images can replace real ones in training a classifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from jaxtyping import Int64, UInt8
from torch import Tensor

from gan_dist.data.images import ImageSet
from gan_dist.evaluation.classifier_training import train_classifier
from gan_dist.evaluation.estimates import Estimate, share_of

MAX_TRAINED = 60_000  # generated images


def classification_accuracy_score(
    pixels: UInt8[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"],
    train: ImageSet,
    held_out: ImageSet,
    announce: Callable[[str], None],
) -> Estimate:
    """The accuracy on real held-out images of a classifier that is trained on generated images alone (Ravuri and
    Vinyals 2019, arXiv:1905.10887).

    It is trained as the classifiers of the evaluation are, so its value for real images is their accuracy. It is low if
    images do not show their class, and if a class lacks variety. The interval contains the variation of the held-out
    images, not that of the training.

    Args:
        pixels: generated images, as many as there are training images, at most MAX_TRAINED.
        labels: the classes that were asked for.
        train: the training images, of which only the description is used.
        held_out: real images with their classes.
        announce: called with one line before training, which takes minutes.
    """
    provenance = replace(train.provenance, name=f"generated images of {train.spec.name}", count=len(pixels))
    trained = train_classifier(ImageSet(pixels, labels, train.spec, provenance), held_out, announce)
    return share_of(trained.accuracy, len(held_out.images))
