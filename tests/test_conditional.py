"""Runs with labels: in the networks, in a step, in what a run shows, and in what is made of it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import (
    TRAIN,
    assert_same_end,
    draw_images,
    environment,
    figures,
    idx_bytes,
    labels_bytes,
    launcher,
    picture_size,
    run_command,
    train_here,
    write_root,
)
from PIL import Image
from safetensors.torch import load_file
from stepping import at
from torch import Tensor

from gan_dist import cli, load_generator
from gan_dist.config import Config, DataConfig, InputError, ModelConfig, validate
from gan_dist.config.stored import from_dict
from gan_dist.data.batch import Batch
from gan_dist.data.sources import load_held_out, load_images
from gan_dist.evaluation.accuracy_score import classification_accuracy_score
from gan_dist.evaluation.classifier_training import train_classifier
from gan_dist.gan.labels import DrawnLabels, NoLabels, PairedLabels
from gan_dist.gan.latents import Draws
from gan_dist.gan.penalties import NoPenalty, OneCenteredPenalty, ZeroCenteredPenalty
from gan_dist.models import ARCHITECTURES, build_pair, count_classes
from gan_dist.models.labels import Projection
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.pictures import COLUMNS, first_of_classes
from gan_dist.outputs.records import read_json, read_json_lines
from gan_dist.results.classes import choose_labels, find_class
from gan_dist.results.evaluate import RunOptions, evaluate_run
from gan_dist.seeding import LATENT_BLOCK, sample_labels
from gan_dist.tensors import read_tensors, tensor_bytes

SHAPE = (1, 28, 28)
CPU = torch.device("cpu")
COUNTS = (90, 60, 50)  # training images of each class
Flags = Callable[..., list[str]]


def some_images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def write_arrays(file: Path, counts: tuple[int, ...] = COUNTS) -> None:
    """Discs whose classes alternate, and a tenth as many held-out ones."""
    images = draw_images(sum(counts) + 30)
    labels = np.repeat(np.arange(len(counts)), counts)
    np.random.default_rng(1).shuffle(labels)
    train = sum(counts)
    held_out = np.arange(30) % len(counts)
    np.savez(file, x_train=images[:train], y_train=labels, x_test=images[train:], y_test=held_out)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("arrays") / "discs.npz"
    write_arrays(file)
    return file


def conditional(flags: Flags, data: Path, folder: Path, *more: str) -> list[str]:
    words = flags(folder, "--wandb.mode", "disabled", "--model.labels", "conditional", "--model.hidden-dim", "32")
    return [*words, "--data.name", "arrays", "--data.root", str(data), *more]


@pytest.fixture(scope="module")
def trained(arrays: Path, flags: Flags, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("trained") / "run")
    assert train_here(conditional(flags, arrays, folder.path, "--train.steps", "20")) == 0
    return folder


# --- the networks

CONDITIONAL = [name for name, architecture in ARCHITECTURES.items() if architecture.conditional]


@pytest.mark.parametrize("name", CONDITIONAL)
def test_every_label_changes_the_image_and_the_logit(name: str) -> None:
    generator, discriminator = build_pair(ModelConfig(architecture=name), SHAPE, 0, classes=3)
    latents, labels = torch.ones(3, 64), torch.arange(3)
    for outputs in (generator(latents, labels), discriminator(some_images(1).expand(3, -1, -1, -1), labels)):
        assert len(outputs.flatten(1 if outputs.ndim > 1 else 0).unique(dim=0)) == 3
    for network, inputs in ((generator, latents), (discriminator, some_images(3))):
        with pytest.raises(ValueError, match="this network is conditional: pass labels"):
            network(inputs)


@pytest.mark.parametrize("name", CONDITIONAL)
def test_without_classes_the_networks_are_those_without_labels(name: str) -> None:
    """The same weights, by name, and the same outputs whatever the labels."""
    plain, conditional = (build_pair(ModelConfig(architecture=name), SHAPE, 0, classes) for classes in (0, 3))
    for network, other in zip(plain, conditional, strict=True):
        extra = other.state_dict().keys() - network.state_dict().keys()
        assert len(extra) == 1
        assert not network.state_dict().keys() - other.state_dict().keys()
    images = some_images(3)
    assert torch.equal(plain[1](images), plain[1](images, torch.arange(3)))


@pytest.mark.parametrize("name", CONDITIONAL)
def test_the_logit_is_that_of_all_classes_and_a_projection(name: str) -> None:
    """Without the embeddings it is linear in the last features; an embedding adds its inner product with them."""
    _, discriminator = build_pair(ModelConfig(architecture=name), SHAPE, 0, classes=2)
    (embedding,) = (module for module in discriminator.modules() if isinstance(module, torch.nn.Embedding))
    images, labels = some_images(4), torch.tensor([0, 1, 0, 1])
    before = discriminator(images, labels)
    with torch.no_grad():
        embedding.weight[1] *= 2
    after = discriminator(images, labels)
    assert torch.equal(before[labels == 0], after[labels == 0])
    with torch.no_grad():
        embedding.weight[1] = 0
    without = discriminator(images, labels)
    assert torch.allclose((after - without)[1::2], 2 * (before - without)[1::2], atol=1e-5)


@pytest.mark.parametrize("name", CONDITIONAL)
def test_the_embedding_of_the_discriminator_changes_as_slowly_as_that_of_the_generator(name: str) -> None:
    """Adam's steps have the size of the learning rate, so slow means that the weights are large."""
    pair = build_pair(ModelConfig(architecture=name, initialization="he"), SHAPE, 0, classes=50)
    for network in pair:
        (embedding,) = (module for module in network.modules() if isinstance(module, torch.nn.Embedding))
        assert 0.9 < embedding.weight.std() < 1.1


def test_a_projection_has_the_size_of_a_feature() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        features, projection = torch.randn(2_000, 256), Projection(50, 256)
    added = projection(torch.zeros(2_000), features, torch.arange(2_000) % 50)
    assert 0.9 < added.std() < 1.1


# --- a step


def drawn(rank: int, ranks: int, counts: tuple[int, ...] = COUNTS, size: int = 3_000) -> DrawnLabels:
    return DrawnLabels(torch.tensor(counts), Draws(0, size, rank, ranks, CPU))


def test_labels_of_fake_images_have_the_frequencies_of_the_data_on_any_number_of_ranks() -> None:
    batch = Batch(some_images(1), torch.zeros(1, dtype=torch.int64))
    whole = at(7, drawn(0, 1, (90, 0, 60, 50))).fake(batch, "generator")
    assert whole is not None
    shares = torch.bincount(whole, minlength=4) / len(whole)
    assert torch.allclose(shares, torch.tensor([0.45, 0.0, 0.3, 0.25]), atol=0.03)
    parts = [at(7, drawn(rank, 3, (90, 0, 60, 50))).fake(batch, "generator") for rank in range(3)]
    assert all(part is not None for part in parts)
    assert torch.equal(torch.cat([part for part in parts if part is not None]), whole)
    for step, purpose in ((8, "generator"), (7, "discriminator")):
        other = at(step, drawn(0, 1)).fake(batch, purpose)
        assert other is not None
        assert not torch.equal(other, whole)


def test_paired_labels_are_those_of_the_real_images() -> None:
    batch = Batch(some_images(2), torch.tensor([1, 0]))
    for labels, expected in ((PairedLabels(), batch.labels), (NoLabels(), None)):
        assert labels.real(batch) is expected
        assert labels.fake(batch, "discriminator") is expected
    assert drawn(0, 1).real(batch) is batch.labels


def test_penalties_are_at_each_image_with_its_own_label() -> None:
    """D(x, y) = (1 + y) |x|^2 / 2, whose gradient is (1 + y) x."""

    def critic(images: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        return (1 + labels) * images.flatten(1).square().sum(1) / 2

    real, fake = Batch(some_images(3, 1), torch.tensor([0, 1, 2])), Batch(some_images(3, 2), torch.tensor([2, 2, 0]))

    def squares(batch: Batch) -> Tensor:
        assert batch.labels is not None
        return ((1 + batch.labels).view(-1, 1) * batch.images.flatten(1)).square().sum(1)

    output = ZeroCenteredPenalty(critic, 1.0, 1.0, torch.ones(()))(real, fake)
    assert torch.allclose(output.figures["penalty/r1"], squares(real).mean() / 2)
    assert torch.allclose(output.figures["penalty/r2"], squares(fake).mean() / 2)
    for penalty in (NoPenalty(critic), ZeroCenteredPenalty(critic, 0.0, 1.0, torch.ones(()))):
        plain = penalty(real, fake)
        assert torch.allclose(plain.real_logits, output.real_logits)
        assert torch.allclose(plain.fake_logits, output.fake_logits)
    paired = fake._replace(labels=real.labels)
    ones = OneCenteredPenalty(critic, 1.0, lambda: torch.ones(3))  # at the real images
    expected = (squares(real).sqrt() - 1).square().mean()
    assert torch.allclose(ones(real, paired, *ones.draw()).figures["penalty/gradient"], expected)


# --- runs


@pytest.mark.slow
@pytest.mark.processes(2)
@pytest.mark.parametrize("labels", ["drawn", "paired"])
def test_one_process_and_two_train_bit_for_bit_alike_and_resume(
    labels: str, arrays: Path, flags: Flags, tmp_path: Path
) -> None:
    """In bf16 with R1 and an average; the second run is stopped on two processes and ends on one."""
    more = ["--train.exact-shards", "2", "--train.mixed-precision", "bf16", "--train.fake-labels", labels]
    more += ["--penalty.r1", "1", "--penalty.r2", "1", "--train.loss", "relativistic", "--ema.half-life", "100"]
    folders = [RunFolder(tmp_path / name) for name in ("whole", "pieces")]
    whole, pieces = (conditional(flags, arrays, folder.path, *more) for folder in folders)
    assert train_here([*whole, "--train.steps", "14"]) == 0
    ended = run_command(*launcher(2), TRAIN, *pieces, "--train.steps", "7")
    assert ended.code == 0, ended.err
    assert train_here([*pieces, "--train.steps", "14"]) == 0
    assert_same_end(*folders, 14)


def test_accumulation_with_labels_gives_the_update_of_the_whole_batch(
    arrays: Path, flags: Flags, tmp_path: Path
) -> None:
    folders = [RunFolder(tmp_path / str(parts)) for parts in (1, 4)]
    for folder, parts in zip(folders, ("1", "4"), strict=True):
        words = conditional(flags, arrays, folder.path, "--train.steps", "10", "--train.accumulation", parts)
        assert train_here([*words, "--penalty.gradient", "10", "--train.fake-labels", "paired"]) == 0
    for a, b in zip(*map(figures, folders), strict=True):
        assert a == pytest.approx(b, rel=1e-3)


def test_samples_have_a_row_a_class(trained: RunFolder) -> None:
    side = 28 + 2
    for file in (trained.real_samples, trained.epoch_samples(1)):
        assert picture_size(file) == (COLUMNS * side + 2, len(COUNTS) * side + 2)
    assert "3, conditional; labels of generated images drawn" not in trained.config.read_text()


def test_the_first_images_of_a_class_fill_its_row() -> None:
    labels = torch.tensor([1, 0, 0, 1, 3])
    rows = labels[first_of_classes(labels, 4)].view(-1, COLUMNS)
    assert rows.tolist() == [[label] * COLUMNS for label in (0, 1, 3)]
    assert first_of_classes(labels, 4)[:3].tolist() == [1, 2, 1]


def test_an_evaluation_has_the_figures_of_classes_beside_those_of_real_images(
    arrays: Path, flags: Flags, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = conditional(flags, arrays, tmp_path / "run", "--train.steps", "10")
    assert cli.main(["data", *words, "--output", str(tmp_path / "data.png")]) == 0  # trains the classifier
    words += ["--evaluate.every-epochs", "1", "--evaluate.count", "300"]
    assert train_here(words) == 0
    folder = RunFolder(tmp_path / "run")
    (row,) = read_json_lines(folder.evaluations)
    names = {"asked/obtained", "within/frechet", "asked/0", "asked/1", "within/0", "within/1"}
    assert names <= row.keys()
    assert {"asked/obtained", "asked/0"} <= set(folder.floor.read_text().replace('"', " ").split())
    capsys.readouterr()
    assert cli.main(["evaluate", str(folder.path), "--count", "300"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in names)
    # The same latents and labels as during the training.
    assert f"{row['asked/obtained']:.4g}" in shown
    assert "score/accuracy" not in shown
    assert cli.main(["evaluate", str(folder.path), "--count", "300", "--accuracy-score"]) == 0
    written = read_json(folder.evaluation)
    assert 0 <= written["figures"]["score/accuracy"]["value"] <= 1
    assert written["real"]["score/accuracy"]["value"] == written["classifier_accuracy"]


@pytest.mark.slow
def test_the_accuracy_score_is_the_accuracy_of_a_classifier_of_generated_images(arrays: Path) -> None:
    """Real images in place of generated ones have the accuracy of the classifier of real images. With the classes of
    other images, a classifier learns nothing.
    """
    config = DataConfig(name="arrays", root=arrays)
    train, held_out = load_images(config, print), load_held_out(config, print)
    left = [
        (images.images[:, 0, :, :14].sum((1, 2)) > images.images.sum((1, 2, 3)) / 2) for images in (train, held_out)
    ]
    spec = dataclasses.replace(train.spec, classes=("right", "left"))
    train, held_out = (
        dataclasses.replace(images, labels=labels.long(), spec=spec)
        for images, labels in zip((train, held_out), left, strict=True)
    )
    assert train.labels is not None
    expected = train_classifier(train, held_out, print).accuracy
    score = classification_accuracy_score(train.images, train.labels, train, held_out, print)
    assert score.value == expected > 0.9
    shuffled = train.labels[torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(0))]
    score = classification_accuracy_score(train.images, shuffled, train, held_out, print)
    assert score.value < 0.8
    assert score.low < score.value < score.high


# --- what is made of a run


def test_the_generator_of_a_run_takes_latents_and_labels(trained: RunFolder) -> None:
    generator = load_generator(trained.path)
    assert (generator.latent_dim, generator.shape, generator.classes) == (64, SHAPE, ("0", "1", "2"))
    assert torch.equal(generator.class_counts, torch.tensor(COUNTS))
    latents = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    images = generator(latents, torch.tensor([0, 1, 2, 2]))
    assert images.shape == (4, *SHAPE)
    assert not torch.equal(images, generator(latents, torch.tensor([1, 1, 2, 2])))


def test_a_description_without_classes_is_refused(trained: RunFolder, tmp_path: Path) -> None:
    tensors, metadata = read_tensors(trained.generator.read_bytes())
    file = tmp_path / "generator.safetensors"
    for counts, says in {
        None: "metadata lack 'class_counts'",
        "[1, 2]": "class_counts are not one number for each class",
        "[1, 2, -3]": "class_counts are not positive whole numbers",
        '[1, 2, "3"]': "class_counts are not positive whole numbers",
    }.items():
        changed = {name: value for name, value in metadata.items() if name != "class_counts"}
        changed |= {} if counts is None else {"class_counts": counts}
        file.write_bytes(tensor_bytes(tensors, changed))
        with pytest.raises(InputError, match=says):
            load_generator(file)


def test_labels_of_samples_have_the_frequencies_of_the_data() -> None:
    counts = torch.tensor([90, 0, 60, 50])
    many = sample_labels(4 * LATENT_BLOCK + 7, counts, seed=3)
    assert torch.allclose(torch.bincount(many, minlength=4) / len(many), counts / counts.sum(), atol=0.05)
    for count in (1, LATENT_BLOCK, LATENT_BLOCK + 1):
        assert torch.equal(sample_labels(count, counts, seed=3), many[:count])
    assert not torch.equal(sample_labels(len(many), counts, seed=4), many)


def test_sample_draws_a_row_for_each_class_that_is_asked_for(
    trained: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, array = tmp_path / "grid.png", tmp_path / "samples.npz"
    assert cli.main(["sample", str(trained.path), "--labels", "2,0", "--count", "7", "--output", str(picture)]) == 0
    assert picture_size(picture) == (4 * 30 + 2, 2 * 30 + 2)
    with Image.open(picture) as grid:
        last = np.asarray(grid)[34:60, 94:120]
    assert (last == 128).all()  # 4 images of class 2, and 3 of class 0
    assert cli.main(["sample", str(trained.path), "--label", "1", "--count", "9", "--output", str(array)]) == 0
    with np.load(array) as content:
        assert content["labels"].tolist() == [1] * 9
        assert content["images"].shape == (9, *SHAPE)
    assert cli.main(["sample", str(trained.path), "--count", "300", "--output", str(array), "--force"]) == 0
    with np.load(array) as content:
        assert np.array_equal(content["labels"], sample_labels(300, torch.tensor(COUNTS), 0).numpy())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--label", "7"], "label=7 is not a class of this run; choose from 0, 1, 2"),
        (["--labels", "0,x"], "labels=x is not a class of this run; choose from 0, 1, 2"),
        (["--labels", "0,1,2", "--count", "2"], "labels has 3 classes, more than count=2; use a higher count"),
        (["--labels", "0", "--label", "1"], "label and labels exclude each other; omit one of them"),
    ],
)
def test_a_class_that_is_not_there_is_one_line(
    words: list[str], says: str, trained: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "grid.png"
    assert cli.main(["sample", str(trained.path), "--output", str(output), *words]) == 2
    assert capsys.readouterr().err == f"gan-dist: {says}\n"
    assert not output.exists()


def test_classes_are_found_by_name_or_number() -> None:
    names = ("cat", "dog", "10")
    assert find_class("dog", names, "labels") == 1
    assert find_class("10", names, "labels") == 2
    with pytest.raises(InputError, match=r"label=dogs is not a class of this run; did you mean dog\? choose from cat"):
        find_class("dogs", names, "label")
    animals = ("cat", "dog")
    assert find_class("1", animals, "labels") == 1
    with pytest.raises(
        InputError, match="label=2 is not a class of this run; choose from cat, dog, or a number from 0"
    ):
        find_class("2", animals, "label")
    many = tuple(f"class {i}" for i in range(500))
    with pytest.raises(InputError, match=r"label=class 777 is not a class .*, … \(500 classes\)") as found:
        find_class("class 777", many, "label")
    assert len(str(found.value)) < 500


def test_labels_asked_of_an_unconditional_run_are_refused(data_root: Path, flags: Flags, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert train_here(flags(folder.path, "--wandb.mode", "disabled", "--train.steps", "2")) == 0
    generator = load_generator(folder.path)
    assert generator.classes is None
    assert choose_labels(generator, 5, 0) is None
    with pytest.raises(InputError, match="accuracy-score is for conditional runs"):
        evaluate_run(folder.path, print, RunOptions(accuracy_score=True))
    with pytest.raises(InputError, match="labels=0,1 is for conditional runs, and this one is not; omit it"):
        choose_labels(generator, 5, 0, ["0", "1"])


# --- what is refused


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"data": {"labels": "none"}}, "model.labels=conditional is incompatible with data.labels=none"),
        ({"data": {"stack": 3}}, "model.labels=conditional is incompatible with data.stack"),
        ({"penalty": {"gradient": 10.0}}, "requires train.fake_labels=paired"),
    ],
)
def test_combinations_that_have_no_labels_are_refused(values: dict[str, Any], says: str) -> None:
    config = from_dict(values | {"model": {"labels": "conditional"}})
    with pytest.raises(InputError, match=says):
        validate(config)


def test_an_architecture_without_labels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "mlp", ARCHITECTURES["mlp"]._replace(conditional=False))
    with pytest.raises(InputError, match=r"model\.labels=conditional is not supported by model\.architecture=mlp; use"):
        count_classes(ModelConfig(labels="conditional"), ("a", "b"))
    assert count_classes(ModelConfig(), ("a", "b")) == 0


def test_data_without_labels_are_refused_before_anything_is_written(
    data_root: Path, flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = flags(tmp_path / "run", "--wandb.mode", "disabled", "--model.labels", "conditional")
    assert train_here(words) == 2
    says = "model.labels=conditional requires classes, and the data have none; use data with labels, or omit it"
    assert capsys.readouterr().err == f"gan_dist: {says}\n"
    assert not (tmp_path / "run").exists()


def test_a_class_without_images_is_refused(flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_root(tmp_path, idx_bytes(draw_images()))
    labels = np.arange(200, dtype=np.uint8) % 8
    write_root(tmp_path, labels_bytes(labels), "MNIST/raw/train-labels-idx1-ubyte")
    words = conditional(flags, tmp_path, tmp_path / "run", "--data.name", "mnist")
    assert train_here(words) == 2
    says = "has none of 8 and 1 more; add images, remove the class, or omit model.labels"
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change", ["labels", "classes"])
def test_a_run_is_not_resumed_with_other_labels(
    change: str, trained: RunFolder, arrays: Path, flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, data = RunFolder(tmp_path / "run"), tmp_path / arrays.name
    shutil.copytree(trained.path, folder.path)
    with np.load(arrays) as content:
        changed = dict(content)
    if change == "labels":
        changed["y_train"] = changed["y_train"][::-1]
    else:
        changed["y_train"] = np.where(np.arange(len(changed["y_train"])) % 20, changed["y_train"], 3)
    np.savez(data, **changed)
    before = {file: file.read_bytes() for file in folder.path.rglob("*.safetensors")}
    assert train_here(conditional(flags, data, folder.path, "--train.steps", "30")) == 2
    says = {"labels": "the classes of some images have changed", "classes": "it had 3 classes, now 4 (with 3)"}
    assert f"was trained with other labels: {says[change]}; restore the labels" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in folder.path.rglob("*.safetensors")} == before


def test_an_unconditional_run_says_that_the_classes_are_not_used(
    arrays: Path, flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = flags(tmp_path / "run", "--wandb.mode", "disabled", "--train.steps", "1")
    assert train_here([*words, "--data.name", "arrays", "--data.root", str(arrays)]) == 0
    assert "3, not used (--model.labels conditional trains with them)" in capsys.readouterr().out
    weights = load_file(tmp_path / "run" / "generator.safetensors")
    assert not any("embedding" in name for name in weights)
    assert Config().model.labels == "none"
    assert "WANDB_MODE" not in environment()
