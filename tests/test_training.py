"""The training step: losses, updates, latents, the guard, mean figures and the schedule."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import train_here
from safetensors.torch import load_file
from stepping import at, discriminator_step, generator_step
from torch import Tensor, nn

from gan_dist.config import (
    CheckpointConfig,
    Config,
    EmaConfig,
    InputError,
    ModelConfig,
    OptimizerConfig,
    PenaltyConfig,
    TrainConfig,
)
from gan_dist.data.batch import Batch
from gan_dist.gan.guard import NonfiniteGuard, NonfiniteUpdate
from gan_dist.gan.labels import NoLabels
from gan_dist.gan.latents import Draws, Latents, fixed_latents
from gan_dist.gan.losses import LOSSES
from gan_dist.gan.penalties import NoPenalty
from gan_dist.gan.reduction import (
    ExactReduction,
    FastReduction,
    Reduction,
    add_local_pairs,
    tree_sum,
)
from gan_dist.gan.steps import Gan
from gan_dist.gan.update import Update, flatten
from gan_dist.models import ARCHITECTURES, build_pair
from gan_dist.models.architecture import Architecture
from gan_dist.models.average import NoAverage, make_average
from gan_dist.outputs.folder import RunFolder
from gan_dist.trainer.hyperparameters import DeviceNumbers, HostNumbers
from gan_dist.trainer.meter import METRICS, Meter
from gan_dist.trainer.networks import make_critic
from gan_dist.trainer.reporting import gradient_norm
from gan_dist.trainer.schedule import Schedule

CPU = torch.device("cpu")
BATCH = 8
# How a learning rate is stored, and what sets it.
NUMBERS: list[tuple[Any, Any]] = [(float, HostNumbers), (torch.tensor, partial(DeviceNumbers, device=CPU))]


def make_gan(
    reduction: Reduction | None = None,
    dtype: torch.dtype = torch.float32,
    loss: str = "bce",
    penalty: PenaltyConfig | None = None,
) -> Gan:
    """The seed's pair on one process, without a launcher: the steps are plain torch."""
    generator, discriminator = build_pair(ModelConfig(hidden_dim=32), (1, 28, 28), 0)
    guard = NonfiniteGuard(window=10, rank=0, ranks=1, device=CPU)
    updates = [
        Update(
            network,
            torch.optim.Adam([flatten(network)], lr=2e-4, fused=True),
            reduction or FastReduction(ranks=1),
            BATCH,
            lambda loss, inputs: loss.backward(inputs=inputs),
            guard,
            dtype,
        )
        for network in (generator, discriminator)
    ]
    draws = Draws(0, BATCH, rank=0, ranks=1, device=CPU)
    return Gan(
        generator=updates[0].forward_network,
        discriminator=updates[1].forward_network,
        generator_update=updates[0],
        discriminator_update=updates[1],
        loss=LOSSES[loss],
        critic=make_critic(penalty or PenaltyConfig(), updates[1], torch.ones(()), draws, (1, 28, 28)),
        draws=draws,
        latents=Latents(draws, 64, dtype),
        labels=NoLabels(),
    )


def real_images() -> Tensor:
    return torch.rand(BATCH, 1, 28, 28, generator=torch.Generator().manual_seed(3)) * 2 - 1


def real_batch() -> Batch:
    return Batch(real_images(), None)


def weights(network: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


def moved(network: nn.Module, before: list[Tensor]) -> list[bool]:
    return [not torch.equal(a, b) for a, b in zip(weights(network), before, strict=True)]


def test_bce_is_torchs_bce_loss_of_the_probability() -> None:
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, 50, generator=generator) * 3
    bce = nn.BCELoss()
    ones, zeros = torch.ones(50), torch.zeros(50)
    loss = LOSSES["bce"]
    expected = bce(real.sigmoid(), ones) + bce(fake.sigmoid(), zeros)
    assert torch.allclose(loss.discriminator(real, fake), expected, rtol=1e-5)
    assert torch.allclose(loss.generator_loss(fake, lambda: real), bce(fake.sigmoid(), ones), rtol=1e-5)


def test_losses_stay_finite_where_the_probability_is_0_or_1() -> None:
    far = torch.tensor([-1e4, 1e4])
    for value in (LOSSES["bce"].discriminator(far, far), LOSSES["bce"].generator_loss(far, lambda: far)):
        assert torch.isfinite(value)


def test_the_discriminator_step_moves_the_discriminator_alone() -> None:
    gan = make_gan()
    before = weights(gan.generator), weights(gan.discriminator)
    stats = discriminator_step(gan, real_batch(), step=1)
    assert not any(moved(gan.generator, before[0]))
    assert all(moved(gan.discriminator, before[1]))
    assert not gan.generator_update.gradients.any()
    assert set(stats) == {"loss/discriminator", "score/real", "score/fake"}
    assert not any(value.requires_grad for value in stats.values())


def test_the_generator_step_moves_the_generator_alone() -> None:
    gan = make_gan()
    before = weights(gan.generator), weights(gan.discriminator)
    stats = generator_step(gan, real_batch(), step=1)
    assert all(moved(gan.generator, before[0]))
    assert not any(moved(gan.discriminator, before[1]))
    assert not gan.discriminator_update.gradients.any()
    assert all(parameter.requires_grad for parameter in gan.discriminator.parameters())
    assert set(stats) == {"loss/generator"}


def test_the_steps_are_the_notebooks() -> None:
    """Both updates against a plain implementation with probabilities, BCELoss, two passes and detach."""
    gan = make_gan()
    generator, discriminator = copy.deepcopy((gan.generator, gan.discriminator))
    d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-4)
    g_optimizer = torch.optim.Adam(generator.parameters(), lr=2e-4)
    bce, ones, zeros = nn.BCELoss(), torch.ones(BATCH), torch.zeros(BATCH)
    for step in (1, 2, 3):
        gan.begin(step)
        z_d, z_g = (gan.latents(purpose).clone() for purpose in ("discriminator", "generator"))
        stats = discriminator_step(gan, real_batch(), step) | generator_step(gan, real_batch(), step)

        real_score = discriminator(real_images()).sigmoid()
        fake_score = discriminator(generator(z_d).detach()).sigmoid()
        d_loss = bce(real_score, ones) + bce(fake_score, zeros)
        d_optimizer.zero_grad()
        d_loss.backward()
        d_optimizer.step()
        g_loss = bce(discriminator(generator(z_g)).sigmoid(), ones)
        g_optimizer.zero_grad()
        g_loss.backward()
        g_optimizer.step()

        expected = dict(zip(METRICS, (d_loss, g_loss, real_score.mean(), fake_score.mean()), strict=True))
        for name, value in expected.items():
            assert torch.allclose(stats[name], value.detach(), rtol=1e-5), name
    for ours, theirs in ((gan.generator, generator), (gan.discriminator, discriminator)):
        for a, b in zip(weights(ours), weights(theirs), strict=True):
            assert torch.allclose(a, b, atol=1e-6)


def _pairs_of_updates(a: Gan, b: Gan) -> list[tuple[Update, Update]]:
    return [(a.generator_update, b.generator_update), (a.discriminator_update, b.discriminator_update)]


@pytest.mark.parametrize("reduction", [FastReduction(ranks=1, parts=4), ExactReduction(ranks=1, shards=4)])
def test_a_batch_in_parts_gives_the_update_of_the_whole(reduction: Reduction) -> None:
    whole, parts = make_gan(), make_gan(reduction)
    for step in (1, 2, 3):
        expected = discriminator_step(whole, real_batch(), step) | generator_step(whole, real_batch(), step)
        stats = discriminator_step(parts, real_batch(), step) | generator_step(parts, real_batch(), step)
        for name in METRICS:
            assert stats[name].shape == (4,)
            assert torch.allclose(stats[name].mean(), expected[name].mean(), atol=1e-6)
        for one, other in _pairs_of_updates(whole, parts):
            assert torch.allclose(one.gradients[0], other.gradients[0], atol=1e-6)
    for a, b in ((whole.generator, parts.generator), (whole.discriminator, parts.discriminator)):
        for x, y in zip(weights(a), weights(b), strict=True):
            assert torch.allclose(x, y, atol=1e-6)
    for _, update in _pairs_of_updates(whole, parts):
        assert {int(state["step"]) for state in update.optimizer.state.values()} == {3}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("penalty", [{"r1": 5.0, "r2": 5.0}, {"r1": 5.0}, {"gradient": 10.0}], ids=str)
@pytest.mark.parametrize("reduction", [FastReduction(ranks=1, parts=4), ExactReduction(ranks=1, shards=4)])
def test_losses_and_penalties_in_parts_have_the_gradient_of_the_whole(
    reduction: Reduction, penalty: dict[str, float], loss: str
) -> None:
    whole, parts = (make_gan(how, loss=loss, penalty=PenaltyConfig(**penalty)) for how in (None, reduction))
    for gan in (whole, parts):
        discriminator_step(gan, real_batch(), 1)
        generator_step(gan, real_batch(), 1)
    for one, other in _pairs_of_updates(whole, parts):
        assert torch.allclose(one.gradients[0], other.gradients[0], atol=1e-6)
        assert one.gradients[0].norm() > 1e-3


def test_in_bf16_the_weights_stay_fp32_and_their_rounded_copy_computes() -> None:
    gan, fp32 = make_gan(dtype=torch.bfloat16), make_gan()
    for step in (1, 2, 3):
        stats = discriminator_step(gan, real_batch(), step) | generator_step(gan, real_batch(), step)
        expected = discriminator_step(fp32, real_batch(), step) | generator_step(fp32, real_batch(), step)
        for name in METRICS:
            assert stats[name].dtype == torch.float32
            assert torch.allclose(stats[name], expected[name], atol=2e-2), name
    for update, network in ((gan.generator_update, gan.generator), (gan.discriminator_update, gan.discriminator)):
        for weight, rounded in zip(update.network.parameters(), network.parameters(), strict=True):
            assert weight.dtype == torch.float32
            assert rounded.dtype == torch.bfloat16
            assert torch.equal(weight.bfloat16(), rounded)
            assert not torch.equal(weight, rounded.float())  # an Adam step is below the resolution of bf16


def test_the_parts_of_a_bf16_batch_are_added_in_fp32() -> None:
    """A sequential sum and a tree agree up to the rounding of fp32, not that of bf16 (4e-3)."""
    one, other = (make_gan(r, torch.bfloat16) for r in (FastReduction(ranks=1, parts=4), ExactReduction(1, shards=4)))
    for gan in (one, other):
        discriminator_step(gan, real_batch(), 1)
    for a, b in _pairs_of_updates(one, other):
        assert torch.allclose(a.gradients[0], b.gradients[0], rtol=1e-5, atol=1e-9)


def test_bf16_is_what_autocast_computes() -> None:
    """Autocast rounds the same weights and images to the same numbers, but in every pass."""
    gan = make_gan(dtype=torch.bfloat16)
    networks = gan.generator_update.network, gan.discriminator_update.network
    generator, discriminator = copy.deepcopy(networks)
    gan.begin(1)
    latents = gan.latents("discriminator").clone()
    discriminator_step(gan, real_batch(), 1)
    with torch.autocast("cpu", torch.bfloat16):
        images = torch.cat([real_images(), generator(latents).detach()])
        real_logits, fake_logits = discriminator(images).float().chunk(2)
    LOSSES["bce"].discriminator(real_logits, fake_logits).backward()
    gradients = torch.cat([p.grad.flatten() for p in discriminator.parameters() if p.grad is not None])
    assert torch.equal(gan.discriminator_update.gradients[0], gradients)


def test_penalties_are_computed_in_fp32_at_the_rounded_weights() -> None:
    """Compared with the same step in fp32, from weights that are rounded to bf16."""
    penalty = PenaltyConfig(r1=5.0, r2=5.0)
    gan, fp32 = (make_gan(dtype=dtype, loss="relativistic", penalty=penalty) for dtype in (torch.bfloat16, torch.float))
    for ours, theirs in _pairs_of_updates(gan, fp32):
        rounded = {name: tensor.float() for name, tensor in ours.forward_network.state_dict().items()}
        theirs.network.load_state_dict(rounded)
    gan.begin(1)
    fakes = gan.generator(gan.latents("discriminator")).detach()
    output, expected = (of.critic(real_batch(), Batch(fakes, None)) for of in (gan, fp32))
    assert torch.equal(output.real_logits, expected.real_logits)
    assert output.figures["penalty/r2"] > 0
    assert all(torch.equal(output.figures[name], value) for name, value in expected.figures.items())
    for of in (gan, fp32):
        discriminator_step(of, real_batch(), 1)
    ours, theirs = (of.discriminator_update.gradients[0] for of in (gan, fp32))
    assert torch.allclose(ours, theirs, rtol=0.02, atol=1e-4)
    assert ours.any()


def test_the_average_follows_the_fp32_weights() -> None:
    gan = make_gan(dtype=torch.bfloat16)
    update = gan.generator_update
    ema = make_average(EmaConfig(half_life=4.0 * BATCH, warm_up=1e9), update.network, update.weights, BATCH)
    expected = weights(gan.generator_update.network)
    for step in (1, 2, 3):
        generator_step(gan, real_batch(), step)
        ema.update(ema.weight(step))
        expected = [
            a.lerp(b, 1 - 0.5**0.25) for a, b in zip(expected, weights(gan.generator_update.network), strict=True)
        ]
    assert all(torch.allclose(a, b) for a, b in zip(weights(ema.network), expected, strict=True))
    assert all(moved(gan.generator_update.network, weights(ema.network)))


def test_the_optimizer_moves_the_networks_own_weights_as_one_vector() -> None:
    network, _ = build_pair(ModelConfig(hidden_dim=32), (1, 28, 28), 0)
    before = weights(network)
    flat = flatten(network)
    assert not any(moved(network, before))
    assert len(flat) == sum(parameter.numel() for parameter in network.parameters())
    with torch.no_grad():
        flat.add_(1)
    for a, b in zip(weights(network), before, strict=True):
        assert torch.equal(a, b + 1)
    network.load_state_dict({name: tensor * 0 for name, tensor in network.state_dict().items()})
    assert not flat.any()


def test_a_gradients_norm_is_that_of_the_unscaled_gradient() -> None:
    """A GradScaler multiplies the loss, and the fused optimizer divides the gradient in place."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    norms = []
    for scaled in (False, True):
        network, _ = build_pair(ModelConfig(hidden_dim=32), (1, 28, 28), 0)
        optimizer = torch.optim.Adam([flatten(network)], lr=2e-4, fused=True)
        guard = NonfiniteGuard(window=10, rank=0, ranks=1, device=CPU, scaled=scaled)

        def backward(loss: Tensor, inputs: list[Tensor], scaled: bool = scaled) -> None:
            (scaler.scale(loss) if scaled else loss).backward(inputs=inputs)

        update = Update(network, optimizer, FastReduction(ranks=1), BATCH, backward, guard)
        if scaled:
            update._step = lambda optimizer=optimizer: (scaler.step(optimizer), scaler.update())
        update(
            lambda latents, network=network: (network(latents).square().mean(), {"x": torch.zeros(())}),
            torch.ones(BATCH, 64),
        )
        norms.append(gradient_norm(update))
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_a_falling_learning_rate_is_the_same_as_a_tensor(beta1: float) -> None:
    """A CUDA graph reads it from a tensor in single precision."""
    optimizer = OptimizerConfig(learning_rate=1e-3, final_learning_rate=1e-4, decay_images=3000)
    schedule = Schedule(Config(optimizer=optimizer), 1000)
    ends = []
    for make, numbers in NUMBERS:
        weights = nn.Parameter(torch.linspace(-1, 1, 4096))
        adam = torch.optim.Adam([weights], lr=make(1e-3), betas=(beta1, 0.99), fused=True)
        other = torch.optim.Adam([nn.Parameter(torch.zeros(1))])
        hyperparameters = numbers(schedule, adam, other, torch.ones(()), NoAverage(nn.Identity()))
        for step in range(1, 40):
            hyperparameters.set(step)
            hyperparameters.apply()
            weights.grad = (weights.detach() * step).sin()
            adam.step()
        ends.append(weights.detach().clone())
    assert torch.equal(*ends)


def test_networks_with_buffers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    normalized = Architecture(lambda *_: nn.BatchNorm1d(3), lambda *_: nn.Linear(3, 1), ())
    monkeypatch.setitem(ARCHITECTURES, "mlp", normalized)
    with pytest.raises(InputError, match=r"model\.architecture=mlp has buffers \(running_mean, .*GroupNorm"):
        build_pair(ModelConfig(), (1, 28, 28), 0)


# --- NaN and infinite values


class Diverging(nn.Module):
    """Makes the loss NaN, or the gradient of a finite loss NaN."""

    def __init__(self, network: nn.Module, how: str) -> None:
        super().__init__()
        self.network, self.how = network, how

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        out = self.network(x, labels)
        if self.how == "loss":
            return out * torch.nan
        return out + (out.mean() * 0).sqrt()  # 0, with the gradient 0 * infinity


@pytest.mark.parametrize("how", ["loss", "gradient"])
@pytest.mark.parametrize("reduction", [FastReduction(ranks=1, parts=2), ExactReduction(ranks=1, shards=4)])
def test_an_update_that_is_not_finite_is_not_applied(reduction: Reduction, how: str) -> None:
    healthy, gan = make_gan(reduction), make_gan(reduction)
    guard = gan.generator_update.guard
    diverging = Diverging(gan.discriminator, how)
    nonfinite = dataclasses.replace(gan, discriminator=diverging, critic=NoPenalty(diverging))
    for step in (1, 2, 4):
        if step == 2:  # the same step, with an additional update that is not finite
            before = weights(gan.generator), weights(gan.discriminator)
            discriminator_step(nonfinite, real_batch(), step)
            assert not any(moved(gan.discriminator, before[1]))
            assert not gan.discriminator_update.gradients.isfinite().all()
            discriminator_step(gan, real_batch(), step)
            generator_step(nonfinite, real_batch(), step)
            assert not any(moved(gan.generator, before[0]))
            generator_step(gan, real_batch(), step)
        else:
            discriminator_step(gan, real_batch(), step)
            generator_step(gan, real_batch(), step)
        discriminator_step(healthy, real_batch(), step)
        generator_step(healthy, real_batch(), step)
    # The rejected updates left no trace in Adam's state either.
    for ours, theirs in _pairs_of_updates(gan, healthy):
        for a, b in zip(ours.optimizer.state.values(), theirs.optimizer.state.values(), strict=True):
            assert all(torch.equal(a[name], b[name]) for name in a)
    assert not any(moved(gan.generator, weights(healthy.generator)))
    # Recorded in pairs: (D, G), (nonfinite D, D), (nonfinite G, G), (D, G).
    assert guard.collect(4) == [NonfiniteUpdate(2, "discriminator", (0,)), NonfiniteUpdate(3, "discriminator", (0,))]
    assert guard.collect(4) == []


def test_the_guard_names_the_ranks() -> None:
    guard = NonfiniteGuard(window=3, rank=1, ranks=3, device=CPU)
    for sums in ([1, 2, 3], [4, 5, 6], [1, 1, 1], [0, torch.nan, torch.inf], [7, 7, 7], [7, 7, 7]):
        output = torch.tensor(sums, dtype=torch.float32)
        guard.check(output)
        guard.record(output)
        assert guard.veto == (torch.nan in sums)
    (found,) = guard.collect(12)
    assert found == NonfiniteUpdate(11, "generator", (1, 2))
    assert found.describe() == "step 11: the generator's loss or gradient is NaN or infinite on ranks 1, 2"


@pytest.mark.parametrize("shards", [1, 2, 3, 4, 6, 8, 12])
def test_the_tree_of_shards_does_not_depend_on_the_ranks(shards: int) -> None:
    gradients = torch.randn(shards, 1000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 4, 1000)
    whole = tree_sum(gradients)
    assert torch.allclose(whole, gradients.sum(0), rtol=1e-4)
    for ranks in (n for n in range(1, shards + 1) if shards % n == 0):
        sent = [add_local_pairs(share) for share in gradients.chunk(ranks)]
        assert torch.equal(tree_sum(torch.cat(sent)), whole)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6])
def test_latents_are_the_same_on_any_number_of_ranks(ranks: int) -> None:
    def draw(rank: int, of: int, step: int, purpose: str) -> Tensor:
        return at(step, Latents(Draws(9, 12, rank, of, CPU), 5))(purpose).clone()

    whole = draw(0, 1, 4, "generator")
    shares = torch.cat([draw(rank, ranks, 4, "generator") for rank in range(ranks)])
    assert torch.equal(whole, shares)
    assert not torch.equal(whole, draw(0, 1, 5, "generator"))
    assert not torch.equal(whole, draw(0, 1, 4, "discriminator"))


def test_latents_are_standard_normal() -> None:
    latents = Latents(Draws(0, 4096, 0, 1, CPU), 64)
    drawn = torch.stack([at(step, latents)("generator").clone() for step in range(4)])
    assert drawn.mean().abs() < 0.01
    assert (drawn.std() - 1).abs() < 0.01


def test_fixed_latents_are_fixed() -> None:
    assert torch.equal(fixed_latents(1, 64, 16), fixed_latents(1, 64, 16))
    assert not torch.equal(fixed_latents(1, 64, 16), fixed_latents(2, 64, 16))


def stats(i: int) -> dict[str, Tensor]:
    return {name: torch.tensor([float(i * 10 + j)]) for j, name in enumerate(METRICS)}


def alone(window: int) -> Meter:
    return Meter(METRICS, window, 1, lambda rows: rows, ranks=1, device=CPU)


def test_means_are_over_the_open_window() -> None:
    meter = alone(3)
    for i in range(1, 6):
        if i == 4:
            meter.close_window()
        meter.add(stats(i))
        first = max(1, 3 * ((i - 1) // 3) + 1)
        expected = sum(range(first, i + 1)) / (i - first + 1) * 10
        assert meter.means()["loss/discriminator"] == expected
        assert meter.means()["score/fake"] == expected + 3


def test_means_leave_out_what_is_not_finite() -> None:
    meter = alone(3)
    meter.add(stats(1))
    meter.add(stats(2) | {"loss/generator": torch.tensor([torch.nan])})
    meter.add(stats(6) | {"loss/generator": torch.tensor([torch.inf])})
    assert meter.means()["loss/discriminator"] == 30.0
    assert meter.means()["loss/generator"] == 11.0
    meter.close_window()
    meter.add(stats(1) | {"loss/generator": torch.tensor([torch.nan])})
    assert meter.means()["loss/generator"] is None


def test_means_are_over_the_ranks() -> None:
    meter = Meter(METRICS, 2, 1, lambda rows: torch.cat([rows, rows + 2]), ranks=2, device=CPU)
    meter.add(stats(1))
    meter.add(stats(3))
    assert meter.means()["loss/discriminator"] == 21.0


@pytest.mark.parametrize("stop", range(1, 8))
def test_a_window_goes_on_after_a_resume_as_if_never_interrupted(stop: int) -> None:
    whole, first, second = alone(4), alone(4), alone(4)
    values = [stats(i) | {"loss/generator": torch.tensor([0.1]) * i**3} for i in range(8)]
    for i in range(8):
        whole.add(values[i])
        if i == stop:
            second.load_state(first.state())
        part = first if i < stop else second
        part.add(values[i])
        assert part.means() == whole.means()
        if i % 4 == 3:
            whole.close_window()
            part.close_window()
            assert not part.is_open


def schedule(make: Callable[[TrainConfig], TrainConfig], size: int = 100) -> Schedule:
    return Schedule(dataclasses.replace(Config(), train=make(TrainConfig(batch_size=20, epochs=3))), size)


def test_the_schedule_of_whole_epochs() -> None:
    plan = schedule(lambda train: train)
    assert plan.total_steps == 15
    assert [step for step in range(1, 16) if plan.at(step, False).sample] == [5, 10, 15]
    assert [step for step in range(1, 16) if plan.at(step, False).checkpoint] == [5, 10, 15]
    assert [step for step in range(1, 16) if plan.at(step, False).log] == [15]
    assert [step for step in range(1, 16) if plan.at(step, False).stop] == [15]
    assert plan.epoch(15) == 3.0


def test_the_schedule_where_epochs_end_inside_a_batch() -> None:
    plan = schedule(lambda train: train, size=90)
    assert plan.total_steps == 14  # 270 images: 13.5 batches
    assert [step for step in range(1, 15) if plan.at(step, False).sample] == [5, 9, 14]
    assert plan.epochs_completed(14) == 3


def test_steps_end_a_run_inside_an_epoch() -> None:
    plan = schedule(lambda train: dataclasses.replace(train, steps=7))
    assert plan.total_steps == 7
    at = plan.at(7, False)
    assert (at.log, at.sample, at.checkpoint, at.stop) == (True, False, True, True)


@pytest.mark.parametrize(("make", "numbers"), NUMBERS)
def test_learning_rate_goes_down_half_a_cosine_and_gammas_by_equal_factors(make: Any, numbers: Any) -> None:
    optimizer = OptimizerConfig(learning_rate=1e-3, final_learning_rate=1e-4, decay_images=800, generator_factor=1.5)
    penalty = PenaltyConfig(final_factor=0.01, decay_images=400)
    config = Config(optimizer=optimizer, penalty=penalty, train=TrainConfig(batch_size=100))
    schedule, factor = Schedule(config, 1000), torch.ones(())
    weights = nn.Parameter(torch.zeros(3))
    optimizers = [torch.optim.Adam([weights], lr=make(1e-3)) for _ in range(2)]
    hyperparameters = numbers(schedule, *optimizers, factor, NoAverage(nn.Identity()))
    for step, rate, gamma in (
        (1, 1e-3, 1.0),
        (3, 8.68198e-4, 0.1),
        (5, 5.5e-4, 0.01),
        (9, 1e-4, 0.01),
        (99, 1e-4, 0.01),
        (2, 9.657458e-4, 0.01**0.25),  # after a rollback
    ):
        hyperparameters.set(step)
        hyperparameters.apply()
        assert [float(of.param_groups[0]["lr"]) for of in optimizers] == pytest.approx([1.5 * rate, rate])
        assert factor.item() == pytest.approx(gamma)
    assert Schedule(Config(), 1000).constant
    assert Schedule(Config(), 1000).learning_rate(7) == Config().optimizer.learning_rate


def test_a_run_gives_each_network_its_own_learning_rate(flags: Callable[..., list[str]], tmp_path: Path) -> None:
    rates = ["--optimizer.learning-rate", "0.01", "--optimizer.generator-factor", "2"]
    assert train_here(flags(tmp_path, *rates, "--train.steps", "1", "--wandb.mode", "disabled")) == 0
    checkpoint = RunFolder(tmp_path).checkpoints / "step-00000001"
    networks = build_pair(ModelConfig(), (1, 28, 28), seed=0)
    for network, name, rate in zip(networks, ("generator", "discriminator"), (0.02, 0.01), strict=True):
        after = load_file(checkpoint / f"{name}.safetensors")
        steps = [(after[key] - before).abs() for key, before in network.state_dict().items()]
        # Adam's first step is the learning rate in the direction of each gradient's sign.
        assert max(step.max().item() for step in steps) == pytest.approx(rate, rel=1e-3)


def test_every_nth_checkpoint_is_permanent() -> None:
    config = Config(train=TrainConfig(batch_size=20, epochs=9), checkpoint=CheckpointConfig(keep_every=2))
    by_epoch = Schedule(config, 90)  # epochs end in steps 5, 9, 14, 18, ...
    assert [step for step in range(1, 25) if by_epoch.is_permanent(step)] == [9, 18]
    config = dataclasses.replace(config, checkpoint=CheckpointConfig(every_steps=4, keep_every=3))
    assert [step for step in range(1, 25) if Schedule(config, 90).is_permanent(step)] == [12, 24]
    config = dataclasses.replace(config, checkpoint=CheckpointConfig(every_steps=4))
    assert not any(Schedule(config, 90).is_permanent(step) for step in range(1, 25))


def test_a_request_to_stop_saves_and_ends_without_a_log_point() -> None:
    at = schedule(lambda train: train).at(7, True)
    assert (at.log, at.sample, at.checkpoint, at.stop) == (False, False, True, True)
