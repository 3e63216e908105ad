"""Networks that do not fit into the memory are rejected before they are allocated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import train_here

from gan_dist.config import Config, InputError, ModelConfig
from gan_dist.memory import available_memory
from gan_dist.models import ARCHITECTURES, build_pair, cost
from gan_dist.models.cost import check_memory, training_bytes
from gan_dist.train import parse

SHAPE = (1, 28, 28)
CPU = torch.device("cpu")


def weights_of(config: ModelConfig) -> int:
    return sum(weight.numel() for network in build_pair(config, SHAPE, seed=0) for weight in network.parameters())


def test_available_memory_is_the_least_of_the_machine_and_its_cgroups(tmp_path: Path) -> None:
    meminfo, cgroups = tmp_path / "meminfo", tmp_path / "cgroup"
    assert available_memory(meminfo, cgroups) is None
    meminfo.write_text("MemTotal:  9000 kB\nMemFree:   10 kB\nMemAvailable:   4000 kB\n")
    assert available_memory(meminfo, cgroups) == 4_096_000
    cgroups.mkdir()
    (cgroups / "memory.max").write_text("max\n")
    assert available_memory(meminfo, cgroups) == 4_096_000
    (cgroups / "memory.max").write_text("1000000\n")
    assert available_memory(meminfo, cgroups) == 1_000_000


@pytest.mark.parametrize(
    "preset",
    [["seed"], ["conv"], ["conv", "--model.architecture", "residual", "--model.channels", "64"]],
    ids=["mlp", "conv", "residual"],
)
def test_what_training_takes_grows_with_what_is_kept(preset: list[str]) -> None:
    config = parse([*preset, "--train.batch-size", "8"])
    config = dataclasses.replace(config, ema=Config().ema)
    weights = weights_of(config.model)
    least = training_bytes(config, SHAPE, ranks=1)
    assert 16 * weights <= least < 16 * weights + 500_000  # weight, gradient and two moments; and a small batch

    def more(*words: str) -> int:
        changed = parse([*preset, "--train.batch-size", "8", *words])
        ema = changed.ema if "--ema.half-life" in words else config.ema
        return training_bytes(dataclasses.replace(changed, ema=ema), SHAPE, ranks=1) - least

    assert 0 < more("--ema.half-life", "1000") < 4 * weights
    assert 27 * weights < more("--train.exact-shards", "8") < 29 * weights
    assert 1.8 * weights < more("--train.mixed-precision", "bf16") <= 2 * weights
    assert more("--log.every-steps", "1000000") == 4 * cost.FIGURES_PER_STEP * 999_900
    assert more("--train.batch-size", "1600") > 100 * more("--train.batch-size", "32") / 2
    assert training_bytes(config, SHAPE, ranks=4) < least


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_kept_for_the_backward_pass_is_not_overestimated(name: str) -> None:
    config = dataclasses.replace(parse(["--train.batch-size", "2"]), model=ModelConfig(architecture=name))
    more = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=3))
    for_an_image = training_bytes(more, SHAPE, ranks=1) - training_bytes(config, SHAPE, ranks=1)
    generator, discriminator = build_pair(config.model, SHAPE, seed=0)
    weights = {weight.data_ptr() for network in (generator, discriminator) for weight in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = 0 if tensor.data_ptr() in weights else 4 * tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = discriminator(generator(torch.zeros(1, config.model.latent_dim)))
    latent = 4 * config.model.latent_dim
    assert 0 < for_an_image <= sum(kept.values()) + 4 * logits.numel() + latent


def test_processes_share_the_memory_of_their_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = training_bytes(Config(), SHAPE, ranks=2)
    monkeypatch.setattr(cost, "free_memory", lambda device: 2 * needed)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    check_memory(Config(), SHAPE, 2, CPU)
    monkeypatch.setattr(cost, "free_memory", lambda device: 2 * needed - 1)
    with pytest.raises(InputError, match=r"model.hidden_dim=256, .* GB of memory in 2 processes, and .* smaller"):
        check_memory(Config(), SHAPE, 2, CPU)
    monkeypatch.setattr(cost, "free_memory", lambda device: None)
    check_memory(Config(), SHAPE, 2, CPU)


@pytest.mark.parametrize(
    "words",
    [
        ["--model.hidden-dim", "1000000"],
        ["--model.latent-dim", "1000000", "--model.hidden-dim", "100000"],
        ["conv", "--model.channels", "1000000"],
        ["conv", "--model.architecture", "residual", "--model.channels", "1000000", "--model.max-channels", "1000000"],
    ],
)
def test_networks_that_do_not_fit_are_one_line(
    words: list[str], flags: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = words[:1] if not words[0].startswith("-") else []
    more = flags(tmp_path / "run", *words[len(preset) :], "--wandb.mode", "disabled")
    assert train_here([*preset, *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "GB of memory" in line
    assert f"{words[-2].removeprefix('--').replace('-', '_')}={words[-1]}" in line
    assert not (tmp_path / "run").exists()
