"""Losses, penalties and the average as formulas: against values computed by hand, and against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from stepping import at
from torch import Tensor, nn

from gan_dist.config import EmaConfig, ModelConfig
from gan_dist.data.batch import Batch
from gan_dist.gan.first_order import Directions, FirstOrderPenalty
from gan_dist.gan.latents import Draws
from gan_dist.gan.losses import LOSSES, PairedLoss, UnpairedLoss
from gan_dist.gan.penalties import NoPenalty, OneCenteredPenalty, ZeroCenteredPenalty, one_centered, zero_centered
from gan_dist.gan.update import flatten
from gan_dist.models import build_pair
from gan_dist.models.average import Average, NoAverage, make_average

REAL, FAKE = torch.tensor([2.0, -0.5]), torch.tensor([0.5, -3.0])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


# name -> the discriminator's loss and the generator's of REAL and FAKE
FORMULAS = {
    "bce": (
        (softplus(-2) + softplus(0.5) + softplus(0.5) + softplus(-3)) / 2,
        (softplus(-0.5) + softplus(3)) / 2,
    ),
    "relativistic": ((softplus(-1.5) + softplus(-2.5)) / 2, (softplus(1.5) + softplus(2.5)) / 2),
    "hinge": ((0 + 1.5 + 1.5 + 0) / 2, 1.25),
    "least-squares": ((1 + 2.25 + 0.25 + 9) / 4, (0.25 + 16) / 4),
    "wasserstein": (-1.25 - 0.75, 0.75 + 1.25),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_losses_are_their_formulas(name: str) -> None:
    loss, (discriminator, generator) = LOSSES[name], FORMULAS[name]
    assert loss.discriminator(REAL, FAKE).item() == pytest.approx(discriminator, rel=1e-6)
    assert loss.generator_loss(FAKE, lambda: REAL).item() == pytest.approx(generator, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_separates_real_from_fake_and_is_a_mean(name: str) -> None:
    """For logits between 0 and 1: D raises those of real images and lowers those of fake ones, which G raises."""
    loss = LOSSES[name]
    real, fake = torch.tensor([[0.1, 0.2, 0.8], [0.2, 0.7, 0.1]], requires_grad=True)
    of_discriminator, of_generator = loss.discriminator(real, fake), loss.generator_loss(fake, real.detach)
    to_real, to_fake = torch.autograd.grad(of_discriminator, (real, fake))
    (of_fakes,) = torch.autograd.grad(of_generator, fake)
    assert (to_real < 0).all()
    assert (to_fake > 0).all()
    assert (of_fakes < 0).all()
    twice = real.detach().repeat(2), fake.detach().repeat(2)
    assert torch.allclose(loss.discriminator(*twice), of_discriminator)
    assert torch.allclose(loss.generator_loss(twice[1], lambda: twice[0]), of_generator)


@pytest.mark.parametrize("name", LOSSES)
def test_only_a_paired_loss_computes_the_real_logits(name: str) -> None:
    loss = LOSSES[name]
    if isinstance(loss, PairedLoss):
        first, second = (loss.generator_loss(FAKE, lambda shift=shift: REAL + shift) for shift in (0, 1))  # type: ignore[misc]
        assert not torch.equal(first, second)
        assert torch.allclose(loss.discriminator(REAL, FAKE), loss.discriminator(REAL + 3, FAKE + 3))
    else:
        loss.generator_loss(FAKE, lambda: pytest.fail("the real logits cost a pass"))


def test_an_unpaired_loss_rejects_a_function_of_the_real_logits() -> None:
    """So a loss cannot be declared as unpaired by mistake and be given wrong real logits."""
    relativistic = LOSSES["relativistic"]
    assert isinstance(relativistic, PairedLoss)
    mistake = UnpairedLoss(relativistic.discriminator, relativistic.generator, chance=None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="real_logits"):
        mistake.generator_loss(FAKE, lambda: REAL)


@pytest.mark.parametrize("name", LOSSES)
def test_scores_are_probabilities(name: str) -> None:
    """A shift of all logits does not change those of a paired loss."""
    loss = LOSSES[name]
    paired = isinstance(loss, PairedLoss)
    scores, shifted = loss.scores(REAL, FAKE), loss.scores(REAL + 3, FAKE + 3)
    assert (scores == shifted) == paired
    assert torch.allclose(scores[0], (REAL - FAKE if paired else REAL).sigmoid().mean())
    assert torch.allclose(scores[1], (FAKE - REAL if paired else FAKE).sigmoid().mean())


@pytest.mark.parametrize("name", LOSSES)
def test_chance_is_the_loss_of_the_best_constant_logit(name: str) -> None:
    """A discriminator that guesses gives every image the same logit."""
    losses = [LOSSES[name].discriminator(logit, logit).item() for logit in torch.linspace(-2, 2, 401).unsqueeze(1)]
    assert min(losses) == pytest.approx(LOSSES[name].chance or 0.0, abs=1e-6)


class Quadratic(nn.Module):
    """D(x) = a |x|^2 / 2, whose gradient at x is a x."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
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
    penalty = ZeroCenteredPenalty(critic, r1, r2, torch.ones(()))
    batches = Batch(real, None), Batch(fake, None)
    output = penalty(*batches)
    plain = NoPenalty(critic)(*batches)
    assert torch.allclose(output.real_logits, plain.real_logits)
    assert torch.allclose(output.fake_logits, plain.fake_logits)
    squares = {"penalty/r1": (norms(real) ** 2).mean() / 2, "penalty/r2": (norms(fake) ** 2).mean() / 2}
    assert set(output.figures) == set(penalty.figures)
    for name, value in output.figures.items():
        assert torch.allclose(value, 1.5**2 * squares[name])
    # One backward includes the penalty: d/da of a^2 (r1 |x|^2 + r2 |g|^2) / 2.
    (slope,) = torch.autograd.grad(output.penalty, critic.a)
    assert torch.allclose(slope, 3 * (r1 * squares["penalty/r1"] + r2 * squares["penalty/r2"]))


def test_wgan_gp_is_between_the_images() -> None:
    real, fake, critic = images(1), 2 * images(2), Quadratic(1.5)
    weights = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    penalty = OneCenteredPenalty(critic, 10.0, lambda: weights)
    output = penalty(Batch(real, None), Batch(fake, None), *penalty.draw())
    interpolated = fake + weights.view(-1, 1, 1, 1) * (real - fake)
    off = 1.5 * norms(interpolated) - 1
    assert torch.allclose(output.figures["penalty/gradient"], off.square().mean())
    (slope,) = torch.autograd.grad(output.penalty, critic.a)
    assert torch.allclose(slope, 20 * (off * norms(interpolated)).mean())


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
    average = Average(generator, flatten(generator), half_life=400.0, warm_up=1e9, batch_size=100)
    nn.init.ones_(generator.weight)
    for step in range(1, 5):  # 400 images
        average.update(average.weight(step))
    assert torch.allclose(average.network.weight, torch.full((2, 2), 0.5))
    for step in range(5, 9):
        average.update(average.weight(step))
    assert torch.allclose(average.network.weight, torch.full((2, 2), 0.75))


def test_a_young_average_forgets_the_first_weights() -> None:
    """The half-life is a fraction of the images seen: after step 1 almost nothing is left of the initial weights."""
    generator = Weights(torch.zeros(2, 2))
    average = Average(generator, flatten(generator), half_life=1e9, warm_up=0.05, batch_size=100)
    nn.init.ones_(generator.weight)
    average.update(average.weight(1))
    assert torch.allclose(average.network.weight, torch.full((2, 2), 1 - 0.5**20))


def test_the_average_has_the_tensors_of_the_generator_and_loads_them_in_place() -> None:
    generator, _ = build_pair(ModelConfig(hidden_dim=8), (1, 28, 28), seed=0)
    average = Average(generator, flatten(generator), half_life=100.0, warm_up=1e9, batch_size=100)
    assert average.network.state_dict().keys() == generator.state_dict().keys()
    assert not any(parameter.requires_grad for parameter in average.network.parameters())
    average.network.load_state_dict({name: torch.zeros_like(value) for name, value in generator.state_dict().items()})
    average.update(average.weight(1))
    for name, value in average.network.state_dict().items():
        assert torch.equal(value, generator.state_dict()[name] / 2)


def test_without_a_half_life_the_trained_generator_is_used() -> None:
    generator = Weights(torch.zeros(2, 2))
    flat = flatten(generator)
    average = make_average(EmaConfig(), generator, flat, 100)
    assert isinstance(average, NoAverage)
    assert average.network is generator
    assert isinstance(make_average(EmaConfig(half_life=5.0), generator, flat, 100), Average)


# --- first-order penalties


class Affine(nn.Module):
    """D(x, y) = w . x + y: its gradient is w everywhere, so that a difference is exact up to rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.linspace(-1, 1, 9).view(1, 1, 3, 3))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return (self.w * images).flatten(1).sum(1) + (0 if labels is None else labels)


@pytest.mark.parametrize(("r1", "r2"), [(3.0, 0.0), (0.0, 5.0), (3.0, 5.0)])
def test_first_order_penalties_are_squares_of_directional_derivatives(r1: float, r2: float) -> None:
    critic, labels = Affine(), torch.arange(5)
    real, fake = Batch(images(1), labels), Batch(2 * images(2), labels.flip(0))
    directions = torch.randn(5, 2, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    penalty = FirstOrderPenalty(critic, r1, r2, torch.tensor(0.5), lambda: directions)
    output = penalty(real, fake, *penalty.draw())
    plain = NoPenalty(critic)(real, fake)
    assert torch.allclose(output.real_logits, plain.real_logits)
    assert torch.allclose(output.fake_logits, plain.fake_logits)
    squares = [(directions[:, which] * critic.w).flatten(1).sum(1).square().mean() / 2 for which in (0, 1)]
    expected = dict(zip(("penalty/r1", "penalty/r2"), squares, strict=True))
    assert penalty.figures == tuple(output.figures)
    for name, value in output.figures.items():
        assert torch.allclose(value, expected[name], rtol=1e-3)
    weighted = 0.5 * (r1 * squares[0] + r2 * squares[1])
    assert torch.allclose(torch.as_tensor(output.penalty), weighted, rtol=1e-3)
    slopes = [torch.autograd.grad(value, critic.w)[0] for value in (output.penalty, weighted)]
    assert torch.allclose(*slopes, rtol=1e-3, atol=1e-4)


def test_the_mean_of_first_order_penalties_is_the_second_order_one() -> None:
    """Over 4,000 directions, of a network that is not affine."""
    _, discriminator = build_pair(ModelConfig(hidden_dim=16), (1, 3, 3), seed=0)
    real, fake = (Batch(each.repeat(40, 1, 1, 1), None) for each in (images(1), 2 * images(2)))
    exact = ZeroCenteredPenalty(discriminator, 1.0, 1.0, torch.ones(()))(real, fake).figures
    draws = Draws(seed=0, batch_size=len(real.images), rank=0, ranks=1, device=torch.device("cpu"))
    penalty = FirstOrderPenalty(discriminator, 1.0, 1.0, torch.ones(()), draws.make(Directions, 2, 1, 3, 3))
    found = []
    for step in range(100):
        draws.begin(step)
        found.append(penalty(real, fake, *penalty.draw()).figures)
    for name, value in exact.items():
        mean = torch.stack([figures[name] for figures in found]).mean()
        assert torch.allclose(mean, value, rtol=0.05), name


def test_directions_are_the_same_on_any_number_of_ranks() -> None:
    whole, *parts = (
        at(4, Draws(1, 6, rank, ranks, torch.device("cpu")).make(Directions, 2, 1, 3, 3))()
        for rank, ranks in ((0, 1), (0, 3), (1, 3), (2, 3))
    )
    assert torch.equal(torch.cat(parts), whole)
