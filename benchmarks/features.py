"""Which features that are learned without labels judge images most like labelled ones do?

Real images are degraded step by step: noise, blur, swapped patches, fewer classes, mixtures. For each step the Fréchet
distance to other real images is computed in the features of a classifier of the labels, and in those of each candidate.
All have the same network and see the same number of images. The table shows Spearman's rank correlation between the
distances of the classifier and of the candidate: over all steps of all degradations, and the mean over the degradations
of the correlation within each.

    python benchmarks/features.py --fashion DIR --mnist DIR --pictures DIR [--steps 800] [--images 10000] [--seeds 2]
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from gan_dist.config import DataConfig
from gan_dist.data.images import ImageSet
from gan_dist.data.pixels import normalize
from gan_dist.data.sources import load_images
from gan_dist.evaluation.classifier import FEATURES, Classifier
from gan_dist.evaluation.classifier_training import BATCH, train_classifier
from gan_dist.seeding import generator_for, seed_for

STRENGTHS = (0.05, 0.1, 0.2, 0.4, 0.8)
TEMPERATURE = 0.2  # of the contrastive loss
CORRUPTION = 0.5  # standard deviation of the noise that the autoencoder removes

Extractor = Callable[[Tensor], Tensor]
"""Images (n, C, H, W) in [-1, 1] to features (n, 128)."""
Degradation = Callable[[Tensor, Tensor, float, torch.Generator], Tensor]
"""Images, their labels, a strength in [0, 1] and a generator to images, perhaps fewer."""


def add_noise(images: Tensor, labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    return (images + strength * torch.randn(images.shape, generator=generator)).clamp(-1, 1)


def blur(images: Tensor, labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Repeated means of 3x3 pixels; the last one in part."""
    times, blurred = 5 * strength, images
    while times > 0:
        mean = F.avg_pool2d(F.pad(blurred, (1, 1, 1, 1), "replicate"), 3, 1)
        blurred = blurred.lerp(mean, min(times, 1))
        times -= 1
    return blurred


def swap_patches(images: Tensor, labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Each of 4x4 patches comes from another image with this probability."""
    count, _, height, width = images.shape
    chosen = torch.rand(count, 1, 4, 4, generator=generator) < strength
    mask = F.interpolate(chosen.float(), (height, width)).bool()
    return torch.where(mask, images[torch.randperm(count, generator=generator)], images)


def drop_classes(images: Tensor, labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """The images of the last classes are replaced by further ones of the first classes."""
    classes = labels.unique()
    kept = classes[: max(1, round(len(classes) * (1 - strength)))]
    (known,) = torch.isin(labels, kept).nonzero(as_tuple=True)
    return images[known[torch.randint(len(known), (len(images),), generator=generator)]]


def mix_in_noise(images: Tensor, labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """A share of the images is noisy."""
    return _mixed(images, add_noise(images, labels, 0.5, generator), strength)


def mix_in_one(images: Tensor, labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """A share of the images is one image."""
    return _mixed(images, images[-1:].expand_as(images), strength)


def _mixed(images: Tensor, others: Tensor, share: float) -> Tensor:
    count = round(share * len(images))
    return torch.cat([others[:count], images[count:]])


DEGRADATIONS: dict[str, Degradation] = {
    "noise": add_noise,
    "blur": blur,
    "swapped patches": swap_patches,
    "fewer classes": drop_classes,
    "some noisy": mix_in_noise,
    "some the same": mix_in_one,
}


def _optimize(modules: list[nn.Module], images: ImageSet, steps: int, loss: Callable[[Tensor], Tensor]) -> None:
    """As `train_classifier` does."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    optimizer = torch.optim.Adam(parameters, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    for _ in range(steps):
        indices = torch.randint(len(images.images), (BATCH,))
        optimizer.zero_grad()
        loss(normalize(images.images[indices])).backward()
        optimizer.step()
        schedule.step()


def untrained(images: ImageSet, steps: int, seed: int) -> Extractor:
    return Classifier(1, images.shape).features


def rotations(images: ImageSet, steps: int, seed: int) -> Extractor:
    """Gidaris et al. 2018, arXiv:1803.07728."""
    return labelled(dataclasses.replace(images, labels=None), steps, seed)


def labelled(images: ImageSet, steps: int, seed: int) -> Extractor:
    epochs = max(1, round(steps * BATCH / len(images.images)))
    return train_classifier(images, images, lambda line: None, seed, epochs).network.features


def denoising(images: ImageSet, steps: int, seed: int) -> Extractor:
    """An autoencoder that removes noise (Vincent et al. 2008)."""
    network = Classifier(1, images.shape)
    pixels = images.images[0].numel()
    decoder = nn.Sequential(nn.Linear(FEATURES, 512), nn.ReLU(), nn.Linear(512, pixels), nn.Tanh())

    def loss(real: Tensor) -> Tensor:
        noisy = real + CORRUPTION * torch.randn_like(real)
        return F.mse_loss(decoder(network.features(noisy)), real.flatten(1))

    _optimize([network, decoder], images, steps, loss)
    return network.features


def contrastive(images: ImageSet, steps: int, seed: int) -> Extractor:
    """Two crops of an image are to be recognized among those of other images (Chen et al. 2020, arXiv:2002.05709)."""
    network = Classifier(64, images.shape)

    def loss(real: Tensor) -> Tensor:
        views = [F.normalize(network.head(network.features(_view(real)))) for _ in range(2)]
        logits = views[0] @ views[1].T / TEMPERATURE
        target = torch.arange(len(real))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    _optimize([network], images, steps, loss)
    return network.features


def _view(images: Tensor) -> Tensor:
    """A random crop of 60 % to 100 % of the side, perhaps mirrored, with another contrast and brightness."""
    count = len(images)
    scale = 0.6 + 0.4 * torch.rand(count)
    sign = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    shift = (2 * torch.rand(count, 2) - 1) * (1 - scale)[:, None]
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale * sign, scale, shift
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    contrast, brightness = 0.7 + 0.6 * torch.rand(count, 1, 1, 1), 0.4 * torch.rand(count, 1, 1, 1) - 0.2
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False) * contrast + brightness


CANDIDATES: dict[str, Callable[[ImageSet, int, int], Extractor]] = {
    "untrained": untrained,
    "rotations": rotations,
    "denoising": denoising,
    "contrastive": contrastive,
}


def extract(extractor: Extractor, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([extractor(chunk) for chunk in images.split(500)]).double()


def frechet(one: Tensor, other: Tensor) -> float:
    """Fréchet distance of the features' Gaussians."""
    values, vectors = torch.linalg.eigh(one.T.cov())
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ other.T.cov() @ root).clamp(min=0).sqrt().sum()
    means = (one.mean(0) - other.mean(0)).square().sum()
    return (means + one.T.cov().trace() + other.T.cov().trace() - 2 * cross).item()


def spearman(one: list[float], other: list[float]) -> float:
    ranks = torch.tensor([one, other]).argsort(1).argsort(1).double()
    return torch.corrcoef(ranks)[0, 1].item()


def distances(extractor: Extractor, images: ImageSet) -> dict[str, list[float]]:
    """Degradation -> the distance of each strength; the compared halves have different images."""
    assert images.labels is not None
    real = extract(extractor, normalize(images.images[::2]))
    others, labels = normalize(images.images[1::2]), images.labels[1::2]
    found: dict[str, list[float]] = {}
    for name, degrade in DEGRADATIONS.items():
        generator = generator_for(0, f"benchmark/{name}")
        degraded = (degrade(others, labels, strength, generator) for strength in STRENGTHS)
        found[name] = [frechet(extract(extractor, images), real) for images in degraded]
    return found


def load(config: DataConfig, count: int) -> ImageSet:
    """At most `count` images, in an order that does not depend on that of the files."""
    images = load_images(config, print)
    assert images.labels is not None
    chosen = torch.randperm(len(images.images), generator=generator_for(0, "benchmark/images"))[:count]
    return dataclasses.replace(images, images=images.images[chosen], labels=images.labels[chosen])


def compare(data: dict[str, ImageSet], steps: int, seeds: int) -> Table:
    """A row for each data set and candidate. labelled: another classifier of the labels, with another seed."""
    table = Table("data set", "features", "all", "within", *DEGRADATIONS)
    for data_name, images in data.items():
        torch.manual_seed(0)
        expected = distances(labelled(images, steps, seeds), images)
        for name, make in {"labelled": labelled, **CANDIDATES}.items():
            overall, within = [], []
            for seed in range(seeds):
                torch.manual_seed(seed_for(seed, name))
                found = distances(make(images, steps, seed), images)
                overall.append(spearman([*chain(*expected.values())], [*chain(*found.values())]))
                within.append([spearman(expected[key], found[key]) for key in DEGRADATIONS])
            columns = [fmean(column) for column in zip(*within, strict=True)]
            cells = [f"{value:.3f}" for value in (fmean(overall), fmean(columns), *columns)]
            table.add_row(data_name, name, *cells)
            print(f"{data_name} {name}: {overall}", flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion", type=Path, help="folder of Fashion-MNIST")
    parser.add_argument("--mnist", type=Path, help="folder of MNIST")
    parser.add_argument("--pictures", type=Path, help="folder of pictures, with a sub-folder for each class")
    parser.add_argument("--size", type=int, default=32, help="pixels per side of the pictures")
    parser.add_argument("--steps", type=int, default=800, help="batches that each network is trained on")
    parser.add_argument("--images", type=int, default=10_000, help="images of each data set at most")
    parser.add_argument("--seeds", type=int, default=2, help="networks of each kind")
    given = parser.parse_args()
    configs = {}
    if given.fashion:
        configs["fashion-mnist"] = DataConfig(name="fashion-mnist", root=given.fashion)
    if given.mnist:
        configs["mnist"] = DataConfig(name="mnist", root=given.mnist)
    if given.pictures:
        configs["pictures"] = DataConfig(name="folder", root=given.pictures, size=given.size, channels="3")
    data = {name: load(config, given.images) for name, config in configs.items()}
    Console(width=200).print(compare(data, given.steps, given.seeds))


if __name__ == "__main__":
    main()
