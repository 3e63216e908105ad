"""The residual networks: sizes, initial weights, resampling, and runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TRAIN, assert_same_end, launcher, run_command, train_here
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from gan_dist.config import PRESETS, ModelConfig
from gan_dist.models import ARCHITECTURES, build_pair
from gan_dist.models.cost import count_weights
from gan_dist.models.resampling import Downsample, Upsample
from gan_dist.models.residual import Basis, ResidualBlock, count_groups, stages_of
from gan_dist.outputs.folder import RunFolder

SMALL: dict[str, Any] = {"architecture": "residual", "channels": 6, "max_channels": 16, "group_size": 4}


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def last_layers(network: nn.Module) -> list[nn.Conv2d]:
    """The layers that are zero at first."""
    return [block.branch[-1] for block in network.modules() if isinstance(block, ResidualBlock)]


def change_last_layers(network: nn.Module, gain: float = 1.0) -> None:
    """As after some steps: the blocks are no longer the identity."""
    for number, layer in enumerate(last_layers(network)):
        layer.weight.data = noise(*layer.weight.shape, seed=number) * gain / math.sqrt(layer.in_channels)


# --- the networks


@pytest.mark.parametrize(
    ("shape", "grids"),
    [
        ((1, 4, 4), [(4, 4)]),
        ((1, 7, 7), [(7, 7)]),
        ((3, 8, 8), [(8, 8), (4, 4)]),
        ((1, 28, 28), [(28, 28), (14, 14), (7, 7)]),
        ((3, 32, 32), [(32, 32), (16, 16), (8, 8), (4, 4)]),
        ((3, 64, 64), [(64, 64), (32, 32), (16, 16), (8, 8), (4, 4)]),
        ((3, 48, 56), [(48, 56), (24, 28), (12, 14), (6, 7)]),
        ((1, 16, 64), [(16, 64), (8, 32), (4, 16)]),
    ],
)
@pytest.mark.parametrize("classes", [0, 3])
def test_sides_are_halved_down_to_the_smallest_grid(
    shape: tuple[int, int, int], grids: list[tuple[int, int]], classes: int
) -> None:
    config = ModelConfig(**SMALL, blocks=1, latent_dim=5)
    stages = stages_of(config, shape)
    assert [(stage.rows, stage.columns) for stage in stages] == grids
    assert [stage.channels for stage in stages] == [6, 12, 16, 16, 16][: len(stages)]
    generator, discriminator = build_pair(config, shape, 0, classes)
    labels = torch.tensor([0, 2, 1]) if classes else None
    images = generator(noise(3, 5), labels)
    assert images.shape == (3, *shape)
    assert discriminator(images, labels).shape == (3,)
    assert not [*generator.buffers(), *discriminator.buffers()]
    smallest = [module.maps.shape for module in generator.modules() if isinstance(module, Basis)]
    assert smallest == [(stages[-1].channels, *grids[-1])]


@pytest.mark.parametrize(
    ("model", "shape", "classes", "millions", "gflop"),
    [
        # The paper's table 9: Stacked MNIST, CIFAR-10, FFHQ-64 and FFHQ-256. Its conditional D has 21.28 million: 0.59
        # more in a linear layer before the inner product with the embedding.
        ({"channels": 768, "max_channels": 768}, (3, 32, 32), 0, ("20.73", "20.68"), 14.04),
        ({"channels": 768, "max_channels": 768}, (3, 32, 32), 10, ("20.78", "20.69"), 14.04),
        ({"channels": 384, "max_channels": 768}, (3, 64, 64), 0, ("22.43", "22.38"), 26.13),
        ({"channels": 96, "max_channels": 768}, (3, 256, 256), 0, ("23.06", "23.01"), 57.56),
    ],
)
def test_the_sizes_of_the_paper_are_obtained(
    model: dict[str, int], shape: tuple[int, int, int], classes: int, millions: tuple[str, str], gflop: float
) -> None:
    config = ModelConfig(architecture="residual", latent_dim=64, label_dim=64, **model)
    found = ARCHITECTURES["residual"]
    with torch.device("meta"):
        pair = [build(config, shape, classes) for build in (found.generator, found.discriminator)]
        inputs = torch.zeros(1, 64), torch.zeros(1, *shape)
        labels = torch.zeros(1, dtype=torch.int64) if classes else None
        for network, given, expected in zip(pair, inputs, millions, strict=True):
            assert f"{count_weights(network) / 1e6:.2f}" == expected
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                network(given, labels)
            assert round(counter.get_total_flops() / 1e9, 2) == gflop


def test_the_preset_has_the_groups_of_the_paper() -> None:
    config, found = PRESETS["cifar10"]().model, ARCHITECTURES["residual"]
    with torch.device("meta"):
        generator = found.generator(config, (3, 32, 32), 10)
    groups = [module.groups for module in generator.modules() if isinstance(module, nn.Conv2d) and module.groups > 1]
    assert groups == [96] * 8


@pytest.mark.parametrize(
    ("channels", "size", "groups"), [(32, 16, 2), (30, 16, 1), (30, 7, 3), (14, 16, 1), (16, 1, 16), (7, 7, 1)]
)
def test_groups_have_at_least_their_size(channels: int, size: int, groups: int) -> None:
    assert count_groups(channels, size) == groups


def test_images_are_clamped_in_eval_mode_only() -> None:
    generator, _ = build_pair(ModelConfig(**SMALL), (3, 8, 8), 0)
    latents = noise(4, 64) * 10
    free, clamped = generator(latents), generator.eval()(latents)
    assert free.abs().max() > 1
    assert torch.equal(clamped, free.clamp(-1, 1))


def test_model_initialization_has_no_effect() -> None:
    pairs = [build_pair(ModelConfig(**SMALL, initialization=name), (1, 8, 8), 0) for name in ("torch", "he")]  # type: ignore[arg-type]
    for network, other in zip(*pairs, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))


def test_nothing_mixes_the_samples_of_a_batch_behind_blocks_that_are_not_the_identity() -> None:
    generator, discriminator = build_pair(ModelConfig(**SMALL), (3, 16, 16), 0, classes=2)
    change_last_layers(generator)
    change_last_layers(discriminator)
    latents, labels = noise(5, 64), torch.tensor([0, 1, 1, 0, 1])
    images = generator(latents, labels)
    assert torch.allclose(generator(latents[2:3], labels[2:3]), images[2:3], atol=1e-5)
    logits = discriminator(images, labels)
    assert torch.allclose(discriminator(images[2:3], labels[2:3]), logits[2:3], atol=1e-5)
    images = images.detach().requires_grad_()
    (gradients,) = torch.autograd.grad(discriminator(images, labels)[2], images)
    assert gradients[2].abs().sum() > 0
    assert not gradients[[0, 1, 3, 4]].any()


# --- initial weights


def smooth_images(count: int, side: int, seed: int) -> Tensor:
    """With the correlations of pictures: resampling averages independent noise away. The mean square is 1."""
    images = functional.interpolate(noise(count, 3, 4, 4, seed=seed), size=(side, side), mode="bilinear")
    return images / images.square().mean().sqrt()


def sizes_of_signals(network: nn.Module, inputs: Tensor, factors: Tensor) -> tuple[list[float], list[float]]:
    """Mean squares of the maps behind each stage, and of the gradients of the sum of outputs times factors there.

    The gradients are per area of the image: a pixel's gradient is a fourth of that of a pixel of twice its size.
    """
    kept: list[Tensor] = []

    def keep(module: nn.Module, arguments: object, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    assert isinstance(network.layers, nn.Sequential)
    for layer, following in pairwise(network.layers):
        if isinstance(layer, ResidualBlock) and not isinstance(following, ResidualBlock):
            layer.register_forward_hook(keep)
    (network(inputs) * factors).sum().backward()
    gradients = [maps.grad * maps[0, 0].numel() for maps in kept if maps.grad is not None]
    return tuple([float(each.detach().square().mean()) for each in found] for found in (kept, gradients))  # type: ignore[return-value]


@pytest.mark.parametrize("gain", [0.0, 1.0], ids=["initial", "blocks that are not the identity"])
def test_signals_and_gradients_keep_their_size_through_five_stages(gain: float) -> None:
    """Their root mean squares behind the five stages differ by less than a factor of 2."""
    config = ModelConfig(architecture="residual", channels=32, max_channels=64)
    generator, discriminator = build_pair(config, (3, 64, 64), 0)
    images = smooth_images(16, 64, seed=1)
    for network, inputs, factors in ((generator, noise(16, 64), images), (discriminator, images, noise(16, seed=2))):
        assert len(last_layers(network)) == 10
        assert not any(layer.weight.any() for layer in last_layers(network))
        change_last_layers(network, gain)
        for sizes in sizes_of_signals(network, inputs, factors):
            assert len(sizes) == 5
            assert max(sizes) < 4 * min(sizes)


# --- resampling


def test_resampling_is_bilinear() -> None:
    maps = noise(1, 2, 6, 4, dtype=torch.float64)
    assert torch.allclose(Upsample()(maps), functional.interpolate(maps, scale_factor=2, mode="bilinear"))
    weights = torch.tensor([1, 3, 3, 1], dtype=torch.float64) / 8
    padded = functional.pad(maps.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
    expected = functional.conv2d(padded, torch.outer(weights, weights)[None, None], stride=2).view(1, 2, 3, 2)
    assert torch.allclose(Downsample()(maps), expected)
    for resample in (Upsample(), Downsample()):
        assert torch.allclose(resample(torch.full((1, 1, 4, 6), 3.0)), torch.tensor(3.0))
        with torch.random.fork_rng(devices=[]):  # they draw from the global generator
            assert torch.autograd.gradcheck(resample, maps.requires_grad_())
            assert torch.autograd.gradgradcheck(resample, maps)


class Operations(TorchDispatchMode):
    """Collects the names of the operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name().partition("::")[2].partition(".")[0])
        return func(*args, **(kwargs or {}))


def test_resampling_consists_of_operations_that_are_deterministic_on_every_device() -> None:
    """No sum whose order is not fixed, as in the gradients of interpolate, of pad and of an index."""
    elementwise = {"add", "add_", "mul", "div", "lerp", "neg", "ones_like", "zeros_like", "new_zeros", "zeros", "copy_"}
    copies = {"cat", "stack", "clone", "_unsafe_view", "slice_backward", "select_backward", "detach", "empty_like"}
    views = {"view", "slice", "narrow", "unbind", "select", "_reshape_alias", "alias", "as_strided", "expand"}
    for resample in (Upsample(), Downsample()):
        maps = noise(2, 3, 4, 6).requires_grad_()
        with Operations() as operations:
            (gradients,) = torch.autograd.grad(resample(maps).square().sum(), maps, create_graph=True)
            gradients.square().sum().backward()
        assert operations.names <= elementwise | copies | views | {"pow", "sum"}, operations.names


def test_all_weights_have_second_derivatives() -> None:
    """As R1 and R2 need them, in blocks that are not the identity."""
    _, discriminator = build_pair(ModelConfig(**SMALL), (3, 16, 16), 0, classes=2)
    change_last_layers(discriminator)
    images, labels = noise(4, 3, 16, 16).requires_grad_(), torch.tensor([0, 1, 1, 0])
    (gradients,) = torch.autograd.grad(discriminator(images, labels).sum(), images, create_graph=True)
    gradients.square().sum().backward()
    weights = {name: weight for name, weight in discriminator.named_parameters() if not name.endswith("bias")}
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in weights.values())


# --- runs


def write_colours(file: Path, side: int = 16) -> None:
    """Squares in the three colours, which are their classes."""
    rng = np.random.default_rng(0)
    labels = np.arange(160) % 3
    images = rng.integers(0, 60, (160, side, side, 3), np.uint8)
    for image, label, corner in zip(images, labels, rng.integers(0, side // 2, (160, 2)), strict=True):
        image[corner[0] : corner[0] + side // 2, corner[1] : corner[1] + side // 2, label] += 180
    np.savez(file, x_train=images, y_train=labels)


@pytest.mark.slow
@pytest.mark.processes(2)
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_one_process_and_two_train_bit_for_bit_alike_and_resume(
    precision: str, flags: Callable[..., list[str]], tmp_path: Path
) -> None:
    """With labels, R1, R2 and an average; the second run is stopped on two processes and ends on one."""
    write_colours(tmp_path / "colours.npz")
    more = ["--data.name", "arrays", "--data.root", str(tmp_path / "colours.npz"), "--wandb.mode", "disabled"]
    more += ["--model.architecture", "residual", "--model.channels", "8", "--model.max-channels", "16"]
    more += ["--model.labels", "conditional", "--train.exact-shards", "2", "--train.mixed-precision", precision]
    more += ["--train.loss", "relativistic", "--penalty.r1", "1", "--penalty.r2", "1", "--ema.half-life", "100"]
    folders = [RunFolder(tmp_path / name) for name in ("whole", "pieces")]
    whole, pieces = (flags(folder.path, *more, "--train.batch-size", "16") for folder in folders)
    assert train_here([*whole, "--train.steps", "12"]) == 0
    ended = run_command(*launcher(2), TRAIN, *pieces, "--train.steps", "5")
    assert ended.code == 0, ended.err
    assert train_here([*pieces, "--train.steps", "12"]) == 0
    assert_same_end(*folders, 12)
