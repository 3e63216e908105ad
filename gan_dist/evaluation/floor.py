"""The floor: the same figures of real images, which a generator can't be expected to surpass."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Int64, Shaped, UInt8
from torch import Tensor

from gan_dist.evaluation.classes import modes_of_labels
from gan_dist.evaluation.classifier import Classifier
from gan_dist.evaluation.conditional import PREFIXES
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
    labels: Int64[Tensor, " n"] | None = None,
    held_out_labels: Int64[Tensor, " m"] | None = None,
) -> Reference:
    """Extract the features of real images and compute the floor.

    On one thread: the result is cached for later runs, so it must not depend on the number of threads of this one.

    Args:
        network: the classifier.
        classifier_id: its id.
        train: the training images. At most MAX_REFERENCE of them, evenly spaced, are compared with.
        held_out: the held-out images. None: the floor compares one half of the training images with the other.
        labelled: as in `extract_features`.
        labels, held_out_labels: the classes of the images; None if they have none.

    Returns:
        The reference without `held_out_pixels`.
    """
    real = extract_features(network, spread(train), labelled, None if labels is None else spread(labels))
    pixels = train.view(-1, network.shape[0], *train.shape[2:])
    reference = Reference(classifier_id, real.features, pixels, labels=real.labels)
    if held_out is None:
        one, other = (_half(real, i) for i in (0, 1))
        floor = compute_figures(other, Reference(classifier_id, one.features, one.pixels, labels=one.labels))
        # The nearest of half as many images is farther away, so this figure is not comparable.
        del floor["nearest/generated"]
        return replace(reference, floor=floor)
    unseen = extract_features(
        network, spread(held_out), labelled, None if held_out_labels is None else spread(held_out_labels)
    )
    distances, labels = nearest_distances(unseen, reference)
    by_class = [distances[labels == label] for label in range(unseen.logits.shape[1])]
    medians = torch.stack([(part if len(part) else distances).median() for part in by_class])
    reference = replace(reference, held_out_features=unseen.features, held_out_distances=medians)
    return replace(reference, floor=compute_figures(unseen, reference))


def _half(real: ImageFeatures, first: int) -> ImageFeatures:
    """Every second image: the images may be sorted by class."""
    parts = real.features[first::2], real.logits[first::2], real.pixels[first::2]
    return ImageFeatures(*parts, labels=None if real.labels is None else real.labels[first::2])


def spread(images: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "m ..."]:
    """At most MAX_REFERENCE of the images, or of their labels, evenly spaced."""
    if len(images) <= MAX_REFERENCE:
        return images
    return images[torch.arange(MAX_REFERENCE) * len(images) // MAX_REFERENCE]


def real_figures(reference: Reference, count: int, stack: int, conditional: bool = False) -> Figures:
    """The figures of real images for comparison with those of `count` generated images.

    They are the floor, and for stacked images the modes of as many real stacks, whose classes are drawn with the
    frequencies of the floor. Those of a conditional generator are left out if it is not one.
    """
    floor = reference.floor
    if not conditional:
        floor = {name: figure for name, figure in floor.items() if not name.startswith(PREFIXES)}
    if stack == 1 or "classes/0" not in floor:
        return floor
    classes = sum(name.removeprefix("classes/").isdigit() for name in floor)
    shares = torch.tensor([floor[f"classes/{label}"].value for label in range(classes)])
    labels = torch.multinomial(shares, count * stack, True, generator=generator_for(0, "evaluation/stacks"))
    return floor | modes_of_labels(labels.view(count, stack), classes)
