"""Losses, penalties and the average as formulas: against numbers worked out by hand, and against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from gan_dist.config import EmaConfig
from gan_dist.gan.losses import LOSSES
from gan_dist.gan.penalties import NoPenalty, OneCenteredPenalty, ZeroCenteredPenalty, one_centered, zero_centered
from gan_dist.models.average import Average, NoAverage, make_average

REAL, FAKE = torch.tensor([2.0, -0.5]), torch.tensor([0.5, -3.0])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


# name -> the discriminator's loss and the generator's of REAL and FAKE
EXPECTED = {
    "bce": (
        (softplus(-2) + softplus(0.5) + softplus(0.5) + softplus(-3)) / 2,
        (softplus(-0.5) + softplus(3)) / 2,
    ),
    "relativistic": ((softplus(-1.5) + softplus(-2.5)) / 2, (softplus(1.5) + softplus(2.5)) / 2),
    "hinge": ((0 + 1.5 + 1.5 + 0) / 2, 1.25),
    "least-squares": ((1 + 2.25 + 0.25 + 9) / 4, (0.25 + 16) / 4),
    "wasserstein": (-1.25 - 0.75, 0.75 + 1.25),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_their_formulas(name: str) -> None:
    loss, (discriminator, generator) = LOSSES[name], EXPECTED[name]
    assert loss.discriminator(REAL, FAKE).item() == pytest.approx(discriminator, rel=1e-6)
    assert loss.generator(FAKE, REAL).item() == pytest.approx(generator, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_that_says_it_is_not_paired_is_not(name: str) -> None:
    loss = LOSSES[name]
    same = torch.equal(loss.generator(FAKE, REAL), loss.generator(FAKE, REAL + 1))
    assert same != loss.paired
    logits = loss.real_logits(torch.ones(2, 1, 2, 2), lambda images: images.sum((1, 2, 3)))
    assert logits.tolist() == ([4, 4] if loss.paired else [0, 0])


@pytest.mark.parametrize("name", LOSSES)
def test_scores_are_probabilities_that_a_paired_loss_can_not_shift(name: str) -> None:
    loss = LOSSES[name]
    scores, shifted = loss.scores(REAL, FAKE), loss.scores(REAL + 3, FAKE + 3)
    assert (scores == shifted) == loss.paired
    expected = (REAL - FAKE if loss.paired else REAL).sigmoid().mean()
    assert torch.allclose(scores[0], expected)


class Quadratic(nn.Module):
    """D(x) = a |x|^2 / 2, whose gradient at x is a x."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a))

    def forward(self, images: Tensor) -> Tensor:
        return self.a * images.flatten(1).square().sum(1) / 2


def images(seed: int) -> Tensor:
    return torch.rand(5, 1, 3, 3, generator=torch.Generator().manual_seed(seed))


def norms(of: Tensor) -> Tensor:
    return of.flatten(1).norm(dim=1)


def test_penalties_are_their_formulas() -> None:
    gradients = images(0)
    assert torch.allclose(zero_centered(gradients), (norms(gradients) ** 2).mean() / 2)
    assert torch.allclose(one_centered(gradients), ((norms(gradients) - 1) ** 2).mean())


@pytest.mark.parametrize(("r1", "r2"), [(3.0, 0.0), (0.0, 5.0), (3.0, 5.0)])
def test_r1_is_at_the_real_images_and_r2_at_the_fake_ones(r1: float, r2: float) -> None:
    real, fake, critic = images(1), 2 * images(2), Quadratic(1.5)
    judge = ZeroCenteredPenalty(critic, r1, r2, torch.ones(()))
    judged = judge(real, fake)
    plain = NoPenalty(critic)(real, fake)
    assert torch.allclose(judged.real_logits, plain.real_logits)
    assert torch.allclose(judged.fake_logits, plain.fake_logits)
    squares = {"penalty/r1": (norms(real) ** 2).mean() / 2, "penalty/r2": (norms(fake) ** 2).mean() / 2}
    assert set(judged.figures) == set(judge.figures)
    for name, value in judged.figures.items():
        assert torch.allclose(value, 1.5**2 * squares[name])
    # One backward takes the penalty in: d/da of a^2 (r1 |x|^2 + r2 |g|^2) / 2.
    (slope,) = torch.autograd.grad(judged.penalty, critic.a)
    assert torch.allclose(slope, 3 * (r1 * squares["penalty/r1"] + r2 * squares["penalty/r2"]))


def test_wgan_gp_is_between_the_images() -> None:
    real, fake, critic = images(1), 2 * images(2), Quadratic(1.5)
    places = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    judge = OneCenteredPenalty(critic, 10.0, lambda step: places)
    judged = judge(real, fake, *judge.draw(1))
    between = fake + places.view(-1, 1, 1, 1) * (real - fake)
    off = 1.5 * norms(between) - 1
    assert torch.allclose(judged.figures["penalty/gradient"], off.square().mean())
    (slope,) = torch.autograd.grad(judged.penalty, critic.a)
    assert torch.allclose(slope, 20 * (off * norms(between)).mean())


def test_a_gradient_of_zero_has_a_finite_penalty_and_slope() -> None:
    gradients = torch.zeros(2, 1, 3, 3, requires_grad=True)
    penalty = one_centered(gradients)
    (slope,) = torch.autograd.grad(penalty, gradients)
    assert torch.allclose(penalty, torch.ones(()), atol=1e-5)
    assert slope.isfinite().all()


class Weights(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)


def test_the_average_halves_in_its_half_life() -> None:
    generator = Weights(torch.zeros(2, 2))
    average = Average(generator, half_life=400.0, warm_up=1e9, batch_size=100)
    nn.init.ones_(generator.weight)
    for step in range(1, 5):  # 400 images
        average.update(step)
    assert torch.allclose(average.network.weight, torch.full((2, 2), 0.5))
    for step in range(5, 9):
        average.update(step)
    assert torch.allclose(average.network.weight, torch.full((2, 2), 0.75))


def test_a_young_average_forgets_the_first_weights() -> None:
    """The half-life is a share of the images seen: after step 1 next to nothing is left of the beginning."""
    generator = Weights(torch.zeros(2, 2))
    average = Average(generator, half_life=1e9, warm_up=0.05, batch_size=100)
    nn.init.ones_(generator.weight)
    average.update(1)
    assert torch.allclose(average.network.weight, torch.full((2, 2), 1 - 0.5**20))


def test_without_a_half_life_the_trained_generator_is_used() -> None:
    generator = Weights(torch.zeros(2, 2))
    used = make_average(EmaConfig(), generator, 100)
    assert isinstance(used, NoAverage)
    assert used.network is generator
    assert isinstance(make_average(EmaConfig(half_life=5.0), generator, 100), Average)
