"""FID and KID as in papers, from Inception features, with the functions of torch-fidelity.

Its results are cached, so this module imports nothing that often changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor, nn

from gan_dist.evaluation.estimates import Estimate, Figures, confidence_interval, subset_indices

FEATURES = 2048  # of an image
SIDE = 299  # pixels of the images that the network sees
CHUNK = 32  # images per forward pass; their activations take 250 MB
SUBSETS, SUBSET_SIZE = 100, 1000  # of KID, as torch-fidelity's defaults
MAX_KERNEL = 2000  # images of each set from which the interval of KID is computed


@dataclass(frozen=True)
class InceptionReference:
    """The Inception features of real images, on the CPU."""

    features: Float[Tensor, "n d"]
    """Of training images."""
    mean: Float[Tensor, " d"]
    covariance: Float64[Tensor, "d d"]
    floor: Figures
    """FID and KID of held-out images, else of one half of the training images against the other."""


def inception_features(network: nn.Module, pixels: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
    """The features of images, on the CPU. Grey images get three equal channels.

    Args:
        network: of `load_inception`, which resizes the images itself.
        pixels: with one channel or three, on any device.
    """
    device = next(network.parameters()).device
    with torch.no_grad():
        chunks = [network(chunk.to(device).expand(-1, 3, -1, -1))[0].cpu() for chunk in pixels.split(CHUNK)]
    return torch.cat(chunks)


def build_inception_reference(
    network: nn.Module, train: UInt8[Tensor, "n c h w"], held_out: UInt8[Tensor, "m c h w"] | None
) -> InceptionReference:
    """Extract the features of real images and compute the floor.

    Args:
        network: of `load_inception`.
        train: the training images that are compared with.
        held_out: the held-out images; None: the floor compares one half of the training images with the other.
    """
    features = inception_features(network, train)
    reference = _reference(features)
    if held_out is None:
        # Alternating: the images may be sorted by class.
        floor = inception_figures(features[1::2], _reference(features[::2]))
    else:
        floor = inception_figures(inception_features(network, held_out), reference)
    return InceptionReference(reference.features, reference.mean, reference.covariance, floor)


def _reference(features: Float[Tensor, "n d"]) -> InceptionReference:
    statistics = _statistics(features)
    mean, covariance = (torch.from_numpy(statistics[name]) for name in ("mu", "sigma"))
    return InceptionReference(features, mean, covariance, {})


def inception_figures(features: Float[Tensor, "n d"], reference: InceptionReference) -> Figures:
    """FID and KID of images with these features, on the CPU.

    numpy, which torch-fidelity uses, gets as many threads as torch: their number changes the order of sums.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(torch.get_num_threads(), user_api="blas"):
        return {"inception/fid": fid(features, reference), "inception/kid": kid(features, reference)}


def fid(features: Float[Tensor, "n d"], reference: InceptionReference) -> Estimate:
    """Fréchet Inception distance (Heusel et al. 2017, arXiv:1706.08500).

    It decreases with the number of images, to which the interval does not relate: it contains the variation among sets
    of the same number of generated images, compared with the same real ones. The deviation is that of the infinitesimal
    jackknife (Efron & Tibshirani 1993, chapter 21), to which the bootstrap converges. It is computed from the influence
    of each image x on the distance of N(m, S) from N(m', S'), the derivative for its weight:

        2 (m - m')·(x - m) + (x - m)ᵀ(I - A)(x - m) - tr((I - A) S),  A = S'^(1/2) (S'^(1/2) S S'^(1/2))^(-1/2) S'^(1/2)

    since the derivative of tr((S S')^(1/2)) for S is A/2. With fewer images than features, S is singular, and the
    pseudo-inverse restricts A to the directions in which the images vary.
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    own = _statistics(features)
    real = {"mu": reference.mean.numpy(), "sigma": reference.covariance.numpy()}
    value = fid_statistics_to_metric(own, real, verbose=False)[KEY_METRIC_FID]
    mean, covariance = (torch.from_numpy(own[name]) for name in ("mu", "sigma"))
    values, vectors = torch.linalg.eigh(reference.covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    values, vectors = torch.linalg.eigh(root @ covariance @ root)
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    basis = root @ vectors[:, kept]
    quadratic = torch.eye(len(values), dtype=values.dtype) - (basis * values[kept].rsqrt()) @ basis.T
    centered = features.double() - features.double().mean(0)
    shift = (mean - reference.mean).double()
    influence = 2 * centered @ shift + ((centered @ quadratic) * centered).sum(1)
    deviation = (influence.var(correction=0) / len(features)).sqrt().item()
    return confidence_interval(value, deviation)


def kid(features: Float[Tensor, "n d"], reference: InceptionReference) -> Estimate:
    """Kernel Inception distance, the unbiased squared MMD with the kernel k(x, y) = (x·y/d + 1)³ (Bińkowski et al.
    2018, arXiv:1801.01401): the mean over SUBSETS random subsets of both sets, of SUBSET_SIZE images or all.

    The interval contains the variation among sets of the same number of generated images, as that of `fid`, and that of
    the random subsets. The first is approximated by the first-order term of the statistic (Hoeffding 1948): the
    influence of an image x is 2 (mean k(x, generated) - mean k(x, real)), estimated from MAX_KERNEL images of each set.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    count, dimensions = features.shape
    size = min(SUBSET_SIZE, count, len(reference.features))
    found = kid_features_to_metric(
        features, reference.features, kid_subsets=SUBSETS, kid_subset_size=size, verbose=False
    )
    fake, real = (
        rows[subset_indices(len(rows), MAX_KERNEL, "inception")].double() for rows in (features, reference.features)
    )
    within, across = ((fake @ other.T / dimensions + 1) ** 3 for other in (fake, real))
    among = within.fill_diagonal_(0).sum(1) / max(len(fake) - 1, 1)
    influence = 2 * (among - across.mean(1))
    variance = influence.var(correction=0).item() / count + found[KEY_METRIC_KID_STD] ** 2 / SUBSETS
    return confidence_interval(found[KEY_METRIC_KID_MEAN], variance**0.5, lowest=-float("inf"))


def _statistics(features: Float[Tensor, "n d"]) -> dict[str, Any]:
    """ "mu", the mean, and "sigma", the covariance, as torch-fidelity has them."""
    from torch_fidelity.metric_fid import fid_features_to_statistics

    statistics: dict[str, Any] = fid_features_to_statistics(features)
    return statistics
