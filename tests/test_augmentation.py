"""Augmentation of what the discriminator sees: values, gradients, randomness, the adaptive probability, runs."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, assert_same_end, draw_images, figures, launcher, picture_size, run_command, train_here
from conftest import TRAIN as SCRIPT
from PIL import Image
from stepping import at, discriminator_step, generator_step
from test_training import BATCH, make_gan, real_batch
from torch import Tensor

from gan_dist import cli
from gan_dist.config import AugmentConfig, Config, DataConfig, InputError, PenaltyConfig, validate, warnings
from gan_dist.config.rules import SAFE_PROBABILITY
from gan_dist.data.batch import Batch
from gan_dist.evaluation.diagnosis import augment_or
from gan_dist.evaluation.history import History
from gan_dist.gan.augmentation import (
    NO_AUGMENTATION,
    OVERFITTING,
    TRANSFORMATIONS,
    RandomAugmentation,
    colour,
    cutout,
    flip,
    overfitting,
    translation,
)
from gan_dist.gan.latents import Draws
from gan_dist.gan.penalties import NoPenalty, OneCenteredPenalty, ZeroCenteredPenalty
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json_lines
from gan_dist.trainer.augmentation import AdaptiveProbability, ConstantProbability, make_probability
from gan_dist.trainer.networks import make_augmentation
from gan_dist.trainer.schedule import ADAPT_STEPS, Schedule
from gan_dist.trainer.start import _is_augmentation

CPU = torch.device("cpu")
NAMES = tuple(TRANSFORMATIONS)
YES = torch.tensor([True])
Flags = Callable[..., list[str]]


def some_images(count: int, shape: tuple[int, ...] = (3, 9, 8), dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(count, *shape, dtype=dtype, generator=torch.Generator().manual_seed(0)) * 2 - 1


def make(
    probability: float = 0.5,
    size: int = 6,
    rank: int = 0,
    ranks: int = 1,
    names: tuple[str, ...] = NAMES,
    seed: int = 0,
) -> RandomAugmentation:
    return RandomAugmentation(names, torch.tensor(probability), False, Draws(seed, size, rank, ranks, CPU))


def numbers(*values: float) -> Tensor:
    return torch.tensor([[*values, 0.0, 0.0, 0.0][:3]])


# --- the transformations, against loops over the pixels of one image


def test_colour_changes_brightness_saturation_and_contrast() -> None:
    image = some_images(1)
    seen = colour(image, YES, numbers(0.7, 0.1, 0.9))
    brighter = image[0].numpy() + 0.2
    gray = brighter.mean(0)
    saturated = np.stack([gray + 2 * 0.1 * (channel - gray) for channel in brighter])
    expected = saturated.mean() + 1.4 * (saturated - saturated.mean())
    assert np.allclose(seen[0].numpy(), expected, atol=1e-6)


def test_grey_images_have_no_saturation() -> None:
    image = some_images(1, (1, 8, 8))
    low, high = (colour(image, YES, numbers(0.7, saturation, 0.9)) for saturation in (0.0, 0.99))
    assert torch.equal(low, high)


@pytest.mark.parametrize(("u", "down"), [(0.0, -2), (0.21, -1), (0.5, 0), (0.7, 1), (0.999, 2)])
def test_a_translation_fills_the_border_with_the_middle_of_the_range(u: float, down: int) -> None:
    """A side of 16 moves by -2 to 2, each with the same share of the numbers; one of 24 by -3 to 3."""
    image = some_images(1, (2, 16, 24))
    seen = translation(image, YES, numbers(u, 0.999))
    expected = np.zeros((2, 16, 24), dtype=np.float32)
    for row, column in itertools.product(range(16), range(24)):
        if 0 <= row - down < 16 and column >= 3:
            expected[:, row, column] = image[0, :, row - down, column - 3]
    assert np.array_equal(seen[0].numpy(), expected)


@pytest.mark.parametrize(("u", "first"), [(0.0, -2), (0.5, 2), (0.999, 6)])
def test_cutout_is_a_square_of_half_the_side(u: float, first: int) -> None:
    """Its center is between the edges of the image, so a part of it may be outside."""
    image = some_images(1, (2, 8, 8))
    seen = cutout(image, YES, numbers(u, 0.5))
    expected = image[0].clone()
    for row, column in itertools.product(range(8), range(8)):
        if first <= row < first + 4 and 2 <= column < 6:
            expected[:, row, column] = 0
    assert torch.equal(seen[0], expected)


def test_half_of_the_flips_flip() -> None:
    image = some_images(1)
    assert torch.equal(flip(image, YES, numbers(0.49)), image.flip(3))
    assert torch.equal(flip(image, YES, numbers(0.5)), image)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_transformation_that_is_not_applied_changes_no_bit(name: str, dtype: torch.dtype) -> None:
    images = some_images(64).to(dtype)
    drawn = torch.rand(64, 3, generator=torch.Generator().manual_seed(1))
    applied = torch.arange(64) % 2 == 0
    seen = TRANSFORMATIONS[name](images, applied, drawn)
    assert seen.dtype == dtype
    assert torch.equal(seen[~applied], images[~applied])
    changed = (seen != images).flatten(1).any(1)
    assert changed[applied].float().mean() > (0.3 if name == "flip" else 0.8)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_first_and_second_order(name: str) -> None:
    augmentation = make(0.9, size=3, names=(name,))
    drawn = at(1, augmentation).draw("x")[:, 0].clone()
    images = some_images(3, (3, 6, 5), torch.double).requires_grad_()
    with torch.random.fork_rng():  # the checks draw from the global generator
        assert torch.autograd.gradcheck(lambda x: augmentation(x, drawn), images)
        assert torch.autograd.gradgradcheck(lambda x: augmentation(x, drawn).pow(3), images)


# --- random numbers


def test_the_probability_is_that_of_each_transformation_by_itself() -> None:
    augmentation = make(0.3, size=4_000)
    applied = at(1, augmentation).draw("x")[:, 0, :, 0] < augmentation.probability
    assert torch.allclose(applied.float().mean(0), torch.full((len(NAMES),), 0.3), atol=0.03)
    both = (applied[:, 0] & applied[:, 1]).float().mean()
    assert both == pytest.approx(0.09, abs=0.02)


def test_real_and_generated_images_get_independent_numbers_of_one_distribution() -> None:
    real, fake = at(3, make(size=4_000)).draw("generator").flatten(2).unbind(1)
    for quantile in (0.1, 0.5, 0.9):
        assert torch.allclose((real < quantile).float().mean(0), (fake < quantile).float().mean(0), atol=0.06)
    together = torch.corrcoef(torch.cat([real, fake], 1).T) - torch.eye(2 * real.shape[1])
    assert together.abs().max() < 0.08


@pytest.mark.parametrize("ranks", [2, 4])
def test_every_number_of_ranks_sees_the_same_images(ranks: int) -> None:
    images = some_images(8)
    whole = make(size=8)
    seen = whole(images, at(5, whole).draw("discriminator")[:, 1])
    shares = [make(size=8, rank=rank, ranks=ranks) for rank in range(ranks)]
    parts = [
        share(part, at(5, share).draw("discriminator")[:, 1])
        for share, part in zip(shares, images.chunk(ranks), strict=True)
    ]
    assert torch.equal(torch.cat(parts), seen)
    assert not torch.equal(seen, images)


def test_numbers_depend_on_seed_step_and_purpose() -> None:
    first = at(1, make()).draw("generator").clone()
    assert torch.equal(at(1, make()).draw("generator"), first)
    for other in (
        at(2, make()).draw("generator"),
        at(1, make()).draw("discriminator"),
        at(1, make(seed=1)).draw("generator"),
    ):
        assert not torch.equal(other, first)


def test_a_changed_probability_is_read_from_the_tensor() -> None:
    """As a CUDA graph reads it, which has the tensor's address."""
    augmentation, images = make(0.0), some_images(6)
    drawn = at(1, augmentation).draw("x")[:, 0]
    assert torch.equal(augmentation(images, drawn), images)
    augmentation.probability.fill_(1.0)
    assert (augmentation(images, drawn) != images).flatten(1).any(1).all()


def test_order_of_the_names_does_not_matter() -> None:
    images, (a, b) = some_images(6), (make(1.0, names=names) for names in (NAMES, NAMES[::-1]))
    assert torch.equal(a(images, at(1, a).draw("x")[:, 0]), b(images, at(1, b).draw("x")[:, 0]))


# --- in a step


def critic(images: Tensor, labels: Tensor | None) -> Tensor:
    """D(x) = |x|^2 / 2, whose gradient is x; labels are checked on the way."""
    assert labels is None or torch.equal(labels, torch.arange(len(images)) % 3)
    return images.flatten(1).square().sum(1) / 2


def batches(augmentation: RandomAugmentation) -> tuple[Batch, Batch]:
    real, fake = at(1, augmentation).draw("discriminator").clone().unbind(1)
    labels = torch.arange(6) % 3
    return Batch(some_images(6), labels, real), Batch(some_images(12)[6:], labels, fake)


@pytest.mark.parametrize("gammas", [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0)])
def test_the_critic_sees_augmented_images_and_penalties_are_at_the_images_before(gammas: tuple[float, float]) -> None:
    """The gradient of |T x|^2 / 2, with T x = A x + b, is A' T x."""
    augmentation = make(0.8)
    real, fake = batches(augmentation)
    penalty = ZeroCenteredPenalty(critic, *gammas, torch.ones(()), augmentation)(real, fake)
    for batch, logits, name in ((real, penalty.real_logits, "penalty/r1"), (fake, penalty.fake_logits, "penalty/r2")):
        x = batch.images.clone().requires_grad_()
        seen = augmentation(x, batch.augmentation)
        assert torch.allclose(logits, critic(seen, batch.labels))
        (at_x,) = torch.autograd.grad(seen, x, seen)
        if name in penalty.figures:
            assert torch.allclose(penalty.figures[name], at_x.flatten(1).square().sum(1).mean() / 2)
    plain = NoPenalty(critic_without_labels, augmentation)(real._replace(labels=None), fake._replace(labels=None))
    assert torch.allclose(plain.real_logits, penalty.real_logits)
    assert torch.allclose(plain.fake_logits, penalty.fake_logits)


def critic_without_labels(images: Tensor, labels: Tensor | None) -> Tensor:
    assert labels is None
    return critic(images, None)


def test_interpolations_are_augmented_as_their_real_images() -> None:
    augmentation = make(0.8)
    real, fake = batches(augmentation)
    ones = OneCenteredPenalty(critic, 1.0, lambda: torch.ones(6), augmentation)  # at the real images
    x = real.images.clone().requires_grad_()
    seen = augmentation(x, real.augmentation)
    (at_x,) = torch.autograd.grad(seen, x, seen)
    expected = (at_x.flatten(1).square().sum(1).sqrt() - 1).square().mean()
    output = ones(real._replace(labels=None), fake._replace(labels=None), *ones.draw())
    assert torch.allclose(output.figures["penalty/gradient"], expected, rtol=1e-4)


class Recording(RandomAugmentation):
    """Notes the numbers of all images in its order."""

    def __init__(self) -> None:
        super().__init__(NAMES, torch.tensor(0.8), True, Draws(0, BATCH, 0, 1, CPU))
        self.seen: list[Tensor] = []

    def __call__(self, images: Tensor, numbers: Tensor | None) -> Tensor:
        assert numbers is not None
        self.seen.append(numbers.clone())
        return super().__call__(images, numbers)


@pytest.mark.parametrize("penalty", [PenaltyConfig(), PenaltyConfig(r1=1.0, r2=1.0)], ids=["plain", "r1 and r2"])
def test_both_steps_augment_real_and_generated_images_with_their_own_numbers(penalty: PenaltyConfig) -> None:
    recording, expected = Recording(), make(0.8, size=BATCH)
    gan = make_gan(loss="relativistic", penalty=penalty)
    recording.draws = gan.draws
    gan = replace(gan, augmentation=recording, critic=replace(gan.critic, augmentation=recording))  # type: ignore[type-var]
    stats = discriminator_step(gan, real_batch(), step=7)
    assert -1 <= stats[OVERFITTING] <= 1
    (seen,) = recording.seen  # in one pass: real, then generated
    assert torch.equal(seen, torch.cat(at(7, expected).draw("discriminator").unbind(1)))
    recording.seen.clear()
    generator_step(gan, real_batch(), step=7)
    drawn = at(7, expected).draw("generator")
    assert [torch.equal(seen, drawn[:, i]) for seen, i in zip(recording.seen, (1, 0), strict=True)] == [True, True]


def test_the_gradient_of_the_generator_flows_through_the_augmentation() -> None:
    """Of an image whose square covers all that D looks at, nothing is left."""
    images = some_images(1, (1, 8, 8)).requires_grad_()
    (at_image,) = torch.autograd.grad(cutout(images, YES, numbers(0.5, 0.5))[..., 2:6, 2:6].sum(), images)
    assert not at_image.any()
    (at_image,) = torch.autograd.grad(translation(images, YES, numbers(0.0, 0.5))[..., 0, :].sum(), images)
    assert torch.equal(at_image[0, 0].sum(1), torch.tensor([0.0, 8, 0, 0, 0, 0, 0, 0]))  # one pixel up


def test_off_is_an_object_that_does_nothing() -> None:
    images = some_images(2)
    assert NO_AUGMENTATION(images, None) is images
    assert NO_AUGMENTATION.draw("discriminator") is None
    assert NO_AUGMENTATION.statistics(images.flatten(), images.flatten()) == {}
    for augment in (AugmentConfig(), AugmentConfig(transforms="flip")):
        config = Config(augment=augment)
        assert make_augmentation(config.augment, torch.zeros(()), Draws(0, 100, 0, 1, CPU)) is NO_AUGMENTATION
        probability = make_probability(augment, 10, torch.zeros(()), 1, lambda x: x, 1)
        assert isinstance(probability, ConstantProbability)
        assert (probability.figures, probability.state()) == ({}, None)


# --- leaks


def states_of(values: tuple[float, ...], width: int) -> Tensor:
    """All images of one row with these values, (n, 1, 1, width)."""
    return torch.tensor(list(itertools.product(values, repeat=width))).view(-1, 1, 1, width)


def average_of(name: str, images: Tensor, grid: list[float]) -> np.ndarray:
    """The matrix A of the docstring: how often each image becomes each other one, over a grid of uniform numbers.

    The first rows are those of the images themselves.
    """
    index = {tuple(image.flatten().tolist()): i for i, image in enumerate(images)}
    matrix = np.zeros((3 ** images.shape[3], len(images)))
    everywhere = torch.ones(len(images), dtype=torch.bool)
    for u in grid:
        drawn = torch.tensor([0.5, u, 0.0]) if name != "flip" else torch.tensor([u, 0.0, 0.0])
        seen = TRANSFORMATIONS[name](images, everywhere, drawn.expand(len(images), 3))
        for i, image in enumerate(seen):
            row = index.setdefault(tuple(image.flatten().tolist()), len(index))
            matrix[row, i] += 1 / len(grid)
    return matrix


@pytest.mark.parametrize(
    ("name", "values", "width", "grid"),
    [
        ("flip", (-1.0, 1.0), 6, [0.25, 0.75]),
        ("cutout", (-1.0, 0.0, 1.0), 4, [0.1, 0.3, 0.5, 0.7, 0.9]),
        ("translation", (-1.0, 1.0), 5, [1 / 6, 3 / 6, 5 / 6]),
    ],
)
def test_the_distribution_of_the_images_follows_from_that_of_the_augmented_ones(
    name: str, values: tuple[float, ...], width: int, grid: list[float]
) -> None:
    """For all distributions of small images: (1 - p) x + p A x can be inverted up to the highest adaptive probability.

    So D's loss is lowest for generated images with the distribution of the real ones without augmentation, and for no
    others: augmented images are not required from the generator (Karras et al. 2020, arXiv:2006.06676, appendix C).
    """
    average = average_of(name, states_of(values, width), grid)
    assert np.allclose(average.sum(0), 1)
    identity = np.eye(*average.shape)
    for p in (0.3, SAFE_PROBABILITY):
        singular = np.linalg.svd((1 - p) * identity + p * average, compute_uv=False)
        assert singular.min() > 1e-4
    # With p = 1, distributions that differ before are equal after, except for moved images, whose border tells.
    assert (np.linalg.svd(average, compute_uv=False).min() < 1e-9) == (name != "translation")


@pytest.fixture(scope="module")
def classifiers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("augmented", REPOSITORY / "benchmarks" / "augmented.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_classifier_tells_augmented_images_from_others(classifiers: ModuleType) -> None:
    pixels = torch.from_numpy(draw_images()).unsqueeze(1)
    # The discs are not centered, as digits are.
    centered = [
        image.roll((14 - round(y), 14 - round(x)), (1, 2))
        for image, (y, x) in zip(pixels, centers(pixels), strict=True)
    ]
    pixels = torch.stack(centered)
    assert classifiers.visibly_augmented(pixels) == {"colour": 0, "translation": 0, "cutout": 0, "any": 0}
    for name, share in {"colour": 0.3, "translation": 0.5, "cutout": 0.9}.items():
        shares = classifiers.visibly_augmented(classifiers.augmented(pixels, 1.0, (name,)))
        assert shares[name] > share
    few = classifiers.visibly_augmented(classifiers.augmented(pixels, 0.1, ("cutout",)))
    assert few["any"] == pytest.approx(0.1, abs=0.05)


def centers(pixels: Tensor) -> list[list[float]]:
    mass = pixels[:, 0].double()
    places = torch.arange(28)
    return [[float((m.sum(1) * places).sum() / m.sum()), float((m.sum(0) * places).sum() / m.sum())] for m in mass]


# --- the adaptive probability


def adaptive(**changes: Any) -> AdaptiveProbability:
    config = AugmentConfig(target=0.5, rise_images=ADAPT_STEPS * 100, **changes)
    probability = make_probability(config, 10, torch.tensor(config.probability), 1, lambda rows: rows, 1)
    assert isinstance(probability, AdaptiveProbability)
    return probability


def window(probability: AdaptiveProbability, *values: float) -> float:
    """Add one step for each value, and return the probability after the change."""
    for value in values:
        probability.add({OVERFITTING: torch.tensor([value])})
    probability.adapt()
    assert probability.figures == {"augment/probability": pytest.approx(probability.tensor.item())}
    return probability.figures["augment/probability"]


def test_overfitting_is_the_sign_of_the_difference() -> None:
    """That of D's logits of a real and of a generated image, wherever the boundary is."""
    real, fake = torch.tensor([3.0, 1.0, 5.0, 2.0]), torch.tensor([1.0, 2.0, 3.0, 0.0])
    assert overfitting(real, fake) == 0.5
    assert overfitting(real - 7, fake - 7) == 0.5


def test_the_probability_rises_above_the_target_and_falls_below() -> None:
    """By 100 steps x 10 images / 10,000."""
    probability = adaptive()
    assert window(probability, 1.0, 0.2) == pytest.approx(0.1)
    assert window(probability, 0.9) == pytest.approx(0.2)
    assert window(probability, 0.5) == pytest.approx(0.2)
    assert window(probability, math.nan) == pytest.approx(0.2)
    assert window(probability, math.nan, 0.0) == pytest.approx(0.1)
    for _ in range(3):
        lowest = window(probability, -1.0)
    assert lowest == 0
    for _ in range(20):
        highest = window(probability, 1.0)
    assert highest == SAFE_PROBABILITY


def test_a_checkpoint_holds_the_probability_and_the_open_window() -> None:
    first, second = adaptive(probability=0.3), adaptive(probability=0.3)
    window(first, 1.0)
    first.add({OVERFITTING: torch.tensor([0.9])})
    stored = json.loads(json.dumps(first.state()))
    assert _is_augmentation(stored, adaptive=True)
    second.load_state(stored)
    assert window(first, 0.2) == window(second, 0.2) == pytest.approx(0.5)  # the mean of 0.9 and 0.2 is above 0.5
    second.load_state(None)  # a rollback to the beginning
    assert second.figures == {"augment/probability": 0.3}
    assert second.tensor == torch.tensor(0.3)


@pytest.mark.parametrize(
    "state",
    [
        None,
        [],
        {},
        {"probability": 0.1},
        {"probability": 0.9, "window": []},
        {"probability": math.nan, "window": []},
        {"probability": "0.1", "window": []},
        {"probability": 0.1, "window": [[1.0, 2.0]]},
        {"probability": 0.1, "window": [["x"]]},
    ],
)
def test_a_damaged_state_is_refused(state: Any) -> None:
    assert not _is_augmentation(state, adaptive=True)
    assert _is_augmentation(state, adaptive=False) == (state is None)


def test_changes_do_not_depend_on_what_a_resumed_run_may_change() -> None:
    config = Config(augment=AugmentConfig(target=0.5))
    due = [step for step in range(1, 301) if Schedule(config, 1_000).at(step, False).adapt]
    assert due == [100, 200, 300]
    assert not any(Schedule(Config(), 1_000).at(step, False).adapt for step in due)


# --- runs


def augmented(flags: Flags, folder: Path, *more: str) -> list[str]:
    words = flags(folder, "--wandb.mode", "disabled", "--model.hidden-dim", "32", "--log.every-steps", "25")
    return [*words, "--augment.transforms", ",".join(NAMES), *more]


@pytest.mark.slow
@pytest.mark.processes(2)
def test_two_processes_are_one_and_a_run_resumes_through_a_change(flags: Flags, tmp_path: Path) -> None:
    """The second run is stopped on two processes inside the window after a change, and ends on one."""
    more = ["--train.exact-shards", "2", "--penalty.r1", "1", "--penalty.r2", "1", "--train.loss", "relativistic"]
    more += ["--augment.target", "0.1", "--augment.rise-images", "10000", "--train.epochs", "40"]
    more += ["--samples.every-epochs", "30", "--checkpoint.every-steps", "1000"]
    folders = [RunFolder(tmp_path / name) for name in ("whole", "pieces")]
    whole, pieces = (augmented(flags, folder.path, *more) for folder in folders)
    assert train_here([*whole, "--train.steps", "220"]) == 0
    ended = run_command(*launcher(2), SCRIPT, *pieces, "--train.steps", "130")
    assert ended.code == 0, ended.err
    assert train_here([*pieces, "--train.steps", "220"]) == 0
    assert_same_end(*folders, 220)
    seen = {row["step"]: row["augment/probability"] for row in figures(folders[0])}
    assert [seen[step] for step in (100, 125, 200, 220)] == pytest.approx([0, 0.2, 0.2, 0.4])


@pytest.mark.parametrize("more", [[], ["--train.mixed-precision", "bf16"], ["--train.loss", "relativistic"]])
def test_accumulation_gives_the_update_of_the_whole_batch(more: list[str], flags: Flags, tmp_path: Path) -> None:
    folders = [RunFolder(tmp_path / str(parts)) for parts in (1, 4)]
    for folder, parts in zip(folders, ("1", "4"), strict=True):
        words = augmented(flags, folder.path, "--train.steps", "10", "--log.every-steps", "10")
        words += ["--augment.probability", "0.7", "--train.accumulation", parts, *more]
        assert train_here(words) == 0
    for a, b in zip(*map(figures, folders), strict=True):
        assert a == pytest.approx(b, rel=0.05 if "bf16" in more else 1e-3)
        assert a["augment/probability"] == 0.7
        assert OVERFITTING not in a


@pytest.mark.gpu
def test_a_captured_update_reads_the_changed_probability(flags: Flags, tmp_path: Path) -> None:
    folders = [RunFolder(tmp_path / name) for name in ("plain", "captured")]
    more = ["--augment.target", "0.1", "--augment.rise-images", "10000", "--train.epochs", "40", "--train.steps", "220"]
    for folder, compiled in zip(folders, (["--train.capture", "off"], ["--train.capture", "on"]), strict=True):
        assert train_here(augmented(flags, folder.path, *more, "--samples.every-epochs", "30", *compiled)) == 0
    assert_same_end(*folders, 220)


@pytest.mark.slow
def test_a_rollback_restores_the_probability(flags: Flags, tmp_path: Path) -> None:
    """NaN in step 102: back to the checkpoint of step 90, before the change."""
    straight, healed = RunFolder(tmp_path / "straight"), RunFolder(tmp_path / "healed")
    more = ["--augment.target", "0", "--augment.rise-images", "10000", "--train.steps", "110", "--train.epochs", "20"]
    more += ["--checkpoint.every-steps", "90", "--train.on-nonfinite", "rollback", "--samples.every-epochs", "20"]
    assert train_here(augmented(flags, straight.path, *more)) == 0
    inject = [REPOSITORY / "benchmarks" / "inject.py", "nan", "discriminator", "102", "0", "1"]
    ended = run_command("python", *inject, *augmented(flags, healed.path, *more))
    assert ended.code == 0, ended.err
    assert "rolled back to step 90" in ended.out
    assert_same_end(healed, straight, 110)
    assert read_json_lines(healed.metrics)[-1]["augment/probability"] == pytest.approx(0.2)


def test_augmentation_changes_the_run(flags: Flags, tmp_path: Path) -> None:
    """A probability above 0 does, and one that is still 0 does not."""
    ends = []
    for i, more in enumerate(([], ["--augment.target", "0.5"], ["--augment.probability", "0.5"])):
        folder = RunFolder(tmp_path / str(i))
        assert train_here(augmented(flags, folder.path, "--train.steps", "5", "--train.epochs", "1", *more)) == 0
        ends.append(figures(folder)[-1]["loss/generator"])
    assert ends[0] == ends[1] != ends[2]


def test_data_shows_what_the_discriminator_sees(flags: Flags, tmp_path: Path, cache: Path) -> None:
    output = tmp_path / "seen.png"
    words = ["data", *augmented(flags, tmp_path / "run", "--output", str(output))]
    assert cli.main(words) == 0
    beside = tmp_path / "seen-augmented.png"
    assert not beside.exists()
    assert cli.main([*words, "--augment.probability", "0.8"]) == 0
    assert picture_size(output) == picture_size(beside)
    with Image.open(output) as plain, Image.open(beside) as augmented_picture:
        share = (np.asarray(plain) != np.asarray(augmented_picture)).mean()
    assert 0.2 < share < 0.9


# --- bad input and advice


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"transforms": "color,cutout"}, "augment.transforms='color' is not supported; did you mean colour"),
        ({"transforms": "rotate"}, "'rotate' is not supported; choose from colour, translation, cutout, flip"),
        ({"transforms": "flip,"}, "augment.transforms='' is not supported; choose from"),
        ({"transforms": "flip,cutout,flip"}, "names a transformation twice"),
        ({"probability": 1.5}, "augment.probability=1.5 is not supported: it must be a number from 0 to 1"),
        ({"probability": -0.1}, "augment.probability=-0.1 is not supported"),
        ({"target": 2.0}, "augment.target=2.0 is not supported"),
        ({"target": 0.5, "probability": 0.9}, "augment.probability=0.9 is incompatible with augment.target"),
        ({"rise_images": 0}, "augment.rise_images=0 is not supported"),
    ],
)
def test_bad_input_is_one_line(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says.replace(".", r"\.")) as refused:
        validate(Config(augment=AugmentConfig(**fields)))
    assert "\n" not in str(refused.value)


def test_spaces_between_the_names_are_no_mistake() -> None:
    config = Config(augment=AugmentConfig(transforms="flip, cutout"))
    validate(config)
    assert config.augment.names == ("flip", "cutout")


@pytest.mark.parametrize(
    ("data", "augment", "fields"),
    [
        ("mnist", {}, []),
        ("mnist", {"transforms": "flip"}, []),  # off
        ("mnist", {"transforms": "colour,flip", "probability": 0.5}, ["augment.transforms=flip"]),
        ("kmnist", {"transforms": "flip", "target": 0.5}, ["augment.transforms=flip"]),
        ("fashion-mnist", {"transforms": "flip", "probability": 0.5}, []),
        ("fashion-mnist", {"probability": 0.9}, ["augment.probability=0.9"]),
    ],
)
def test_what_the_images_rule_out_is_warned_about(data: str, augment: dict[str, Any], fields: list[str]) -> None:
    found = warnings(Config(data=DataConfig(name=data), augment=AugmentConfig(**augment)))
    assert [line.split(" with ")[0].split(":")[0] for line in found] == fields


def test_mirrored_digits_are_warned_about() -> None:
    (line,) = warnings(Config(data=DataConfig(name="qmnist", mirror=True)))
    assert line.startswith("data.mirror with data.name=qmnist: a mirrored digit")
    assert not warnings(Config(data=DataConfig(name="cifar10", mirror=True)))


@pytest.mark.parametrize(
    ("augment", "advice"),
    [
        ({}, "try --augment.target 0.5"),
        ({"probability": 0.3}, "try --augment.probability 0.6"),
        ({"probability": 0.7}, "try --augment.probability 0.8"),
        ({"probability": 0.8}, "use fewer weights"),
        ({"target": 0.6}, "try --augment.target 0.3"),
        ({"target": 0.0}, "use fewer weights"),
    ],
)
def test_advice_against_memorization_names_a_flag(augment: dict[str, float], advice: str) -> None:
    config = Config(augment=AugmentConfig(**augment), penalty=PenaltyConfig())
    assert augment_or(History([], {}, {}, config, {}), "use fewer weights") == advice
