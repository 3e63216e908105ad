"""Figures of a set of images against real ones. A new one is a function and a line in FIGURES.

torchmetrics must not sync_on_compute: every rank has all images already, and computes other figures than the rest.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from gan_dist.evaluation.classifier import FEATURES
from gan_dist.evaluation.observations import (
    Estimate,
    Observed,
    Reference,
    choose,
    deviation,
    interval,
    resample,
    share,
)
from gan_dist.seeding import generator_for

GROUPS = 10  # that a set is cut into where resampling it is no way to an interval
KERNEL_BLOCK = 1000  # images in a group for the kernel distance, at most
MANIFOLD_ROWS = 5000  # images of each side
NEIGHBOURS = 3  # k of precision and recall
COVERAGE_NEIGHBOURS = 5  # k of density and coverage
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

    resampled = [distance(features[rows]) for rows in resample(len(features), features.device)]
    return {"distance/frechet": interval(distance(features), deviation(resampled))}


def kernel_distance(observed: Observed, reference: Reference) -> Figures:
    """Kernel distance: squared MMD with the kernel (x·y/128 + 1)³ (Bińkowski et al. 2018, arXiv:1801.01401).

    The mean over disjoint blocks of both sides (Zaremba et al. 2013, arXiv:1307.1954), which has no bias, whatever the
    number of images, and so may be below 0. The interval is that of a mean over the generated blocks, all held against
    one real block: what differs then is theirs.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    fake, real = observed.features, reference.features
    size = min(KERNEL_BLOCK, len(fake) // GROUPS, len(real) // GROUPS)
    fakes, reals = (
        features[choose(len(features), GROUPS * size, "kernel", features.device)].double().split(size)
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

        mean = sum(map(distance, fakes, reals)) / GROUPS
        against_one = [distance(block, reals[0]) for block in fakes]
    return {"distance/kernel": interval(mean, deviation(against_one) / GROUPS**0.5, least=-float("inf"))}


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
        resampled = [score(logits[rows]) for rows in resample(len(logits), logits.device)]
        return {"score/classifier": interval(score(logits), deviation(resampled), 1.0, float(logits.shape[1]))}


def manifold_figures(observed: Observed, reference: Reference) -> Figures:
    """Precision, recall, density and coverage: which images lie in balls around images of the other kind.

    The ball B_k of an image reaches to the k-th nearest other image of its own kind. With k = 3, precision is the share
    of generated images in the ball of some real one, recall the share of real images in the ball of some generated one
    (Kynkäänniemi et al. 2019, arXiv:1904.06991). With k = 5, of M generated images y_j and N real ones x_i (Naeem et
    al. 2020, arXiv:2002.09797):

        density  = 1/(k M) sum_j sum_i 1[y_j in B_k(x_i)]
        coverage = 1/N sum_i 1[some y_j in B_k(x_i)]

    Precision misleads where all images lie in the large ball of one outlier, as noise may: it is 1 then, the density
    1/k and the coverage 1/N. The coverage grows with M/N, so N is as large as M here: real images have a coverage of
    1 - 2^-k = 0.97 then, whatever their number, and a density of 1. The density may be above 1.

    A few outliers among the generated images, with large balls, move the recall a lot. Its interval therefore comes
    from leaving out a tenth of these balls at a time (the jackknife, Efron & Tibshirani 1993, chapter 11); so does the
    coverage's. Those of precision and density are intervals of means over the generated images.
    """
    fake, real = (
        features[choose(len(features), MANIFOLD_ROWS, "manifold", features.device)]
        for features in (observed.features, reference.features)
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
        "precision": share(near_real),
        "recall": _share_reached(torch.stack(near_fake)),
        "density": interval(balls.mean().item(), balls.std().item() / len(balls) ** 0.5),
        "coverage": _share_reached(torch.stack([part.any(0) for part in inside.chunk(GROUPS)])),
    }


def _share_reached(by_group: Bool[Tensor, "groups n"]) -> Estimate:
    """The share of n that one group or another reaches; its interval from leaving out a group at a time."""
    times = by_group.sum(0)
    without = [(times > group.int()).double().mean().item() for group in by_group]
    jackknife = deviation(without) * (len(without) - 1) / len(without) ** 0.5
    return interval((times > 0).double().mean().item(), jackknife, most=1.0)


def _distances_within(features: Float[Tensor, "n 128"]) -> Float[Tensor, "n n"]:
    """Of each row from each other one; infinity from itself."""
    return torch.cdist(features, features).fill_diagonal_(float("inf"))


def _radii(distances: Float[Tensor, "n n"], neighbours: int) -> Float[Tensor, " n"]:
    """How far it is from each row to its k-th nearest other row, of `_distances_within`."""
    return distances.topk(neighbours, largest=False).values[:, -1]


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
    resampled = [from_uniform(seen[rows]) for rows in resample(len(seen), seen.device)]
    return figures | {"classes/from_uniform": interval(from_uniform(seen), deviation(resampled), most=1.0)}


def feature_diversity(observed: Observed, reference: Reference) -> Figures:
    """How different the images are from each other: the mean distance of two images' features. 0 if all are one."""
    features = observed.features
    features = features[choose(len(features), DIVERSITY_ROWS, "diversity", features.device)]
    distances = torch.cdist(features, features).sum(1) / (len(features) - 1)
    resampled = distances[resample(len(distances), distances.device)].mean(1).tolist()
    # Each image is in its own row and in a place of every other row, so chance counts twice (Hoeffding 1948).
    return {"diversity/features": interval(distances.mean().item(), 2 * deviation(resampled))}


def nearest_training_distance(observed: Observed, reference: Reference) -> Figures:
    """How far images are from the nearest training image: the median L2 distance of the pixels in [0, 1].

    And the same as a ratio: each image's distance to the median of held-out images of its class, which nobody can have
    memorized. About 1; clearly below, the generator recalls training images. (The distances of the classes differ
    threefold: by them alone a generator of many ones would seem to recall.)
    """
    distances, classes = nearest_distances(observed, reference)

    def median(values: Float[Tensor, " n"]) -> Estimate:
        resampled = values[resample(len(values), values.device)].median(1).values.tolist()
        return interval(values.median().item(), deviation(resampled))

    figures = {"nearest/generated": median(distances)}
    if reference.held_out_nearest is not None:
        figures["nearest/ratio"] = median(distances / reference.held_out_nearest[classes])
    return figures


def nearest_distances(
    observed: Observed, reference: Reference
) -> tuple[Float[Tensor, " chosen"], Int64[Tensor, " chosen"]]:
    """Of at most NEAREST_ROWS of the images: the distance to the nearest training image, and the class."""
    chosen = choose(len(observed.pixels), NEAREST_ROWS, "nearest", observed.pixels.device)
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
    return distances, observed.logits[chosen].argmax(1)


def modes(observed: Observed, reference: Reference) -> Figures:
    """Of stacked images, how many combinations of classes come, and the KL divergence of how often they come from all
    equally often (Stacked MNIST: Srivastava et al. 2017, arXiv:1705.07761; Lin et al. 2018, arXiv:1712.04086).

    Both depend on the number of images; the literature takes about 26,000. Nothing for images that are no stacks.
    """
    if observed.stack == 1:
        return {}
    return _modes(observed.logits.argmax(1).view(-1, observed.stack), observed.logits.shape[1])


def real_figures(reference: Reference, count: int, stack: int) -> Figures:
    """The figures that stand beside those of `count` generated images: the reference's floor, and of stacked images the
    modes of as many real ones, stacked at random from images whose classes come as often as the floor says.
    """
    if stack == 1:
        return reference.floor
    classes = sum(name.removeprefix("classes/").isdigit() for name in reference.floor)
    shares = torch.tensor([reference.floor[f"classes/{label}"].value for label in range(classes)])
    drawn = torch.multinomial(shares, count * stack, True, generator=generator_for(0, "evaluation/stacks"))
    return reference.floor | _modes(drawn.view(count, stack), classes)


def _modes(labels: Int64[Tensor, "n stack"], classes: int) -> Figures:
    """The figures of `modes`, from the class of each image in each stack."""
    stack = labels.shape[1]
    combinations = (labels * classes ** torch.arange(stack, device=labels.device)).sum(1)
    most = classes**stack

    def found_and_divergence(rows: Tensor) -> tuple[float, float]:
        shares = torch.bincount(rows, minlength=most).double() / len(rows)
        divergence = torch.special.xlogy(shares, shares * most).sum()
        return (shares > 0).double().sum().item(), divergence.item()

    found, divergence = found_and_divergence(combinations)
    drawn = resample(len(combinations), combinations.device)
    resampled = [found_and_divergence(combinations[rows]) for rows in drawn]
    return {
        "modes/found": interval(found, deviation([sample[0] for sample in resampled]), most=float(most)),
        "modes/divergence": interval(divergence, deviation([sample[1] for sample in resampled])),
    }


def _rows(pixels: Tensor) -> Tensor:
    """uint8 (n, C, H, W) to (n, C·H·W) in [0, 1]."""
    return pixels.flatten(1).float() / 255


# Dealt out to the processes in turn, in this order: the long ones don't meet in one of two.
FIGURES: dict[str, Figure] = {
    "frechet": frechet_distance,
    "kernel": kernel_distance,
    "manifolds": manifold_figures,
    "score": classifier_score,
    "classes": class_shares,
    "nearest": nearest_training_distance,
    "modes": modes,
    "diversity": feature_diversity,
}


def compute_figures(observed: Observed, reference: Reference, rank: int = 0, ranks: int = 1) -> Figures:
    """This rank's part of the figures: each is computed by one of the ranks, which all have the same images."""
    figures: Figures = {}
    for figure in list(FIGURES.values())[rank::ranks]:
        figures |= figure(observed, reference)
    return figures
