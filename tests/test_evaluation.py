"""The figures against closed formulas and hand-made cases; the classifier; labels; the cache."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import math
import os
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, draw_images, idx_bytes, labels_bytes, train_here, write_root
from damage import Damage, damages, loads_or_is_refused
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from gan_dist import cli
from gan_dist.config import DataConfig, InputError
from gan_dist.data.cache import write_cached
from gan_dist.data.images import ImageSet
from gan_dist.data.pixels import normalize, quantize
from gan_dist.data.readers import location
from gan_dist.data.readers.reader import NoHeldOut, Provenance
from gan_dist.data.sources import load_held_out, load_images, pin_source
from gan_dist.data.spec import DataSpec
from gan_dist.evaluation import classifier_file, extractors, floor, nearest
from gan_dist.evaluation import reference as references
from gan_dist.evaluation.classes import class_shares, modes
from gan_dist.evaluation.classifier_file import (
    TrainedClassifier,
    classifier_bytes,
    load_classifier,
    shipped_classifier,
)
from gan_dist.evaluation.classifier_training import train_classifier
from gan_dist.evaluation.conditional import asked_and_obtained, within_class_distances, within_class_diversities
from gan_dist.evaluation.distances import classifier_score, frechet_distance, kernel_distance
from gan_dist.evaluation.estimates import Estimate, subset_indices
from gan_dist.evaluation.extractors import classifier_for
from gan_dist.evaluation.features import ImageFeatures, Reference, extract_features, single_thread
from gan_dist.evaluation.fingerprint import code_fingerprint
from gan_dist.evaluation.floor import build_reference, real_figures
from gan_dist.evaluation.manifolds import manifold_figures
from gan_dist.evaluation.metrics import FIGURES, compute_figures
from gan_dist.evaluation.nearest import feature_diversity, nearest_training_distance
from gan_dist.evaluation.reference import reference_for
from gan_dist.files import BadFile
from gan_dist.results.evaluate import RunOptions, evaluate_run, make_shipped_classifier
from gan_dist.seeding import generator_for
from gan_dist.tensors import read_tensors

HELD_OUT = 60  # images in the small data set's test split
FIFO = b"fifo"  # instead of a file's content
SHIPPED = Path(classifier_file.__file__).parent / "digits.safetensors"


def quiet(line: str) -> None:
    """Ignore an announcement."""


def fail_if_called(*_: object) -> None:
    pytest.fail("computed a second time")


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    """The 5,000 real digits of the sample."""
    return load_images(DataConfig(source="sample"), quiet)


def some(digits: ImageSet, every: int) -> ImageSet:
    return dataclasses.replace(digits, images=digits.images[::every], labels=digits.labels[::every])


def drawn(count: int, seed: int = 0, spread: float = 1.0) -> Tensor:
    """(count, 128) independent normal features."""
    return torch.randn(count, 128, generator=generator_for(seed, "test")) * spread


def generated(features: Tensor, logits: Tensor | None = None) -> ImageFeatures:
    """Black images with these features and logits."""
    logits = torch.zeros(len(features), 10) if logits is None else logits
    return ImageFeatures(features, logits, torch.zeros(len(features), 1, 2, 2, dtype=torch.uint8))


def real(features: Tensor) -> Reference:
    return Reference("none", features, torch.zeros(len(features), 1, 2, 2, dtype=torch.uint8))


# The figures


def gaussian_distance(one: Tensor, other: Tensor) -> float:
    """Fréchet distance by symmetric square roots, as in the paper."""
    a, b = one.double().numpy(), other.double().numpy()
    mean = a.mean(0) - b.mean(0)
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    values, vectors = np.linalg.eigh(cov_a)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    return float(mean @ mean + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def frechet(one: Tensor, other: Tensor) -> Estimate:
    return frechet_distance(generated(one), real(other))["distance/frechet"]


def test_frechet_distance_is_the_closed_formula() -> None:
    one = drawn(600)
    mixed = drawn(700, 1) @ drawn(128, 2, 0.1) + 0.3  # another mean and another covariance
    assert frechet(one, mixed).value == pytest.approx(gaussian_distance(one, mixed), rel=1e-6)
    assert frechet(one, one).value == pytest.approx(0, abs=1e-6)
    assert frechet(one + 2, one).value == pytest.approx(128 * 4, rel=1e-5)  # a shift by 2 in each dimension
    centered = one - one.mean(0)
    traces = np.trace(np.cov(one.double().numpy().T))
    assert frechet(3 * centered, centered).value == pytest.approx((3 - 1) ** 2 * traces, rel=1e-5)


def test_kernel_distance_is_the_unbiased_mmd_of_blocks() -> None:
    fake, other = drawn(40) + 0.2, drawn(50, 1)
    pairs = zip(
        *(rows[subset_indices(len(rows), 40, "kernel")].double().numpy().reshape(10, 4, 128) for rows in (fake, other)),
        strict=True,
    )
    distances = []
    for x, y in pairs:
        kernel = lambda a, b: (a @ b.T / 128 + 1) ** 3  # noqa: E731
        within = [(k.sum() - np.trace(k)) / (4 * 3) for k in (kernel(x, x), kernel(y, y))]
        distances.append(sum(within) - 2 * kernel(x, y).mean())
    found = kernel_distance(generated(fake), real(other))["distance/kernel"]
    assert found.value == pytest.approx(np.mean(distances), rel=1e-6)


def test_kernel_distance_of_one_distribution_has_no_bias() -> None:
    values = [
        kernel_distance(generated(drawn(200, seed)), real(drawn(200, 100 + seed)))["distance/kernel"].value
        for seed in range(20)
    ]
    error = np.std(values) / 20**0.5
    assert abs(np.mean(values)) < 3 * error
    away = kernel_distance(generated(drawn(200) + 0.5), real(drawn(200, 1)))["distance/kernel"]
    assert away.low > 0.5


@pytest.mark.parametrize(("classes", "confidence", "expected"), [(10, 50, 10), (5, 50, 5), (1, 50, 1), (10, 0, 1)])
def test_classifier_score_counts_the_classes_clearly_shown(classes: int, confidence: float, expected: float) -> None:
    logits = confidence * torch.eye(10)[torch.arange(1000) % classes]
    found = classifier_score(generated(drawn(1000), logits), real(drawn(10)))["score/classifier"]
    assert found.value == pytest.approx(expected, rel=1e-6)


def precision_and_recall(fake: Tensor, other: Tensor) -> tuple[float, float]:
    found = manifold_figures(generated(fake), real(other))
    return found["precision"].value, found["recall"].value


def test_precision_and_recall_of_hand_made_sets() -> None:
    modes = torch.zeros(400, 128)
    modes[:200, 0] = 100  # two modes, far apart
    other = drawn(400) + modes
    assert precision_and_recall(other, other) == (1, 1)
    half = precision_and_recall(other[:200], other)
    assert half[0] == 1
    assert half[1] == pytest.approx(0.5, abs=0.01)
    beside = other.clone()
    beside[::4] += 1000  # a quarter is far from all real ones
    precision, recall = precision_and_recall(beside, other)
    assert precision == pytest.approx(0.75, abs=0.01)
    assert recall > 0.9
    assert precision_and_recall(other[:1].repeat(100, 1), other)[1] < 0.02  # copies of one image


def density_and_coverage(fake: Tensor, other: Tensor) -> tuple[float, float]:
    found = manifold_figures(generated(fake), real(other))
    return found["density"].value, found["coverage"].value


def test_density_and_coverage_are_the_papers_sums() -> None:
    fake, other = drawn(40, 1, 1.1), drawn(60, 2)
    # The order of the selected rows determines which real ones are compared: as many as there are generated ones.
    fakes, reals = (rows[subset_indices(len(rows), 5000, "manifold")].double()[:40] for rows in (fake, other))
    inside = np.zeros((40, 40), bool)
    for i, image in enumerate(reals):
        radius = sorted((image - neighbour).norm().item() for neighbour in reals)[5]  # the image itself is the first
        inside[:, i] = [(image - generated).norm().item() <= radius for generated in fakes]
    density, coverage = density_and_coverage(fake, other)
    assert density == pytest.approx(inside.sum() / (5 * 40))
    assert coverage == pytest.approx(inside.any(0).mean())
    assert 0 < coverage < 1


@pytest.mark.parametrize("count", [100, 400, 1600])
def test_density_and_coverage_of_real_images_do_not_depend_on_their_number(count: int) -> None:
    few = torch.eye(8, 128)  # of 8 dimensions
    density, coverage = density_and_coverage(drawn(count)[:, :8] @ few, drawn(1600, 1)[:, :8] @ few)
    assert density == pytest.approx(1, abs=0.15)
    assert coverage == pytest.approx(1 - 2**-5, abs=0.04)


def test_noise_with_perfect_precision_has_no_coverage() -> None:
    """All of it lies in the ball of one outlier."""
    other = drawn(1000)
    other[:1] *= 20
    noise = other[:1] + drawn(1000, 1, 0.1)
    assert precision_and_recall(noise, other)[0] == 1
    density, coverage = density_and_coverage(noise, other)
    assert density == pytest.approx(1 / 5)
    assert coverage == pytest.approx(1 / 1000)
    half = torch.cat([drawn(500, 2), drawn(500, 3, 0.01)])  # one mode of two
    both = torch.cat([drawn(500, 4), drawn(500, 5) + 100])
    assert density_and_coverage(half, both)[1] < 0.55


def test_class_shares() -> None:
    labels = torch.tensor([3] * 50 + [7] * 30 + [0] * 20)
    found = class_shares(generated(drawn(100), torch.eye(10)[labels]), real(drawn(10)))
    assert [found[f"classes/{label}"].value for label in (0, 3, 7, 9)] == pytest.approx([0.2, 0.5, 0.3, 0])
    # Three classes are 0.4, 0.2 and 0.1 above 0.1, and seven are 0.1 below.
    assert found["classes/from_uniform"].value == pytest.approx(0.7)
    margin = 1.96 * (0.5 * 0.5 / 100) ** 0.5
    assert found["classes/3"].low == pytest.approx(0.5 - margin)
    assert found["classes/9"].low == found["classes/9"].high == 0
    equal = class_shares(generated(drawn(100), torch.eye(10).repeat(10, 1)), real(drawn(10)))
    assert equal["classes/from_uniform"].value == pytest.approx(0, abs=1e-6)


def test_diversity_is_the_mean_distance_of_two() -> None:
    features = drawn(50)
    pairs = [(features[i] - features[j]).norm().item() for i in range(50) for j in range(i)]
    found = feature_diversity(generated(features), real(features))["diversity/features"]
    assert found.value == pytest.approx(np.mean(pairs), rel=1e-4)


def with_pixels(images: np.ndarray) -> ImageFeatures:
    pixels = torch.from_numpy(images).unsqueeze(1)
    return ImageFeatures(torch.zeros(len(images), 128), torch.eye(10)[torch.arange(len(images)) % 10], pixels)


def test_nearest_distances_are_exact_and_0_for_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    images = draw_images(300)
    train = with_pixels(images[:200])
    medians = torch.full((10,), 2.0)
    reference = Reference("none", train.features, train.pixels, held_out_distances=medians)
    monkeypatch.setattr(nearest, "TRAINING_CHUNK", 64)
    copies = nearest_training_distance(with_pixels(images[50:150]), reference)
    assert copies["nearest/generated"] == copies["nearest/ratio"] == Estimate(0.0, 0.0, 0.0)
    others = nearest_training_distance(with_pixels(images[200:]), reference)
    x, y = (part.reshape(-1, 1, 784).astype(float) / 255 for part in (images[200:], images[:200]))
    distances = np.sqrt(((x - y.transpose(1, 0, 2)) ** 2).sum(2)).min(1)
    median = float(torch.from_numpy(distances).median())
    assert others["nearest/generated"].value == pytest.approx(median, rel=1e-5)
    assert others["nearest/ratio"].value == pytest.approx(median / 2, rel=1e-5)


def test_the_ratio_of_distances_does_not_depend_on_the_frequency_of_classes() -> None:
    """The nearest image of a simple image is near, which is no evidence of memorization."""
    images = draw_images(300)
    train = with_pixels(images[:200])
    medians = torch.tensor([1.0] + [5.0] * 9)
    reference = Reference("none", train.features, train.pixels, held_out_distances=medians)
    simple = dataclasses.replace(with_pixels(images[200:]), logits=torch.eye(10)[torch.zeros(100, dtype=torch.long)])
    found = nearest_training_distance(simple, reference)
    assert found["nearest/ratio"].value == pytest.approx(found["nearest/generated"].value)


@pytest.mark.parametrize("key", FIGURES)
def test_intervals_match_the_spread_of_a_figure(key: str) -> None:
    """The standard deviation over many sets is that of which each set alone gives an estimate."""
    reference = dataclasses.replace(
        real(drawn(400, 1000)[:, :8] @ torch.eye(8, 128)), pixels=noise(1000), held_out_distances=torch.ones(10)
    )

    def fake(seed: int) -> ImageFeatures:
        features = drawn(400, seed, 1.3)[:, :8] @ torch.eye(8, 128)
        return ImageFeatures(features, 2 * drawn(400, seed)[:, 10:20], noise(seed), stack=2)

    results = [FIGURES[key](fake(seed), reference) for seed in range(30)]
    for name in results[0]:
        estimates = [result[name] for result in results]
        spread = np.std([estimate.value for estimate in estimates])
        estimated = np.mean([estimate.high - estimate.low for estimate in estimates]) / (2 * 1.96)
        assert 0.6 < spread / estimated < 1.6, name
        assert all(estimate.low <= estimate.value <= estimate.high for estimate in estimates), name


def noise(seed: int) -> Tensor:
    """(400, 1, 2, 2) random pixels."""
    return torch.randint(256, (400, 1, 2, 2), generator=generator_for(seed, "test"), dtype=torch.uint8)


def test_modes_of_stacked_images() -> None:
    """All 1,000 equally often; then half of them; then one."""
    combinations = torch.cartesian_prod(*[torch.arange(10)] * 3)  # (1000, 3)
    for shown, found, divergence in (
        (combinations, 1000, 0.0),
        (combinations[:500], 500, math.log(2)),
        (combinations[:1], 1, math.log(1e3)),
    ):
        labels = shown.repeat(4000 // len(shown), 1).flatten()
        images = generated(torch.zeros(len(labels), 128), torch.nn.functional.one_hot(labels, 10).float())
        figures = modes(dataclasses.replace(images, stack=3), real(images.features))
        assert figures["modes/found"].value == found
        assert figures["modes/divergence"].value == pytest.approx(divergence, abs=1e-9)
        assert modes(images, real(images.features)) == {}


def test_modes_of_as_many_real_images() -> None:
    """26,000 draws of 1,000 equally frequent modes diverge from equal shares by about 999/52,000 by chance alone."""
    floor = {f"classes/{label}": Estimate(0.1, 0.1, 0.1) for label in range(10)}
    reference = dataclasses.replace(real(torch.zeros(1, 128)), floor=floor)
    assert real_figures(reference, 26_000, 1) == floor
    figures = real_figures(reference, 26_000, 3)
    assert figures["modes/found"].value == 1000
    assert figures["modes/divergence"].value == pytest.approx(999 / 52_000, rel=0.2)


# Key of FIGURES -> the test of its values. A new figure needs one.
def test_the_distance_within_a_class_is_that_of_its_images() -> None:
    """Two classes, one of which has collapsed; a third one has too few images."""
    features, labels = drawn(900, 1), torch.arange(900) % 2
    labels[:10] = 2
    features[labels == 1] *= 0.1
    reference = dataclasses.replace(real(drawn(600)), labels=torch.arange(600) % 3)
    figures = within_class_distances(dataclasses.replace(generated(features), labels=labels), reference)
    assert figures.keys() == {"within/frechet", "within/0", "within/1"}
    for label in (0, 1):
        of_class = generated(features[labels == label]), real(reference.features[reference.labels == label])
        assert figures[f"within/{label}"] == frechet_distance(*of_class)["distance/frechet"]
    assert figures["within/1"].low > 2 * figures["within/0"].high
    values = [figures[f"within/{label}"].value for label in (0, 1)]
    assert figures["within/frechet"].value == pytest.approx(sum(values) / 2)
    width = {name: figure.high - figure.value for name, figure in figures.items()}
    assert width["within/frechet"] == pytest.approx((width["within/0"] ** 2 + width["within/1"] ** 2) ** 0.5 / 2)
    assert within_class_distances(generated(features), reference) == {}


def test_asked_and_obtained_counts_the_images_of_the_class_that_was_asked_for() -> None:
    obtained, asked = torch.tensor([0] * 4 + [1] * 6), torch.tensor([0, 0, 0, 1] + [1] * 4 + [0] * 2)
    images = dataclasses.replace(generated(drawn(10), torch.eye(3)[obtained]), labels=asked)
    figures = asked_and_obtained(images, real(drawn(10)))
    values = {name: figure.value for name, figure in figures.items()}
    assert values == pytest.approx({"asked/obtained": 0.7, "asked/0": 0.6, "asked/1": 0.8})
    assert asked_and_obtained(generated(drawn(10), torch.eye(3)[obtained]), real(drawn(10))) == {}


def test_the_diversity_within_a_class_is_that_of_its_images() -> None:
    features, labels = drawn(100, 1), torch.arange(100) % 2
    labels[:10] = 2
    features[labels == 1] = 1.0
    figures = within_class_diversities(dataclasses.replace(generated(features), labels=labels), real(drawn(10)))
    assert figures.keys() == {"within/0/diversity", "within/1/diversity"}
    assert (
        figures["within/0/diversity"]
        == feature_diversity(generated(features[labels == 0]), real(drawn(10)))["diversity/features"]
    )
    assert figures["within/1/diversity"].value == 0
    assert within_class_diversities(generated(features), real(drawn(10))) == {}


VALUE_TESTS = {
    "frechet": test_frechet_distance_is_the_closed_formula,
    "kernel": test_kernel_distance_is_the_unbiased_mmd_of_blocks,
    "manifolds": test_density_and_coverage_are_the_papers_sums,
    "score": test_classifier_score_counts_the_classes_clearly_shown,
    "classes": test_class_shares,
    "nearest": test_nearest_distances_are_exact_and_0_for_copies,
    "modes": test_modes_of_stacked_images,
    "diversity": test_diversity_is_the_mean_distance_of_two,
    "within": test_the_distance_within_a_class_is_that_of_its_images,
    "within-diversity": test_the_diversity_within_a_class_is_that_of_its_images,
    "asked": test_asked_and_obtained_counts_the_images_of_the_class_that_was_asked_for,
}


def test_every_figure_is_tested_and_documented() -> None:
    assert set(VALUE_TESTS) == set(FIGURES)
    assert all(figure.__doc__ for figure in FIGURES.values())
    documentation = (REPOSITORY / "docs" / "evaluation.md").read_text()
    stacked = dataclasses.replace(with_pixels(draw_images(100)), stack=2)
    reference = Reference("none", drawn(100), stacked.pixels, held_out_distances=torch.ones(10))
    labels = torch.arange(100) % 2
    conditional = dataclasses.replace(generated(drawn(100), drawn(100)[:, :2]), labels=labels)
    names = compute_figures(stacked, reference).keys() - {f"classes/{label}" for label in range(1, 10)}
    for figure in (within_class_distances, within_class_diversities, asked_and_obtained):
        names |= figure(conditional, dataclasses.replace(reference, labels=labels)).keys()
    names -= {"within/1", "within/1/diversity", "asked/1"}
    assert [name for name in names if f"`{name}`" not in documentation] == []


def test_figures_do_not_depend_on_the_global_generator_or_the_number_of_ranks(digits: ImageSet) -> None:
    """That the global generator keeps its state is checked by a fixture."""
    network = shipped_classifier().network
    images, other = (extract_features(network, digits.images[first::40]) for first in (0, 1))
    reference = Reference("x", other.features, other.pixels)
    expected = compute_figures(images, reference)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        parts = [compute_figures(images, reference, rank, 3) for rank in range(3)]
    assert {name: figure for part in parts for name, figure in part.items()} == expected
    assert sum(len(part) for part in parts) == len(expected)


# The classifier


def test_the_shipped_classifier_classifies_digits(digits: ImageSet) -> None:
    classifier = shipped_classifier()
    assert classifier.id == "6a267eb79315"
    assert classifier.accuracy >= 0.993
    assert (classifier.classes, classifier.data_name) == (10, "mnist")
    assert not classifier.network.training
    assert not any(weight.requires_grad for weight in classifier.network.parameters())
    assert SHIPPED.stat().st_size < 1_000_000
    images = extract_features(classifier.network, digits.images)
    assert (images.logits.argmax(1) == digits.labels).double().mean() > 0.99
    assert images.features.shape == (5000, 128)
    assert images.features.min() == 0  # after a ReLU
    assert torch.allclose(images.logits[:9], classifier.network(normalize(digits.images[:9])), atol=1e-4)
    assert classifier_for(DataConfig(source="sample"), quiet, train=digits).id == classifier.id


@pytest.mark.slow
def test_training_a_classifier_depends_on_its_arguments_alone(digits: ImageSet) -> None:
    train, held_out = some(digits, 5), some(digits, 37)

    def one(global_seed: int, **arguments: int) -> TrainedClassifier:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(global_seed)
            return train_classifier(train, held_out, quiet, epochs=2, **arguments)

    first, again, other = one(1), one(2), one(1, seed=1)
    assert first.id == again.id != other.id
    assert first.accuracy > 0.15  # two epochs of 1,000 digits; chance is 0.1
    assert first.data_sha256 == digits.provenance.sha256
    before = torch.get_rng_state()
    without = train_classifier(train, None, quiet, epochs=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert without.accuracy * 100 == pytest.approx(round(without.accuracy * 100))  # of every tenth image


def test_a_classifiers_file(digits: ImageSet, tmp_path: Path) -> None:
    trained = train_classifier(some(digits, 50), None, quiet, epochs=1)
    content = classifier_bytes(trained)
    assert classifier_bytes(trained) == content
    file = tmp_path / "some.safetensors"
    file.write_bytes(content)
    read = load_classifier(file)
    assert dataclasses.replace(read, network=trained.network) == trained
    images = normalize(digits.images[:5])
    assert torch.allclose(read.network(images), trained.network(images), atol=1e-5)
    for damaged in (content[:-5], content[:-1] + bytes([content[-1] ^ 1]), b"", content.replace(b"format", b"tamrof")):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=r"some\.safetensors can't be used"):
            load_classifier(file)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "is of another format"),
        ({"accuracy": math.inf}, "out of range"),
        ({"accuracy": "0.99"}, "of another type"),
        ({"classes": 0}, "out of range"),
        ({"classes": 10**12}, "out of range"),
        ({"classes": 11}, r"holds head\.weight of shape \[10, 128\] instead of \[11, 128\]"),
        ({"id": ["x"]}, "of another type"),
        ({"id": "0" * 12}, "has weights that do not match its id"),
        ({"more": 1}, "a field is missing or of another type"),
    ],
)
def test_a_wrong_description_of_a_classifier_is_one_line(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    tensors, metadata = read_tensors(SHIPPED.read_bytes())
    description = json.loads(metadata["classifier"]) | change
    file = tmp_path / "some.safetensors"
    file.write_bytes(save(tensors, {"classifier": json.dumps(description)}))
    with pytest.raises(InputError, match=says) as refusal:
        load_classifier(file)
    assert "\n" not in str(refusal.value)


def test_a_damaged_installation_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "digits.safetensors").write_bytes(SHIPPED.read_bytes()[:-1])
    monkeypatch.setattr(classifier_file.importlib.resources, "files", lambda package: tmp_path)
    with pytest.raises(InputError, match=r"digits\.safetensors of the package .* damaged .*; reinstall gan_dist"):
        shipped_classifier()


@pytest.mark.fuzz
@given(damage=damages())
def test_no_damage_to_a_classifier_is_a_traceback(damage: Damage, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / "damaged-classifier.safetensors"
    file.write_bytes(damage(SHIPPED.read_bytes()))
    assert loads_or_is_refused(lambda: load_classifier(file), InputError)


# Other shapes, and data without labels


def pictures(shape: tuple[int, int, int], labelled: bool, count: int = 120) -> ImageSet:
    """Images of noise whose brightness is their class."""
    labels = torch.arange(count) % 3
    images = torch.randint(100, (count, *shape), generator=generator_for(0, "test"), dtype=torch.uint8)
    images += (70 * labels).to(torch.uint8)[:, None, None, None]
    classes = ("dark", "grey", "bright") if labelled else None
    spec = DataSpec("some", shape, classes, count, 0, "classifier" if labelled else "unlabelled")
    sha256 = hashlib.sha256(images.numpy().tobytes()).hexdigest()
    provenance = Provenance("some", "local", "some", count, sha256, "")
    return ImageSet(images, labels if labelled else None, spec, provenance)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 24, 40), (3, 200, 256), (3, 33, 33)])
@pytest.mark.parametrize("labelled", [True, False])
def test_classifiers_of_any_shape(shape: tuple[int, int, int], labelled: bool, tmp_path: Path) -> None:
    train = pictures(shape, labelled, 24)
    made = train_classifier(train, None, quiet, epochs=1)
    assert (made.shape, made.task) == (shape, "classes" if labelled else "rotations")
    assert made.classes == (3 if labelled else 4 if shape[1] == shape[2] else 2)
    (file := tmp_path / "some.safetensors").write_bytes(classifier_bytes(made))
    assert dataclasses.replace(load_classifier(file), network=made.network) == made
    found = extract_features(made.network, train.images, labelled)
    assert found.features.shape == (24, 128)
    assert found.stack == 1
    assert found.logits.shape == (24, 3 if labelled else 1)


def test_what_is_trained_without_labels_recognizes_rotations() -> None:
    train = pictures((3, 16, 16), False)
    train.images[:, :, :8] //= 4  # the upper half is darker
    assert train_classifier(train, None, quiet, epochs=30).accuracy > 0.9


def test_a_colour_image_is_judged_as_one_and_a_stack_as_several() -> None:
    colour = train_classifier(pictures((3, 28, 28), True), None, quiet, epochs=1).network
    images = pictures((3, 28, 28), True, 10).images
    assert extract_features(colour, images).features.shape == (10, 128)
    stacked = extract_features(shipped_classifier().network, images)
    assert (stacked.stack, len(stacked.features)) == (3, 30)


def test_without_labels_there_are_no_figures_of_classes() -> None:
    train = pictures((3, 8, 8), False)
    network = train_classifier(train, None, quiet, epochs=1).network
    for held_out in (None, train.images[:40]):
        reference = build_reference(network, "id", train.images, held_out, labelled=False)
        names = set(reference.floor)
        assert {"distance/frechet", "distance/kernel", "precision", "recall", "diversity/features"} <= names
        assert not any(name.startswith(("classes/", "modes/", "score/")) for name in names)
        assert real_figures(reference, 100, 1) == reference.floor
    assert "nearest/ratio" in names


def test_of_many_classes_only_the_distance_from_equal_shares_is_a_figure() -> None:
    found = class_shares(generated(drawn(202), torch.eye(101).repeat(2, 1)), real(drawn(10)))
    assert list(found) == ["classes/from_uniform"]


def test_a_reference_of_many_images_has_the_features_of_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "MAX_REFERENCE", 50)
    train = pictures((3, 8, 8), True)
    network = train_classifier(train, None, quiet, epochs=1).network
    reference = build_reference(network, "id", train.images, train.images[:70])
    assert reference.held_out_features is not None
    assert (len(reference.features), len(reference.held_out_features)) == (50, 50)
    assert reference.pixels.data_ptr() == train.images.data_ptr()  # not copied
    assert reference.floor["nearest/generated"].value == 0  # of all training images


@pytest.mark.usefixtures("few_epochs")
def test_a_cached_classifier_of_another_task_is_not_used(cache: Path) -> None:
    config, without = DataConfig(name="fashion-mnist", root=cache), pictures((3, 8, 8), False)
    key = without.provenance.sha256[:16]
    other = classifier_bytes(train_classifier(pictures((3, 8, 8), True), None, quiet, epochs=1))
    write_cached(cache / f"classifier-{key}-v{classifier_file.FORMAT}.safetensors", other, quiet)
    with pytest.raises(InputError, match="no classifier of some yet"):
        classifier_for(config, quiet, may_train=False, train=without)


# Labels and held-out images


def classes_of(count: int) -> np.ndarray:
    return (np.arange(count) % 10).astype(np.uint8)


def write_split(root: Path, folder: str, images: str, labels: str, count: int, start: int = 0) -> Path:
    """Images and labels of a small data set; returns the labels' file."""
    write_root(root, idx_bytes(draw_images(start + count)[start:]), f"{folder}/raw/{images}")
    return write_root(root, labels_bytes(classes_of(count)), f"{folder}/raw/{labels}")


def write_data(root: Path, folder: str = "MNIST", gz: str = "") -> Path:
    write_split(root, folder, f"t10k-images-idx3-ubyte{gz}", f"t10k-labels-idx1-ubyte{gz}", HELD_OUT, 200)
    return write_split(root, folder, f"train-images-idx3-ubyte{gz}", f"train-labels-idx1-ubyte{gz}", 200)


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("source", ["auto", "local", "download"])
def test_both_splits_are_read_with_their_labels(tmp_path: Path, gz: str, source: str) -> None:
    write_data(tmp_path, gz=gz)
    config = DataConfig(root=tmp_path, source=source)  # type: ignore[arg-type]  # what is there is not downloaded again
    train, test = load_images(config, quiet), load_held_out(config, quiet)
    assert torch.equal(train.images, load_images(pin_source(config, "local"), quiet).images)
    assert train.labels is not None
    assert test.labels is not None
    assert torch.equal(test.images[:, 0], torch.from_numpy(draw_images(200 + HELD_OUT)[200:]))
    assert torch.equal(train.labels, torch.from_numpy(classes_of(200)).long())
    assert torch.equal(test.labels, torch.from_numpy(classes_of(HELD_OUT)).long())
    assert test.provenance.sha256 == hashlib.sha256(test.images.numpy().tobytes()).hexdigest()
    assert "not the 10,000 published" in test.provenance.verified


def test_qmnists_labels_are_the_first_of_eight_numbers(tmp_path: Path) -> None:
    numbers = np.full((50, 8), 70_000, ">i4")
    numbers[:, 0] = classes_of(50)
    for split in ("train", "test"):
        write_split(tmp_path, "QMNIST", f"qmnist-{split}-images-idx3-ubyte", "unused", 50)
        write_root(tmp_path, labels_bytes(numbers), f"QMNIST/raw/qmnist-{split}-labels-idx2-int")
    for load in (load_images, load_held_out):
        found = load(DataConfig(name="qmnist", root=tmp_path), quiet)
        assert found.labels is not None
        assert found.labels.tolist() == classes_of(50).tolist()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (labels_bytes(classes_of(200))[:-3], "truncated: 205 bytes instead of 208 for 200 labels"),
        (labels_bytes(classes_of(200))[:6], "less than an IDX header"),
        (labels_bytes(classes_of(200)) + b"x", "too long"),
        (idx_bytes(draw_images()), "not an IDX file of labels: it starts with 0x00000803 instead of 0x00000801"),
        (labels_bytes(classes_of(199)), "holds 199 labels for the 200 images of"),
        (labels_bytes(classes_of(200) + np.uint8(1)), "holds other classes than 0 to 9"),
    ],
)
def test_labels_that_cannot_be_used_are_named(tmp_path: Path, content: bytes, says: str) -> None:
    file = write_data(tmp_path)
    file.write_bytes(content)
    with pytest.raises(InputError, match=says) as refusal:
        load_images(DataConfig(root=tmp_path), quiet)
    assert str(file.parent) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not isinstance(refusal.value, NoHeldOut)
    load_held_out(DataConfig(root=tmp_path), quiet)


@pytest.mark.parametrize("missing", ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_missing_held_out_files_are_told_from_damaged_ones(tmp_path: Path, missing: str) -> None:
    file = write_data(tmp_path).with_name(missing)
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(NoHeldOut, match=missing):
        load_held_out(DataConfig(root=tmp_path), quiet)
    file.write_bytes(content[:-1])
    with pytest.raises(InputError, match="truncated") as refusal:
        load_held_out(DataConfig(root=tmp_path), quiet)
    assert not isinstance(refusal.value, NoHeldOut)


def test_the_sample_has_labels_and_no_held_out_images(digits: ImageSet) -> None:
    assert torch.bincount(digits.labels).tolist() == [500] * 10
    with pytest.raises(NoHeldOut, match=r"--data\.root with a copy of MNIST"):
        load_held_out(DataConfig(source="sample"), quiet)


def test_held_out_images_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(tmp_path)
    published = dataclasses.replace(location.HELD_OUT["mnist"], count=HELD_OUT, md5="0" * 32)
    monkeypatch.setitem(location.HELD_OUT, "mnist", published)
    with pytest.raises(InputError, match="t10k-images-idx3-ubyte is not mnist: its md5 differs"):
        load_held_out(DataConfig(root=tmp_path), quiet)


# The cache


@pytest.fixture
def few_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = lambda *given: train_classifier(*given, epochs=1)  # noqa: E731
    monkeypatch.setattr(extractors, "train_classifier", quick)


@pytest.mark.usefixtures("few_epochs")
def test_a_classifier_is_trained_once_for_a_data_set(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(tmp_path, "FashionMNIST")
    config = DataConfig(name="fashion-mnist", root=tmp_path)
    with pytest.raises(InputError, match=r"no classifier of fashion-mnist yet; gan-dist data"):
        classifier_for(config, quiet, may_train=False)
    announced: list[str] = []
    trained = classifier_for(config, announced.append)
    assert trained.data_name == "fashion-mnist"
    assert sum("training a classifier of fashion-mnist" in line for line in announced) == 1
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert classifier_for(config, quiet).id == trained.id  # trained again
    monkeypatch.setattr(extractors, "train_classifier", fail_if_called)
    assert classifier_for(config, quiet, may_train=False).id == trained.id


def test_the_reference_is_cached_and_computed_again_if_damaged(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(tmp_path)
    config, classifier = DataConfig(root=tmp_path), shipped_classifier()
    train = load_images(config, quiet)
    first = reference_for(config, train, classifier, quiet)
    assert first.features.shape == (200, 128)
    assert first.held_out_features is not None
    assert first.held_out_features.shape == (HELD_OUT, 128)
    assert first.floor["nearest/ratio"].value == pytest.approx(1, abs=0.1)
    held_out = load_held_out(config, quiet)
    with single_thread():  # as the reference is computed
        unseen = extract_features(classifier.network, held_out.images, labels=held_out.labels)
        assert first.floor == compute_figures(unseen, first)
    assert first.labels is not None
    assert torch.equal(first.labels, train.labels)

    def same(other: Reference) -> bool:
        pairs = ((getattr(first, field.name), getattr(other, field.name)) for field in dataclasses.fields(first))
        return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)

    (file,) = cache.iterdir()
    content = file.read_bytes()
    tensors, metadata = read_tensors(content)
    description = json.loads(metadata["reference"])
    names = ("distance/frechet", "diversity/features")
    figures = dict(zip(names, (description["floor"][name] for name in reversed(names)), strict=True))
    exchanged = description | {"floor": description["floor"] | figures}
    for damaged in (
        *(content[:-1], content[:-1] + bytes([content[-1] ^ 1]), b"", save(tensors)),
        save(tensors, {"reference": json.dumps(exchanged)}),
    ):
        file.write_bytes(damaged)
        assert same(reference_for(config, train, classifier, quiet))
        assert file.read_bytes()[-100_000:] == content[-100_000:]
    file.unlink()
    os.mkfifo(file)
    assert same(reference_for(config, train, classifier, quiet))
    with monkeypatch.context() as patch:  # a new figure is computed of the real images too
        patch.setitem(FIGURES, "count", lambda images, reference: {"count": Estimate(1.0, 1.0, 1.0)})
        assert "count" in reference_for(config, train, classifier, quiet).floor
        assert len(list(cache.iterdir())) == 2
    # With the same module, on which the fingerprint depends.
    monkeypatch.setattr(references, "build_reference", functools.wraps(build_reference)(fail_if_called))
    assert same(reference_for(config, train, classifier, quiet))
    with pytest.raises(pytest.fail.Exception):  # nothing is cached for another classifier
        reference_for(config, train, dataclasses.replace(classifier, id="another"), quiet)


ESTIMATE = {"value": 1.0, "low": 0.5, "high": 2.0}


@pytest.mark.parametrize(
    ("floor", "says"),
    [
        ([], "is damaged"),
        ({"recall": 1.0}, "other fields"),
        ({"recall": ESTIMATE | {"more": 1.0}}, "other fields"),
        ({"recall": {"value": 1.0}}, "other fields"),
        ({"recall": ESTIMATE | {"low": "0.5"}}, "not a finite number"),
        ({"recall": ESTIMATE | {"low": None}}, "not a finite number"),
        ({"recall": ESTIMATE | {"high": math.inf}}, "not a finite number"),
        ({"recall": ESTIMATE | {"high": math.nan}}, "not a finite number"),
        ({"recall": ESTIMATE | {"high": 10**400}}, "not a finite number"),
    ],
)
def test_invalid_cached_figures_are_refused(floor: Any, says: str, tmp_path: Path) -> None:
    """Even if the digest matches."""
    file, pixels = tmp_path / "cached.safetensors", torch.zeros(3, 1, 28, 28, dtype=torch.uint8)
    tensors = {"features": torch.zeros(3, 128)}
    digest = references._sha256(tensors, floor) if isinstance(floor, dict) else ""
    file.write_bytes(save(tensors, {"reference": json.dumps({"floor": floor, "sha256": digest})}))
    with pytest.raises(BadFile, match=says):
        references._read(file, shipped_classifier(), pixels, None)


@pytest.mark.fuzz
@given(damage=damages(), matches=st.booleans())
def test_no_damage_to_a_cached_file_is_a_traceback(
    damage: Damage, matches: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With a digest that shows the damage, and with one that matches any content."""
    file = tmp_path_factory.getbasetemp() / "damaged-reference.safetensors"
    pixels, floor = torch.zeros(3, 1, 28, 28, dtype=torch.uint8), {"recall": Estimate(0.5, 0.4, 1.0)}
    whole = Reference("x", torch.ones(3, 128), pixels, torch.ones(2, 128), torch.ones(10), floor=floor)
    with pytest.MonkeyPatch.context() as patch:
        if matches:
            patch.setattr(references, "_sha256", lambda tensors, floor: "0")
        file.write_bytes(damage(references._content(whole)))
        assert loads_or_is_refused(lambda: references._read(file, shipped_classifier(), pixels, 2), BadFile)


def test_without_held_out_images_the_halves_of_the_training_images_are_compared(digits: ImageSet) -> None:
    announced: list[str] = []
    reference = reference_for(DataConfig(source="sample"), some(digits, 10), shipped_classifier(), announced.append)
    assert len(announced) == 1
    assert "one half of the training images" in announced[0]
    assert reference.features.shape == (500, 128)
    assert reference.held_out_features is reference.held_out_distances is None
    assert reference.floor["recall"].value > 0.6  # both halves have all classes, although the sample is sorted
    assert not any(name.startswith("nearest") for name in reference.floor)


def test_a_cache_that_cannot_be_written_is_announced(
    tmp_path: Path, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GAN_DIST_CACHE", str(tmp_path / "file"))
    announced: list[str] = []
    reference_for(DataConfig(source="sample"), some(digits, 20), shipped_classifier(), announced.append)
    assert "can't be written" in announced[-1]
    assert "GAN_DIST_CACHE" in announced[-1]


@pytest.mark.parametrize("kind", ["folder", "FIFO", "link"])
def test_a_cached_file_replaces_anything_but_a_folder(tmp_path: Path, kind: str) -> None:
    file, elsewhere = tmp_path / "cache" / "file", tmp_path / "elsewhere"
    file.parent.mkdir()
    elsewhere.write_bytes(b"mine")
    {"folder": file.mkdir, "FIFO": lambda: os.mkfifo(file), "link": lambda: file.symlink_to(elsewhere)}[kind]()
    announced: list[str] = []
    write_cached(file, b"content", announced.append)
    if kind == "folder":
        assert len(announced) == 1
        assert f"{file} can't be written (Is a directory)" in announced[0]
    else:
        assert not announced
        assert not file.is_symlink()
        assert file.read_bytes() == b"content"
    assert elsewhere.read_bytes() == b"mine"
    assert list(file.parent.iterdir()) == [file]


def test_too_few_training_images_are_not_evaluated(tmp_path: Path) -> None:
    write_split(tmp_path, "MNIST", "train-images-idx3-ubyte", "train-labels-idx1-ubyte", 39)
    config = DataConfig(root=tmp_path)
    with pytest.raises(InputError, match="holds 39 images; an evaluation needs 40 or more"):
        reference_for(config, load_images(config, quiet), shipped_classifier(), quiet)
    write_split(tmp_path, "MNIST", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", 20)
    assert reference_for(config, load_images(config, quiet), shipped_classifier(), quiet).floor


def test_held_out_images_of_changed_data_are_refused(tmp_path: Path) -> None:
    file, rng = tmp_path / "images.npz", np.random.default_rng(0)
    config = DataConfig(name="arrays", root=file)
    for count in (400, 300):
        np.savez(file, images=rng.integers(0, 256, (count, 28, 28), np.uint8))
        if count == 400:
            train = load_images(config, quiet)
    with pytest.raises(InputError, match=r"images\.npz has changed since its training images were read"):
        reference_for(config, train, shipped_classifier(), quiet)


@pytest.mark.parametrize(
    ("module", "used"),
    [
        ("gan_dist.evaluation.nearest", True),
        ("gan_dist.evaluation.estimates", True),  # imported by nearest
        ("gan_dist.seeding", True),  # imported by estimates
        ("gan_dist.evaluation.manifolds", False),
    ],
)
def test_the_fingerprint_of_code_depends_on_everything_it_uses(
    module: str, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, getsource = code_fingerprint([feature_diversity]), inspect.getsource
    monkeypatch.setattr(inspect, "getsource", lambda read: getsource(read) + "#" * (read.__name__ == module))
    assert (code_fingerprint([feature_diversity]) != before) == used


def test_the_fingerprint_of_the_figures_covers_the_features_and_the_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    names, getsource = set(), inspect.getsource

    def record(module: ModuleType) -> str:
        names.add(module.__name__.removeprefix("gan_dist."))
        return getsource(module)

    monkeypatch.setattr(inspect, "getsource", record)
    code_fingerprint([*FIGURES.values(), build_reference])
    assert {figure.__module__.removeprefix("gan_dist.") for figure in FIGURES.values()} < names
    assert {"evaluation.features", "evaluation.classifier", "evaluation.floor", "data.pixels", "seeding"} < names
    assert not any(name.startswith(("config", "outputs", "data.sources")) for name in names)  # changes often


# The command


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps, beside its data."""
    folder = tmp_path_factory.mktemp("evaluation")
    write_data(folder)
    words = ["--data.root", str(folder), "--train.batch-size", "20", "--train.threads", "1"]
    assert train_here([*words, "--train.steps", "3", "--wandb.mode", "disabled", "--run.dir", str(folder / "run")]) == 0
    return folder / "run"


def test_evaluate_shows_and_writes_the_figures(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(trained), "--count", "200"]) == 0
    shown = capsys.readouterr().out
    written = json.loads((trained / "evaluation.json").read_text())
    assert set(written["figures"]) >= {
        *("distance/frechet", "distance/kernel", "precision", "recall", "density", "coverage"),
        *("score/classifier", "diversity/features"),
        *(f"classes/{label}" for label in range(10)),
        *("classes/from_uniform", "nearest/generated", "nearest/ratio"),
    }
    assert set(written["real"]) == set(written["figures"])
    for name, figure in written["figures"].items():
        assert name in shown
        assert figure["low"] <= figure["value"] <= figure["high"]
    assert shipped_classifier().id in shown
    assert f"{written['figures']['distance/frechet']['value']:.4g}" in shown
    assert f"{written['real']['distance/frechet']['value']:.4g}" in shown
    # Discs against noise: the images of an untrained network are very far from real ones.
    assert written["figures"]["distance/frechet"]["low"] > written["real"]["distance/frechet"]["high"]


def test_evaluating_with_other_images_is_announced(trained: Path, tmp_path: Path) -> None:
    write_root(tmp_path, idx_bytes(draw_images(250)[100:]))
    announced: list[str] = []
    evaluation = evaluate_run(trained, announced.append, RunOptions(count=100, root=tmp_path))
    assert any("was trained on other images" in line for line in announced)
    assert evaluation.data["count"] == 150
    assert "nearest/generated" not in evaluation.real


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["RUN", "--count", "99"], "count=99 is not supported"),
        (["RUN", "--seed", "-1"], "seed=-1 is not supported"),
        (["RUN", "--data.root", "/nowhere"], "data.root=/nowhere holds no mnist"),
        (["/nowhere"], "/nowhere holds no generator.safetensors"),
        ([], "give either a RUN to evaluate, or --train-classifier FILE"),
    ],
)
def test_bad_arguments_are_one_line(
    trained: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", *(str(trained) if word == "RUN" else word for word in words)]) == 2
    output = capsys.readouterr().err
    assert says in output
    assert output.count("\n") == 1


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run and its data, which a test may damage."""
    shutil.copytree(trained.parent, tmp_path / "copied")
    file = tmp_path / "copied" / "run" / "config.json"
    config = json.loads(file.read_text())
    config["data"]["root"] = str(tmp_path / "copied")
    file.write_text(json.dumps(config))
    return file.parent


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("run/config.json", b"[", "config.json is not valid JSON"),
        ("run/config.json", b"[]", "config.json does not hold a JSON object"),
        ("run/config.json", b'{"data": 3}', "config.json can't be used"),
        ("run/config.json", b'{"train": {"epochs": 0}}', "config.json can't be used (train.epochs=0 is not supported"),
        ("run/config.json", FIFO, "config.json is not a regular file"),
        ("run/config.json", None, "config.json can't be read"),
        ("run/generator.safetensors", FIFO, "generator.safetensors is not a regular file"),
        ("MNIST/raw/train-images-idx3-ubyte", None, "copied holds no mnist"),
        ("MNIST/raw/train-images-idx3-ubyte", b"x", "train-images-idx3-ubyte"),
        ("MNIST/raw/t10k-labels-idx1-ubyte", b"x", "t10k-labels-idx1-ubyte"),
    ],
)
def test_damaged_inputs_of_an_evaluation_are_one_line(
    copied: Path, file: str, content: bytes | None, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = copied.parent / file
    damaged.unlink()
    if content == FIFO:
        os.mkfifo(damaged)
    elif content is not None:
        damaged.write_bytes(content)
    assert cli.main(["evaluate", str(copied), "--count", "100"]) == 2
    output = capsys.readouterr().err
    assert says in output
    assert output.count("\n") == 1


@pytest.mark.parametrize("content", [b"{}", b'{"data": []}', b'{"data": {"source": 3, "sha256": []}}', b"[", FIFO])
def test_a_run_can_be_evaluated_without_its_environment(
    copied: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """The data is not compared with the run's then, which is announced if there is a file that can't be read."""
    (copied / "environment.json").unlink()
    if content == FIFO:
        os.mkfifo(copied / "environment.json")
    else:
        (copied / "environment.json").write_bytes(content)
    assert cli.main(["evaluate", str(copied), "--count", "100"]) == 0
    announced = "the real images are not compared with the training images" in capsys.readouterr().out
    assert announced == (content in (b"[", FIFO))


def test_a_command_makes_the_shipped_file(tmp_path: Path) -> None:
    write_data(tmp_path).with_name("t10k-labels-idx1-ubyte").write_bytes(labels_bytes(np.full(HELD_OUT, 3, np.uint8)))
    config, file = DataConfig(root=tmp_path), tmp_path / "new.safetensors"
    made = make_shipped_classifier(config, file, quiet, epochs=1)
    assert load_classifier(file).id == made.id
    held_out = load_held_out(config, quiet)
    correct = made.network(normalize(held_out.images)).argmax(1) == held_out.labels
    assert made.accuracy == pytest.approx(correct.double().mean().item())
    with pytest.raises(InputError, match="can't be written"):
        make_shipped_classifier(config, tmp_path / "no" / "folder", quiet, epochs=1)


def test_quantize_inverts_normalize() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(quantize(normalize(pixels)), pixels)


def test_build_reference_writes_nothing(digits: ImageSet, cache: Path) -> None:
    build_reference(shipped_classifier().network, "id", digits.images[::50], digits.images[::70])
    assert not cache.exists()
