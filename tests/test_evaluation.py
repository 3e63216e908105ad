"""The figures against closed formulas and hand-made cases; the classifier; labels; what is kept between runs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import draw_images, idx_bytes, labels_bytes, train_here, write_root
from damage import Damage, damages, loads_or_is_refused
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from gan_dist import cli
from gan_dist.config import DataConfig, InputError
from gan_dist.data import sources
from gan_dist.data.pixels import normalize, quantize
from gan_dist.data.sources import LabelledImages, NoHeldOut, load_images, load_labelled, settled
from gan_dist.evaluation import classifier as classifiers
from gan_dist.evaluation import metrics
from gan_dist.evaluation import reference as references
from gan_dist.evaluation.cache import keep
from gan_dist.evaluation.classifier import classifier_bytes, classifier_for, load_classifier, shipped, train_classifier
from gan_dist.evaluation.metrics import compute_figures
from gan_dist.evaluation.observations import Estimate, Observed, Reference, choose, observe
from gan_dist.evaluation.reference import build_reference, reference_for
from gan_dist.files import BadFile
from gan_dist.results.evaluate import evaluate_run, make_shipped_classifier
from gan_dist.seeding import generator_for
from gan_dist.tensors import read_tensors

HELD_OUT = 60  # images in the small data set's test split
FIFO = b"fifo"  # in the place of a file's content
SHIPPED = Path(classifiers.__file__).parent / "digits.safetensors"


def quiet(line: str) -> None:
    """Where a test does not mind what is announced."""


def no_more(*_: object) -> None:
    pytest.fail("done a second time")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GAN_DIST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def digits() -> LabelledImages:
    """The 5,000 real digits of the sample."""
    return load_labelled(DataConfig(source="sample"), "train", quiet)


def some(digits: LabelledImages, every: int) -> LabelledImages:
    return dataclasses.replace(digits, images=digits.images[::every], labels=digits.labels[::every])


def drawn(count: int, seed: int = 0, spread: float = 1.0) -> Tensor:
    """(count, 128) independent normal features."""
    return torch.randn(count, 128, generator=generator_for(seed, "test")) * spread


def seen(features: Tensor, logits: Tensor | None = None) -> Observed:
    """Images that look so to a classifier; their pixels are all black."""
    logits = torch.zeros(len(features), 10) if logits is None else logits
    return Observed(features, logits, torch.zeros(len(features), 1, 2, 2, dtype=torch.uint8))


def real(features: Tensor) -> Reference:
    return Reference("none", features, torch.zeros(len(features), 1, 2, 2, dtype=torch.uint8))


# The figures


def gaussian_distance(one: Tensor, other: Tensor) -> float:
    """Fréchet distance by symmetric square roots, as the paper has it."""
    a, b = one.double().numpy(), other.double().numpy()
    mean = a.mean(0) - b.mean(0)
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    values, vectors = np.linalg.eigh(cov_a)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    return float(mean @ mean + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def frechet(one: Tensor, other: Tensor) -> Estimate:
    return metrics.frechet_distance(seen(one), real(other))["distance/frechet"]


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
        *(rows[choose(len(rows), 40, "kernel")].double().numpy().reshape(10, 4, 128) for rows in (fake, other)),
        strict=True,
    )
    distances = []
    for x, y in pairs:
        kernel = lambda a, b: (a @ b.T / 128 + 1) ** 3  # noqa: E731
        within = [(k.sum() - np.trace(k)) / (4 * 3) for k in (kernel(x, x), kernel(y, y))]
        distances.append(sum(within) - 2 * kernel(x, y).mean())
    found = metrics.kernel_distance(seen(fake), real(other))["distance/kernel"]
    assert found.value == pytest.approx(np.mean(distances), rel=1e-6)


def test_kernel_distance_of_one_distribution_has_no_bias() -> None:
    values = [
        metrics.kernel_distance(seen(drawn(200, seed)), real(drawn(200, 100 + seed)))["distance/kernel"].value
        for seed in range(20)
    ]
    error = np.std(values) / 20**0.5
    assert abs(np.mean(values)) < 3 * error
    away = metrics.kernel_distance(seen(drawn(200) + 0.5), real(drawn(200, 1)))["distance/kernel"]
    assert away.low > 0.5


@pytest.mark.parametrize(("classes", "confidence", "expected"), [(10, 50, 10), (5, 50, 5), (1, 50, 1), (10, 0, 1)])
def test_classifier_score_counts_the_classes_clearly_shown(classes: int, confidence: float, expected: float) -> None:
    logits = confidence * torch.eye(10)[torch.arange(1000) % classes]
    found = metrics.classifier_score(seen(drawn(1000), logits), real(drawn(10)))["score/classifier"]
    assert found.value == pytest.approx(expected, rel=1e-6)


def precision_and_recall(fake: Tensor, other: Tensor) -> tuple[float, float]:
    found = metrics.manifold_figures(seen(fake), real(other))
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
    beside[::4] += 1000  # a quarter is like nothing real
    precision, recall = precision_and_recall(beside, other)
    assert precision == pytest.approx(0.75, abs=0.01)
    assert recall > 0.9
    assert precision_and_recall(other[:1].repeat(100, 1), other)[1] < 0.02  # one image, again and again


def density_and_coverage(fake: Tensor, other: Tensor) -> tuple[float, float]:
    found = metrics.manifold_figures(seen(fake), real(other))
    return found["density"].value, found["coverage"].value


def test_density_and_coverage_are_the_papers_sums() -> None:
    fake, other = drawn(40, 1, 1.1), drawn(60, 2)
    # The order in which the rows are chosen says which real ones are compared: as many as there are generated ones.
    fakes, reals = fake[choose(40, 5000, "manifold")].double(), other[choose(60, 5000, "manifold")].double()[:40]
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


def test_noise_that_has_the_best_precision_covers_nothing() -> None:
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
    found = metrics.class_shares(seen(drawn(100), torch.eye(10)[labels]), real(drawn(10)))
    assert [found[f"classes/{label}"].value for label in (0, 3, 7, 9)] == pytest.approx([0.2, 0.5, 0.3, 0])
    # 0.4 and 0.2 and 0.1 too many in three classes, 0.1 too few in each of seven
    assert found["classes/from_uniform"].value == pytest.approx(0.7)
    margin = 1.96 * (0.5 * 0.5 / 100) ** 0.5
    assert found["classes/3"].low == pytest.approx(0.5 - margin)
    assert found["classes/9"].low == found["classes/9"].high == 0
    equal = metrics.class_shares(seen(drawn(100), torch.eye(10).repeat(10, 1)), real(drawn(10)))
    assert equal["classes/from_uniform"].value == pytest.approx(0, abs=1e-6)


def test_diversity_is_the_mean_distance_of_two() -> None:
    features = drawn(50)
    pairs = [(features[i] - features[j]).norm().item() for i in range(50) for j in range(i)]
    found = metrics.feature_diversity(seen(features), real(features))["diversity/features"]
    assert found.value == pytest.approx(np.mean(pairs), rel=1e-4)


def with_pixels(images: np.ndarray) -> Observed:
    pixels = torch.from_numpy(images).unsqueeze(1)
    return Observed(torch.zeros(len(images), 128), torch.eye(10)[torch.arange(len(images)) % 10], pixels)


def test_copies_are_at_distance_0_and_others_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    images = draw_images(300)
    train = with_pixels(images[:200])
    medians = torch.full((10,), 2.0)
    reference = Reference("none", train.features, train.pixels, held_out_nearest=medians)
    monkeypatch.setattr(metrics, "NEAREST_CHUNK", 64)
    copies = metrics.nearest_training_distance(with_pixels(images[50:150]), reference)
    assert copies["nearest/generated"] == copies["nearest/ratio"] == Estimate(0.0, 0.0, 0.0)
    others = metrics.nearest_training_distance(with_pixels(images[200:]), reference)
    x, y = (part.reshape(-1, 1, 784).astype(float) / 255 for part in (images[200:], images[:200]))
    nearest = np.sqrt(((x - y.transpose(1, 0, 2)) ** 2).sum(2)).min(1)
    median = float(torch.from_numpy(nearest).median())
    assert others["nearest/generated"].value == pytest.approx(median, rel=1e-5)
    assert others["nearest/ratio"].value == pytest.approx(median / 2, rel=1e-5)


def test_the_ratio_of_distances_does_not_mind_which_classes_come() -> None:
    """Of simple images, the nearest is near: that is no memory of the training images."""
    images = draw_images(300)
    train = with_pixels(images[:200])
    medians = torch.tensor([1.0] + [5.0] * 9)
    reference = Reference("none", train.features, train.pixels, held_out_nearest=medians)
    simple = dataclasses.replace(with_pixels(images[200:]), logits=torch.eye(10)[torch.zeros(100, dtype=torch.long)])
    found = metrics.nearest_training_distance(simple, reference)
    assert found["nearest/ratio"].value == pytest.approx(found["nearest/generated"].value)


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("distance/frechet", metrics.frechet_distance),
        ("distance/kernel", metrics.kernel_distance),
        ("score/classifier", metrics.classifier_score),
        ("precision", metrics.manifold_figures),
        ("recall", metrics.manifold_figures),
        ("density", metrics.manifold_figures),
        ("coverage", metrics.manifold_figures),
        ("classes/from_uniform", metrics.class_shares),
        ("diversity/features", metrics.feature_diversity),
    ],
)
def test_intervals_are_as_wide_as_chance_makes_them(name: str, figure: metrics.Figure) -> None:
    """The spread over many sets of one kind is the one that each set alone claims."""
    reference = real(drawn(400, 1000)[:, :8] @ torch.eye(8, 128))

    def fake(seed: int) -> Observed:
        features = drawn(400, seed, 1.3)[:, :8] @ torch.eye(8, 128)
        return seen(features, 2 * drawn(400, seed)[:, 10:20])

    found = [figure(fake(seed), reference)[name] for seed in range(30)]
    spread = np.std([estimate.value for estimate in found])
    claimed = np.mean([estimate.high - estimate.low for estimate in found]) / (2 * 1.96)
    assert 0.6 < spread / claimed < 1.6
    assert all(estimate.low <= estimate.value <= estimate.high for estimate in found)


def test_figures_are_the_same_every_time_and_over_any_ranks(digits: LabelledImages) -> None:
    """Whatever the global generator is at; that it stays there, a fixture sees to."""
    network = shipped().network
    some_seen, other_seen = observe(network, digits.images[::40]), observe(network, digits.images[1::40])
    reference = Reference("x", other_seen.features, other_seen.pixels)
    whole = compute_figures(some_seen, reference)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        shared = [compute_figures(some_seen, reference, rank, 3) for rank in range(3)]
    assert {name: figure for part in shared for name, figure in part.items()} == whole
    assert sum(len(part) for part in shared) == len(whole)


# The classifier


def test_the_shipped_classifier_knows_digits(digits: LabelledImages) -> None:
    classifier = shipped()
    assert classifier.id == "6a267eb79315"
    assert classifier.accuracy >= 0.993
    assert (classifier.classes, classifier.data_name) == (10, "mnist")
    assert not classifier.network.training
    assert not any(weight.requires_grad for weight in classifier.network.parameters())
    assert (Path(classifiers.__file__).parent / "digits.safetensors").stat().st_size < 1_000_000
    observed = observe(classifier.network, digits.images)
    assert (observed.logits.argmax(1) == digits.labels).double().mean() > 0.99
    assert observed.features.shape == (5000, 128)
    assert observed.features.min() == 0  # after a ReLU
    assert torch.allclose(observed.logits[:9], classifier.network(normalize(digits.images[:9])), atol=1e-4)
    assert classifier_for(DataConfig(name="qmnist"), quiet).id == classifier.id


def test_training_a_classifier_depends_on_its_arguments_alone(digits: LabelledImages) -> None:
    train, held_out = some(digits, 5), some(digits, 37)

    def one(global_seed: int, **arguments: int) -> classifiers.TrainedClassifier:
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


def test_a_classifiers_file(digits: LabelledImages, tmp_path: Path) -> None:
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
        ({"id": "0" * 12}, "does not hold the weights that were written"),
        ({"more": 1}, "a field is missing, or of another type"),
    ],
)
def test_a_classifier_that_is_described_wrongly_is_one_line(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    tensors, metadata = read_tensors(SHIPPED.read_bytes())
    told = json.loads(metadata["classifier"]) | change
    file = tmp_path / "some.safetensors"
    file.write_bytes(save(tensors, {"classifier": json.dumps(told)}))
    with pytest.raises(InputError, match=says) as refusal:
        load_classifier(file)
    assert "\n" not in str(refusal.value)


def test_a_damaged_installation_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "digits.safetensors").write_bytes(SHIPPED.read_bytes()[:-1])
    monkeypatch.setattr(classifiers.importlib.resources, "files", lambda package: tmp_path)
    with pytest.raises(InputError, match=r"digits\.safetensors of the package .* damaged .*; install gan_dist again"):
        shipped()


@pytest.mark.fuzz
@given(damage=damages())
def test_no_damage_to_a_classifier_is_a_traceback(damage: Damage, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / "damaged-classifier.safetensors"
    file.write_bytes(damage(SHIPPED.read_bytes()))
    assert loads_or_is_refused(lambda: load_classifier(file), InputError)


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
    train, test = (load_labelled(config, split, quiet) for split in ("train", "test"))
    assert torch.equal(train.images, load_images(settled(config, "local"), quiet).images)
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
    for split in ("train", "test"):
        found = load_labelled(DataConfig(name="qmnist", root=tmp_path), split, quiet)  # type: ignore[arg-type]
        assert found.labels.tolist() == classes_of(50).tolist()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, r"holds no train-labels-idx1-ubyte\[\.gz\] beside train-images-idx3-ubyte; put it there"),
        (b"", "is empty"),
        (labels_bytes(classes_of(200))[:-3], "truncated: 205 bytes instead of 208 for 200 labels"),
        (labels_bytes(classes_of(200))[:6], "less than an IDX header"),
        (labels_bytes(classes_of(200)) + b"x", "too long"),
        (idx_bytes(draw_images()), "no IDX file of labels: it begins with 0x00000803 instead of 0x00000801"),
        (labels_bytes(classes_of(199)), "holds 199 labels for the 200 images of"),
        (labels_bytes(classes_of(200) + np.uint8(1)), "holds other classes than 0 to 9"),
    ],
)
def test_labels_that_cannot_be_used_are_named(tmp_path: Path, content: bytes | None, says: str) -> None:
    file = write_data(tmp_path)
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    with pytest.raises(InputError, match=says) as refusal:
        load_labelled(DataConfig(root=tmp_path), "train", quiet)
    assert str(file.parent) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not isinstance(refusal.value, NoHeldOut)
    load_labelled(DataConfig(root=tmp_path), "test", quiet)


@pytest.mark.parametrize("missing", ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_missing_held_out_files_can_be_told_from_damaged_ones(tmp_path: Path, missing: str) -> None:
    file = write_data(tmp_path).with_name(missing)
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(NoHeldOut, match=missing):
        load_labelled(DataConfig(root=tmp_path), "test", quiet)
    file.write_bytes(content[:-1])
    with pytest.raises(InputError, match="truncated") as refusal:
        load_labelled(DataConfig(root=tmp_path), "test", quiet)
    assert not isinstance(refusal.value, NoHeldOut)


def test_the_sample_has_labels_and_no_held_out_images(digits: LabelledImages) -> None:
    assert torch.bincount(digits.labels).tolist() == [500] * 10
    with pytest.raises(NoHeldOut, match=r"--data\.root a copy of MNIST"):
        load_labelled(DataConfig(source="sample"), "test", quiet)


def test_held_out_images_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(tmp_path)
    published = dataclasses.replace(sources.HELD_OUT["mnist"], count=HELD_OUT, md5="0" * 32)
    monkeypatch.setitem(sources.HELD_OUT, "mnist", published)
    with pytest.raises(InputError, match="t10k-images-idx3-ubyte is not mnist: its md5 differs"):
        load_labelled(DataConfig(root=tmp_path), "test", quiet)


# What is kept


@pytest.fixture
def few_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = lambda *given: train_classifier(*given, epochs=1)  # noqa: E731
    monkeypatch.setattr(classifiers, "train_classifier", quick)


@pytest.mark.usefixtures("few_epochs")
def test_a_classifier_is_trained_once_for_a_data_set(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(tmp_path, "FashionMNIST")
    config = DataConfig(name="fashion-mnist", root=tmp_path)
    with pytest.raises(InputError, match=r"no classifier for data\.name=fashion-mnist yet; gan-dist evaluate RUN"):
        classifier_for(config, quiet, may_train=False)
    said: list[str] = []
    trained = classifier_for(config, said.append)
    assert trained.data_name == "fashion-mnist"
    assert sum("training a classifier of fashion-mnist" in line for line in said) == 1
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert classifier_for(config, quiet).id == trained.id  # made again
    monkeypatch.setattr(classifiers, "train_classifier", no_more)
    assert classifier_for(config, quiet, may_train=False).id == trained.id


def test_the_reference_is_kept_and_made_again_if_damaged(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(tmp_path)
    config, classifier = DataConfig(root=tmp_path), shipped()
    train = load_images(config, quiet)
    first = reference_for(config, train, classifier, quiet)
    assert first.features.shape == (200, 128)
    assert first.held_out_features is not None
    assert first.held_out_features.shape == (HELD_OUT, 128)
    assert first.floor["nearest/ratio"].value == pytest.approx(1, abs=0.1)
    held_out = load_labelled(config, "test", quiet)
    assert first.floor == compute_figures(observe(classifier.network, held_out.images), dataclasses.replace(first))

    def same(other: Reference) -> bool:
        pairs = ((getattr(first, field.name), getattr(other, field.name)) for field in dataclasses.fields(first))
        return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)

    (file,) = cache.iterdir()
    content = file.read_bytes()
    tensors, metadata = read_tensors(content)
    told = json.loads(metadata["reference"])
    names = ("distance/frechet", "diversity/features")
    figures = dict(zip(names, (told["floor"][name] for name in reversed(names)), strict=True))
    exchanged = told | {"floor": told["floor"] | figures}
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
    with monkeypatch.context() as patch:  # another figure is computed of the real images, too
        patch.setitem(metrics.FIGURES, "count", lambda observed, reference: {"count": Estimate(1.0, 1.0, 1.0)})
        assert "count" in reference_for(config, train, classifier, quiet).floor
        assert len(list(cache.iterdir())) == 2
    monkeypatch.setattr("gan_dist.evaluation.reference.build_reference", no_more)
    assert same(reference_for(config, train, classifier, quiet))
    with pytest.raises(pytest.fail.Exception):  # of another classifier there is none
        reference_for(config, train, dataclasses.replace(classifier, id="another"), quiet)


ESTIMATE = {"value": 1.0, "low": 0.5, "high": 2.0}


@pytest.mark.parametrize(
    ("floor", "says"),
    [
        ([], "is damaged"),
        ({"recall": 1.0}, "other fields"),
        ({"recall": ESTIMATE | {"more": 1.0}}, "other fields"),
        ({"recall": {"value": 1.0}}, "other fields"),
        ({"recall": ESTIMATE | {"low": "0.5"}}, "no finite number"),
        ({"recall": ESTIMATE | {"low": None}}, "no finite number"),
        ({"recall": ESTIMATE | {"high": math.inf}}, "no finite number"),
        ({"recall": ESTIMATE | {"high": math.nan}}, "no finite number"),
        ({"recall": ESTIMATE | {"high": 10**400}}, "no finite number"),
    ],
)
def test_kept_figures_that_no_run_computes_are_refused(floor: Any, says: str, tmp_path: Path) -> None:
    """Even where the digest fits."""
    file, pixels = tmp_path / "kept.safetensors", torch.zeros(3, 1, 28, 28, dtype=torch.uint8)
    tensors = {"features": torch.zeros(3, 128)}
    digest = references._sha256(tensors, floor) if isinstance(floor, dict) else ""
    file.write_bytes(save(tensors, {"reference": json.dumps({"floor": floor, "sha256": digest})}))
    with pytest.raises(BadFile, match=says):
        references._read(file, shipped(), pixels, None)


@pytest.mark.fuzz
@given(damage=damages(), fits=st.booleans())
def test_no_damage_to_what_is_kept_is_a_traceback(
    damage: Damage, fits: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With a digest that tells, and with one that fits whatever is there."""
    file = tmp_path_factory.getbasetemp() / "damaged-reference.safetensors"
    pixels, floor = torch.zeros(3, 1, 28, 28, dtype=torch.uint8), {"recall": Estimate(0.5, 0.4, 1.0)}
    whole = Reference("x", torch.ones(3, 128), pixels, torch.ones(2, 128), torch.ones(10), floor=floor)
    with pytest.MonkeyPatch.context() as patch:
        if fits:
            patch.setattr(references, "_sha256", lambda tensors, floor: "0")
        file.write_bytes(damage(references._content(whole)))
        assert loads_or_is_refused(lambda: references._read(file, shipped(), pixels, 2), BadFile)


def test_without_held_out_images_half_of_the_training_images_is_the_other_side(digits: LabelledImages) -> None:
    said: list[str] = []
    reference = reference_for(DataConfig(source="sample"), some(digits, 10), shipped(), said.append)
    assert len(said) == 1
    assert "one half of the training images" in said[0]
    assert reference.features.shape == (500, 128)
    assert reference.held_out_features is reference.held_out_nearest is None
    assert reference.floor["recall"].value > 0.6  # both halves have all classes, though the sample is sorted
    assert not any(name.startswith("nearest") for name in reference.floor)


def test_a_cache_that_cannot_be_written_is_announced(
    tmp_path: Path, digits: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GAN_DIST_CACHE", str(tmp_path / "file"))
    said: list[str] = []
    reference_for(DataConfig(source="sample"), some(digits, 20), shipped(), said.append)
    assert "can't be kept" in said[-1]
    assert "GAN_DIST_CACHE" in said[-1]


@pytest.mark.parametrize("kind", ["folder", "FIFO", "link"])
def test_what_lies_in_the_place_of_a_kept_file_does_no_harm(tmp_path: Path, kind: str) -> None:
    file, elsewhere = tmp_path / "kept" / "file", tmp_path / "elsewhere"
    file.parent.mkdir()
    elsewhere.write_bytes(b"mine")
    {"folder": file.mkdir, "FIFO": lambda: os.mkfifo(file), "link": lambda: file.symlink_to(elsewhere)}[kind]()
    said: list[str] = []
    keep(file, b"content", said.append)
    if kind == "folder":
        assert len(said) == 1
        assert f"{file} can't be kept (Is a directory)" in said[0]
    else:
        assert not said
        assert not file.is_symlink()
        assert file.read_bytes() == b"content"
    assert elsewhere.read_bytes() == b"mine"
    assert list(file.parent.iterdir()) == [file]


def test_too_few_training_images_are_not_evaluated(tmp_path: Path) -> None:
    write_split(tmp_path, "MNIST", "train-images-idx3-ubyte", "train-labels-idx1-ubyte", 39)
    config = DataConfig(root=tmp_path)
    with pytest.raises(InputError, match="holds 39 images; an evaluation needs 40 or more"):
        reference_for(config, load_images(config, quiet), shipped(), quiet)
    write_split(tmp_path, "MNIST", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", 20)
    assert reference_for(config, load_images(config, quiet), shipped(), quiet).floor


# The command


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps, with the data beside it."""
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
    assert shipped().id in shown
    assert f"{written['figures']['distance/frechet']['value']:.4g}" in shown
    assert f"{written['real']['distance/frechet']['value']:.4g}" in shown
    # Discs against noise: nothing is so far from the real images as what a network makes before it is trained.
    assert written["figures"]["distance/frechet"]["low"] > written["real"]["distance/frechet"]["high"]


def test_evaluate_against_other_images_says_so(trained: Path, tmp_path: Path) -> None:
    write_root(tmp_path, idx_bytes(draw_images(250)[100:]))
    said: list[str] = []
    found = evaluate_run(trained, said.append, count=100, root=tmp_path)
    assert any("was trained on other images" in line for line in said)
    assert found.data["count"] == 150
    assert "nearest/generated" not in found.real


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["RUN", "--count", "99"], "count=99 can't be used"),
        (["RUN", "--seed", "-1"], "seed=-1 can't be used"),
        (["RUN", "--data.root", "/nowhere"], "data.root=/nowhere holds no mnist"),
        (["/nowhere"], "/nowhere holds no generator.safetensors"),
        ([], "give either a RUN to evaluate, or --train-classifier FILE"),
    ],
)
def test_bad_words_are_one_line(trained: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", *(str(trained) if word == "RUN" else word for word in words)]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run and its data, to be damaged."""
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
        ("run/config.json", b'{"train": {"epochs": 0}}', "config.json can't be used (train.epochs=0 can't be used"),
        ("run/config.json", FIFO, "config.json is not a regular file"),
        ("run/config.json", None, "config.json can't be read"),
        ("run/generator.safetensors", FIFO, "generator.safetensors is not a regular file"),
        ("MNIST/raw/train-images-idx3-ubyte", None, "copied holds no mnist"),
        ("MNIST/raw/train-images-idx3-ubyte", b"x", "train-images-idx3-ubyte"),
        ("MNIST/raw/t10k-labels-idx1-ubyte", b"x", "t10k-labels-idx1-ubyte"),
    ],
)
def test_evaluating_what_is_damaged_is_one_line(
    copied: Path, file: str, content: bytes | None, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = copied.parent / file
    damaged.unlink()
    if content == FIFO:
        os.mkfifo(damaged)
    elif content is not None:
        damaged.write_bytes(content)
    assert cli.main(["evaluate", str(copied), "--count", "100"]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("content", [b"{}", b'{"data": []}', b'{"data": {"source": 3, "sha256": []}}', b"[", FIFO])
def test_a_run_can_be_evaluated_without_its_environment(
    copied: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is known of the data is then not checked, which is said where there is a file that can't be read."""
    (copied / "environment.json").unlink()
    if content == FIFO:
        os.mkfifo(copied / "environment.json")
    else:
        (copied / "environment.json").write_bytes(content)
    assert cli.main(["evaluate", str(copied), "--count", "100"]) == 0
    checked = "whether the real images are those of the training is not checked" in capsys.readouterr().out
    assert checked == (content in (b"[", FIFO))


def test_the_shipped_file_is_made_by_a_command(tmp_path: Path) -> None:
    write_data(tmp_path).with_name("t10k-labels-idx1-ubyte").write_bytes(labels_bytes(np.full(HELD_OUT, 3, np.uint8)))
    config, file = DataConfig(root=tmp_path), tmp_path / "new.safetensors"
    made = make_shipped_classifier(config, file, quiet, epochs=1)
    assert load_classifier(file).id == made.id
    held_out = load_labelled(config, "test", quiet)
    right = made.network(normalize(held_out.images)).argmax(1) == held_out.labels
    assert made.accuracy == pytest.approx(right.double().mean().item())
    with pytest.raises(InputError, match="can't be written"):
        make_shipped_classifier(config, tmp_path / "no" / "folder", quiet, epochs=1)


def test_quantize_is_what_a_file_holds() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(quantize(normalize(pixels)), pixels)


def test_build_reference_reads_and_keeps_nothing(digits: LabelledImages, cache: Path) -> None:
    build_reference(shipped(), some(digits, 50), some(digits, 70))
    assert not cache.exists()
