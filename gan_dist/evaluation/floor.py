"""The floor: the same figures of real images, which a generator can't be expected to surpass."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import UInt8
from torch import Tensor

from gan_dist.evaluation.classes import modes_of_labels
from gan_dist.evaluation.classifier import Classifier
from gan_dist.evaluation.estimates import Figures
from gan_dist.evaluation.features import (
    MAX_REFERENCE,
    ImageFeatures,
    Reference,
    extract_features,
    single_thread,
)
from gan_dist.evaluation.metrics import compute_figures
from gan_dist.evaluation.nearest import nearest_distances
from gan_dist.seeding import generator_for


@single_thread()
def build_reference(
    network: Classifier,
    classifier_id: str,
    train: UInt8[Tensor, "n c h w"],
    held_out: UInt8[Tensor, "m c h w"] | None,
    labelled: bool = True,
) -> Reference:
    """Extract the features of real images and compute the floor.

    On one thread: the result is cached for later runs, so it must not depend on the number of threads of this one.

    Args:
        network: the classifier.
        classifier_id: its id.
        train: the training images. At most MAX_REFERENCE of them, evenly spaced, are compared with.
        held_out: the held-out images. None: the floor compares one half of the training images with the other.
        labelled: as in `extract_features`.

    Returns:
        The reference without `held_out_pixels`.
    """
    real = extract_features(network, spread(train), labelled)
    pixels = train.view(-1, network.shape[0], *train.shape[2:])
    reference = Reference(classifier_id, real.features, pixels)
    if held_out is None:
        # Alternating: the images may be sorted by class.
        one, other = (ImageFeatures(real.features[i::2], real.logits[i::2], real.pixels[i::2]) for i in (0, 1))
        floor = compute_figures(other, Reference(classifier_id, one.features, one.pixels))
        # The nearest of half as many images is farther away, so this figure is not comparable.
        del floor["nearest/generated"]
        return replace(reference, floor=floor)
    unseen = extract_features(network, spread(held_out), labelled)
    distances, labels = nearest_distances(unseen, reference)
    by_class = [distances[labels == label] for label in range(unseen.logits.shape[1])]
    medians = torch.stack([(part if len(part) else distances).median() for part in by_class])
    reference = replace(reference, held_out_features=unseen.features, held_out_distances=medians)
    return replace(reference, floor=compute_figures(unseen, reference))


def spread(images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "m c h w"]:
    """At most MAX_REFERENCE of the images, evenly spaced."""
    if len(images) <= MAX_REFERENCE:
        return images
    return images[torch.arange(MAX_REFERENCE) * len(images) // MAX_REFERENCE]


def real_figures(reference: Reference, count: int, stack: int) -> Figures:
    """The figures of real images for comparison with those of `count` generated images.

    They are the floor, and for stacked images the modes of as many real stacks, whose classes are drawn with the
    frequencies of the floor.
    """
    if stack == 1 or "classes/0" not in reference.floor:
        return reference.floor
    classes = sum(name.removeprefix("classes/").isdigit() for name in reference.floor)
    shares = torch.tensor([reference.floor[f"classes/{label}"].value for label in range(classes)])
    labels = torch.multinomial(shares, count * stack, True, generator=generator_for(0, "evaluation/stacks"))
    return reference.floor | modes_of_labels(labels.view(count, stack), classes)
