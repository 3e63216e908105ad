"""The seed's networks: shapes, ranges, first weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gan_dist.config import InputError, ModelConfig
from gan_dist.models import ARCHITECTURES, build_generator, build_pair

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


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_maps_latents_to_images_to_probabilities(name: str) -> None:
    config = ModelConfig(architecture=name, latent_dim=7, hidden_dim=11)  # type: ignore[arg-type]
    for shape in (SHAPE, (3, 32, 32)):
        generator, discriminator = build_pair(config, shape, seed=0)
        images = generator(torch.randn(5, 7, generator=torch.Generator().manual_seed(0)) * 100)
        assert images.shape == (5, *shape)
        assert images.abs().max() <= 1
        assert generator.latent_dim == 7
        logits, probability = discriminator(images), discriminator.probability(images)
        assert logits.shape == probability.shape == (5,)
        assert torch.allclose(probability, 1 / (1 + torch.exp(-logits)))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_nothing_mixes_the_samples_of_a_batch(name: str) -> None:
    """Law 1: an image's logit is the same alone and in a batch."""
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


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_he_weights_keep_the_size_of_a_signal(name: str) -> None:
    """What leaves D's last hidden layer is as large as what came in; with torch's own first weights it is not."""
    shape = (1, 64, 64)  # large, for what a convolution pads with takes some of the signal away
    images = torch.randn(64, *shape, generator=torch.Generator().manual_seed(0))
    sizes = {}
    for initialization in ("torch", "he"):
        config = ModelConfig(architecture=name, initialization=initialization)  # type: ignore[arg-type]
        _, discriminator = build_pair(config, shape, seed=0)
        assert isinstance(discriminator.layers, nn.Sequential)
        sizes[initialization] = discriminator.layers[:-1](images).square().mean().item()
        assert (sum(p.abs().sum() for n, p in discriminator.named_parameters() if "bias" in n) == 0) == (
            initialization == "he"
        )
    assert 0.5 < sizes["he"] < 2
    assert sizes["torch"] < 0.2


def test_conv_refuses_images_that_it_can_not_halve_twice() -> None:
    with pytest.raises(InputError, match="sides are multiples of 4, not 30x28"):
        build_pair(ModelConfig(architecture="conv"), (1, 30, 28), seed=0)
