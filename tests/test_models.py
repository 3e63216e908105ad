"""Networks: shapes, ranges and initial weights."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gan_dist.config import InputError, ModelConfig
from gan_dist.models import ARCHITECTURES, build_generator, build_pair
from gan_dist.models.memory_format import use_channels_last

SHAPE = (1, 28, 28)


def test_the_seeds_layers() -> None:
    generator, discriminator = build_pair(ModelConfig(), SHAPE, seed=0)

    def sizes(network: nn.Module) -> list[tuple[int, int]]:
        return [(m.in_features, m.out_features) for m in network.modules() if isinstance(m, nn.Linear)]

    assert sizes(generator) == [(64, 256), (256, 256), (256, 784)]
    assert sizes(discriminator) == [(784, 256), (256, 256), (256, 256), (256, 1)]
    leaks = [m.negative_slope for m in discriminator.modules() if isinstance(m, nn.LeakyReLU)]
    assert leaks == [0.2, 0.2, 0.2]
    assert [type(m) for m in generator.modules()].count(nn.ReLU) == 2
    assert isinstance(list(generator.modules())[-1], nn.Tanh)
    images = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.allclose(discriminator.probability(images), 1 / (1 + torch.exp(-discriminator(images))))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_maps_latents_to_images_to_logits(name: str) -> None:
    config = ModelConfig(architecture=name, latent_dim=7, hidden_dim=11)  # type: ignore[arg-type]
    for shape in (SHAPE, (3, 32, 32)):
        generator, discriminator = build_pair(config, shape, seed=0)
        images = generator.eval()(torch.randn(5, 7, generator=torch.Generator().manual_seed(0)) * 100)
        assert images.shape == (5, *shape)
        assert images.abs().max() <= 1
        assert discriminator(images).shape == (5,)


@pytest.mark.parametrize("name", ["conv", "residual"])
def test_channels_last_changes_the_layout_and_nothing_else(name: str) -> None:
    """In the network, in its copies, and through two backward passes."""
    config = ModelConfig(architecture=name, latent_dim=7, hidden_dim=11, channels=4, max_channels=8)
    layouts: list[bool] = []

    def outcome(changed: bool) -> list[torch.Tensor]:
        pair = build_pair(config, (3, 32, 32), seed=0)
        if changed:
            assert use_channels_last(*pair)
        generator, discriminator = copy.deepcopy(pair)
        last = [module for module in discriminator.modules() if isinstance(module, nn.Conv2d)][-1]
        last.register_forward_pre_hook(
            lambda _, inputs: layouts.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
        )
        images = generator(torch.randn(5, 7, generator=torch.Generator().manual_seed(0)))
        (gradients,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
        gradients.square().sum().backward()
        found = [network.state_dict() for network in (generator, discriminator)]
        assert all(tensor.is_contiguous() for state in found for tensor in state.values())  # as checkpoints need
        return [images, *(p.grad for p in [*generator.parameters(), *discriminator.parameters()] if p.grad is not None)]

    for one, other in zip(outcome(False), outcome(True), strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-5 * float(one.detach().abs().max()))
    assert layouts == [False, True]
    assert not use_channels_last(*build_pair(ModelConfig(), SHAPE, seed=0))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_cost_of_a_pixel_of_conv_does_not_grow_with_the_image(channels: int) -> None:
    def operations(side: int) -> float:
        shape = (channels, side, side)
        pair = build_pair(ModelConfig(architecture="conv"), shape, seed=0)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            for network, inputs in zip(pair, (torch.zeros(1, 64), torch.zeros(1, *shape)), strict=True):
                network(inputs)
        return counter.get_total_flops() / side**2

    small = operations(32)
    assert all(operations(side) < 1.03 * small for side in (28, 64, 128, 256, 512))


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 36, 100), (3, 4, 72)])
def test_conv_has_the_stages_that_a_side_needs(shape: tuple[int, int, int]) -> None:
    """Sides that halve to odd numbers too, with the second derivatives that R1 needs."""
    generator, discriminator = build_pair(ModelConfig(architecture="conv", channels=5), shape, seed=0)
    with torch.no_grad():
        images = generator(torch.randn(2, 64, generator=torch.Generator().manual_seed(0)))
    assert images.shape == (2, *shape)
    largest = max(m.out_features for m in generator.modules() if isinstance(m, nn.Linear) and m.in_features == 256)
    assert largest <= 64 * 5 * 4
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    gradient.square().sum().backward()
    convolutions = [m for m in discriminator.modules() if isinstance(m, nn.Conv2d)]
    assert all(layer.weight.grad.abs().sum() > 0 for layer in convolutions)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_nothing_mixes_the_samples_of_a_batch(name: str) -> None:
    """An image's logit is the same alone and in a batch."""
    generator, discriminator = build_pair(ModelConfig(architecture=name), SHAPE, seed=0)  # type: ignore[arg-type]
    latents = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    images = generator(latents)
    assert torch.allclose(generator(latents[2:3]), images[2:3], atol=1e-6)
    assert torch.allclose(discriminator(images[2:3]), discriminator(images)[2:3], atol=1e-6)


def test_the_seed_fixes_the_first_weights() -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        return [p.detach() for network in build_pair(ModelConfig(), SHAPE, seed) for p in network.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(weights(1), weights(1), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(weights(1), weights(2), strict=True))
    names = [name for name, _ in build_pair(ModelConfig(), SHAPE, 1)[0].named_parameters()]
    assert [name for name, _ in build_generator(ModelConfig(), SHAPE).named_parameters()] == names


@pytest.mark.parametrize("name", [name for name, found in ARCHITECTURES.items() if not found.own_initialization])
def test_he_weights_keep_the_size_of_a_signal(name: str) -> None:
    """The output of D's last hidden layer has the variance of its input, unlike with torch's default weights."""
    shape = (1, 64, 64)  # large, because zero padding weakens the signal
    # Smooth, as pictures are: pooling averages independent noise away.
    noise = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images = nn.functional.interpolate(noise, size=shape[1:], mode="bilinear")
    images = images / images.square().mean().sqrt()
    inputs = {}
    for initialization in ("torch", "he"):
        config = ModelConfig(architecture=name, initialization=initialization)  # type: ignore[arg-type]
        _, discriminator = build_pair(config, shape, seed=0)
        layers = [m for m in discriminator.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
        layers[-1].register_forward_pre_hook(lambda _, args, key=initialization: inputs.update({key: args[0].detach()}))
        discriminator(images)
        assert (sum(layer.bias.abs().sum() for layer in layers) == 0) == (initialization == "he")
    assert 0.5 < inputs["he"].square().mean() < 2
    if len(layers) > 1:
        assert inputs["torch"].square().mean() < 0.2


@pytest.mark.parametrize(
    ("name", "sides", "says"),
    [
        ("conv", (28, 4), None),
        ("conv", (28, 5), "multiples of 4, not 28x5; use mlp"),
        ("residual", (28, 32), None),
        ("residual", (96, 96), None),
        ("residual", (28, 36), "4, 5, 6 or 7 times a power of two, not 28x36; use mlp or conv"),
        ("residual", (3, 4), "4, 5, 6 or 7 times a power of two, not 3x4; use mlp"),
    ],
)
def test_image_sides_must_be_those_that_the_architecture_declares(
    name: str, sides: tuple[int, int], says: str | None
) -> None:
    config = ModelConfig(architecture=name, channels=2)  # type: ignore[arg-type]
    for build in (build_generator, lambda *args: build_pair(*args, seed=0)):
        with contextlib.nullcontext() if says is None else pytest.raises(InputError, match=says) as found:
            build(config, (1, *sides))
        if found is not None:
            assert str(found.value).startswith(f"model.architecture={name} requires images whose sides are ")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_declares_the_fields_of_its_size(name: str) -> None:
    """These fields change the number of weights, and no others do."""

    def weights(**changes: Any) -> int:
        pair = build_pair(ModelConfig(architecture=name, **changes), SHAPE, seed=0)
        return sum(parameter.numel() for network in pair for parameter in network.parameters())

    integers = [field.name for field in dataclasses.fields(ModelConfig) if isinstance(field.default, int)]
    resized = [field for field in integers if weights(**{field: 7}) != weights()]
    assert sorted(resized) == sorted(ARCHITECTURES[name].size_fields)
