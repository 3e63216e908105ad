"""The figures of an evaluation. A new one is a function and a line in FIGURES."""

from __future__ import annotations

from collections.abc import Callable

from gan_dist.evaluation.classes import class_shares, modes
from gan_dist.evaluation.conditional import asked_and_obtained, within_class_distances, within_class_diversities
from gan_dist.evaluation.distances import classifier_score, frechet_distance, kernel_distance
from gan_dist.evaluation.estimates import Figures
from gan_dist.evaluation.features import ImageFeatures, Reference
from gan_dist.evaluation.manifolds import manifold_figures
from gan_dist.evaluation.nearest import feature_diversity, nearest_training_distance

Figure = Callable[[ImageFeatures, Reference], Figures]

# Assigned to the ranks in turn, in this order, which gives the slow ones to different ranks.
FIGURES: dict[str, Figure] = {
    "frechet": frechet_distance,
    "kernel": kernel_distance,
    "manifolds": manifold_figures,
    "score": classifier_score,
    "classes": class_shares,
    "nearest": nearest_training_distance,
    "modes": modes,
    "diversity": feature_diversity,
    "within": within_class_distances,
    "asked": asked_and_obtained,
    "within-diversity": within_class_diversities,
}


def compute_figures(images: ImageFeatures, reference: Reference, rank: int = 0, ranks: int = 1) -> Figures:
    """This rank's share of the figures. All ranks have the same images, and each computes other figures of them."""
    figures: Figures = {}
    for figure in list(FIGURES.values())[rank::ranks]:
        figures |= figure(images, reference)
    return figures
