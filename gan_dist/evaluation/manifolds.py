"""Figures of the two manifolds, estimated by balls around images: precision, recall, density and coverage."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gan_dist.evaluation.estimates import (
    Estimate,
    Figures,
    confidence_interval,
    proportion,
    standard_deviation,
    subset_indices,
)
from gan_dist.evaluation.features import ImageFeatures, Reference

MAX_IMAGES = 5000  # of each set
NEIGHBOURS = 3  # k of precision and recall
COVERAGE_NEIGHBOURS = 5  # k of density and coverage
GROUPS = 10  # of the jackknife


def manifold_figures(images: ImageFeatures, reference: Reference) -> Figures:
    """Precision, recall, density and coverage: which images lie in balls around images of the other set.

    The ball B_k of an image reaches to the k-th nearest other image of its own set. With k = 3, precision is the share
    of generated images in the ball of some real one, recall the share of real images in the ball of some generated one
    (Kynkäänniemi et al. 2019, arXiv:1904.06991). With k = 5, of M generated images y_j and N real ones x_i (Naeem et
    al. 2020, arXiv:2002.09797):

        density  = 1/(k M) sum_j sum_i 1[y_j in B_k(x_i)]
        coverage = 1/N sum_i 1[some y_j in B_k(x_i)]

    Precision is misleading if all images, such as noise, lie in the large ball of one outlier: it is 1 then, the
    density 1/k and the coverage 1/N. The coverage grows with M/N, so N is as large as M here: real images then have a
    coverage of 1 - 2^-k = 0.97, whatever their number, and a density of 1. The density can exceed 1.

    A few outliers among the generated images, with large balls, change the recall a lot. Its interval therefore comes
    from omitting a tenth of these balls at a time (the jackknife, Efron & Tibshirani 1993, chapter 11), as that of the
    coverage. Those of precision and density are intervals of means over the generated images.
    """
    fake, real = (
        features[subset_indices(len(features), MAX_IMAGES, "manifold", features.device)]
        for features in (images.features, reference.features)
    )
    distances, within_real = torch.cdist(fake, real), _distances_within(real)
    near_real = (distances <= _radii(within_real, NEIGHBOURS)).any(1)
    radii = _radii(_distances_within(fake), NEIGHBOURS)
    near_fake = [
        (part <= radius.unsqueeze(1)).any(0)
        for part, radius in zip(distances.chunk(GROUPS), radii.chunk(GROUPS), strict=True)
    ]
    count = max(len(fake), COVERAGE_NEIGHBOURS + 1)
    inside = distances[:, :count] <= _radii(within_real[:count, :count], COVERAGE_NEIGHBOURS)  # (fake, real)
    balls = inside.sum(1).double() / COVERAGE_NEIGHBOURS
    return {
        "precision": proportion(near_real),
        "recall": _proportion_reached(torch.stack(near_fake)),
        "density": confidence_interval(balls.mean().item(), balls.std().item() / len(balls) ** 0.5),
        "coverage": _proportion_reached(torch.stack([part.any(0) for part in inside.chunk(GROUPS)])),
    }


def _proportion_reached(by_group: Bool[Tensor, "groups n"]) -> Estimate:
    """The share of columns that are True in any group; its interval comes from omitting one group at a time."""
    counts = by_group.sum(0)
    without = [(counts > group.int()).double().mean().item() for group in by_group]
    jackknife = standard_deviation(without) * (len(without) - 1) / len(without) ** 0.5
    return confidence_interval((counts > 0).double().mean().item(), jackknife, highest=1.0)


def _distances_within(features: Float[Tensor, "n 128"]) -> Float[Tensor, "n n"]:
    """The distance of each row to each other row, and infinity on the diagonal."""
    return torch.cdist(features, features).fill_diagonal_(float("inf"))


def _radii(distances: Float[Tensor, "n n"], neighbours: int) -> Float[Tensor, " n"]:
    """The distance of each row to its k-th nearest other row, from `_distances_within`."""
    return distances.topk(neighbours, largest=False).values[:, -1]
