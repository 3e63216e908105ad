"""Configuration and command line: what is accepted, and what the refusals say."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from conftest import TRAIN, run_command

from gan_dist.config import (
    PRESETS,
    Config,
    DataConfig,
    DistributedConfig,
    InputError,
    TrainConfig,
    check_processes,
    differences,
    doubts,
    from_dict,
    to_dict,
    to_flat,
    validate,
)
from gan_dist.train import main, parse


def test_the_seed_preset_is_the_notebook() -> None:
    flat = to_flat(PRESETS["seed"]())
    assert flat["model.latent_dim"] == 64
    assert flat["model.hidden_dim"] == 256
    assert flat["optimizer.learning_rate"] == 2e-4
    assert (flat["optimizer.beta1"], flat["optimizer.beta2"]) == (0.9, 0.999)
    assert flat["train.batch_size"] == 100
    assert flat["train.epochs"] == 300
    assert flat["train.loss"] == "bce"


def test_every_field_is_explained() -> None:
    help_text = run_command("python", TRAIN, "--help")
    assert help_text.code == 0
    text = " ".join(help_text.out.replace("│", "").split())
    for name, value in to_flat(Config()).items():
        assert f"--{name.replace('_', '-')}" in text
        assert f"(default: {value})" in text


def test_help_does_not_wait_for_torch() -> None:
    program = "import sys; from gan_dist.train import parse; parse(['seed']); print('torch' in sys.modules)"
    assert run_command("python", "-c", program).out.strip() == "False"


def test_flags_override_the_preset() -> None:
    config = parse(["seed", "--train.epochs", "7", "--train.steps", "9", "--data.root", "/x", "--model.latent-dim=32"])
    assert config.train.epochs == 7
    assert config.train.steps == 9
    assert config.data.root == Path("/x")
    assert config.model.latent_dim == 32
    assert config.train.batch_size == 100
    assert parse([]) == PRESETS["seed"]()


def test_configuration_survives_json() -> None:
    config = parse(["--train.steps", "9", "--run.dir", "somewhere/else", "--wandb.name", "x"])
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


def test_differences_name_what_shapes_the_trajectory_only() -> None:
    stored = to_dict(parse([]))
    free = ["--train.epochs", "5", "--run.dir", "x", "--log.every-steps", "7", "--checkpoint.keep", "1"]
    assert differences(stored, parse(free)) == []
    assert differences(stored, parse(["--train.seed", "3", "--model.hidden-dim", "8"])) == [
        "model.hidden_dim: 256 -> 8",
        "train.seed: 0 -> 3",
    ]


def test_a_run_of_a_version_with_fewer_fields_can_go_on() -> None:
    stored = to_dict(parse([]))
    del stored["train"]["loss"], stored["penalty"]
    assert differences(stored, parse([])) == []
    assert differences(stored, parse(["--penalty.r1", "1"])) == ["penalty.r1: 0.0 -> 1.0"]


@pytest.mark.parametrize(
    ("train", "processes", "says"),
    [
        ({"batch_size": 100}, 3, "train.batch_size=100 is not divisible by 3 processes; use 99 or 102"),
        ({"batch_size": 2}, 4, "train.batch_size=2 is not divisible by 4 processes; use 4"),
        (
            {"batch_size": 100, "accumulation": 3},
            2,
            "train.batch_size=100 is not divisible by 2 processes x train.accumulation=3; use 96 or 102",
        ),
        ({"batch_size": 102, "exact_shards": 4}, 2, "not divisible by train.exact_shards=4; use 100 or 104"),
        ({"batch_size": 100, "exact_shards": 4}, 3, "train.exact_shards=4 .* 3 processes; use 1, 2, 4 of them"),
    ],
)
def test_a_batch_that_can_not_be_cut_names_what_works(train: dict[str, int], processes: int, says: str) -> None:
    with pytest.raises(InputError, match=f"{says}$"):
        check_processes(Config(train=TrainConfig(**train)), processes)  # type: ignore[arg-type]
    check_processes(Config(train=TrainConfig(batch_size=24, accumulation=4)), 3)
    check_processes(Config(train=TrainConfig(batch_size=24, exact_shards=4)), 2)


def test_processes_wait_longer_than_rank_0_may_be_busy() -> None:
    config = Config(distributed=DistributedConfig(timeout=100.0))
    check_processes(config, 1)  # nobody waits
    with pytest.raises(InputError, match=r"distributed.timeout=100 is too short, .* data.download_timeout=120"):
        check_processes(config, 2)
    check_processes(dataclasses.replace(config, data=DataConfig(source="local")), 2)


BAD = [
    (["nosuch"], "'nosuch'", "choose from seed"),
    (["--data.name", "emnist"], "--data.name", "'qmnist'"),
    (["--train.epoch", "3"], "--train.epoch", "did you mean --train.epochs?"),
    (["--zzz"], "--zzz", "--help"),
    (["--train.epochs", "many"], "--train.epochs", "'many'"),
    (["--train.epochs"], "--train.epochs", "Expected 1 value"),
    (["--train.epochs", "0"], "train.epochs=0", "at least 1"),
    (["--train.steps", "0"], "train.steps=0", "at least 1"),
    (["--train.batch-size", "0"], "train.batch_size=0", "at least 1"),
    (["--train.batch-size", "-5"], "train.batch_size=-5", "at least 1"),
    (["--train.seed", "-1"], "train.seed=-1", "at least 0"),
    (["--train.threads", "0"], "train.threads=0", "at least 1"),
    (["--optimizer.learning-rate", "nan"], "optimizer.learning_rate=nan", "above 0"),
    (["--optimizer.learning-rate", "0"], "optimizer.learning_rate=0", "above 0"),
    (["--optimizer.learning-rate", "-0.1"], "optimizer.learning_rate=-0.1", "above 0"),
    (["--optimizer.learning-rate", "inf"], "optimizer.learning_rate=inf", "above 0"),
    (["--optimizer.beta1", "1"], "optimizer.beta1=1", "[0, 1)"),
    (["--checkpoint.keep", "0"], "checkpoint.keep=0", "at least 1"),
    (["--wandb.timeout", "nan"], "wandb.timeout=nan", "above 0"),
    (["--train.accumulation", "0"], "train.accumulation=0", "at least 1"),
    (["--train.exact-shards", "0"], "train.exact_shards=0", "at least 1"),
    (["--train.exact-shards", "4", "--train.accumulation", "2"], "train.exact_shards", "leave out"),
    (["--train.compile", "--train.mixed-precision", "fp16"], "train.compile", "use bf16"),
    (["--data.stack", "2"], "data.stack=2", "1 or 3"),
    (["--train.loss", "wgan"], "--train.loss", "'wasserstein'"),
    (["--penalty.r1", "-1"], "penalty.r1=-1", "at least 0"),
    (["--penalty.r1", "1", "--penalty.gradient", "10"], "penalty.gradient", "the one or the others"),
    (["r3", "--train.mixed-precision", "fp16"], "fp16", "use bf16"),
    (["--penalty.final-factor", "0"], "penalty.final_factor=0", "above 0"),
    (["--optimizer.final-learning-rate", "0"], "optimizer.final_learning_rate=0", "above 0"),
    (["--optimizer.generator-factor", "0"], "optimizer.generator_factor=0", "above 0"),
    (["--ema.half-life", "0"], "ema.half_life=0", "above 0"),
    (["--evaluate.count", "10"], "evaluate.count=10", "at least 100"),
    (["--data.name", "kmnist", "--data.source", "sample"], "data.source=sample", "local or download"),
]


@pytest.mark.parametrize(("arguments", "names", "way_out"), BAD, ids=[" ".join(case[0]) for case in BAD])
def test_bad_input_is_one_line(
    arguments: list[str], names: str, way_out: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    assert main([*arguments, "--run.dir", str(folder)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert names in said.err
    assert way_out in said.err
    assert not folder.exists()


def test_the_script_itself_exits_with_2() -> None:
    ended = run_command("python", TRAIN, "--train.epochs", "0")
    assert ended.code == 2
    assert ended.err == "gan_dist: train.epochs=0 can't be used: it must be a whole number of at least 1\n"


def test_a_stored_configuration_from_elsewhere_is_refused() -> None:
    with pytest.raises(InputError, match=r"train\.warp"):
        from_dict({"train": {"warp": 9}})
    with pytest.raises(InputError, match="train is not a dictionary"):
        from_dict({"train": 3})


def test_presets_are_valid() -> None:
    for preset in PRESETS.values():
        validate(preset())
        assert doubts(preset()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--train.loss", "wasserstein"], "try --penalty.gradient 10"),
        (["--train.loss", "relativistic", "--penalty.r1", "1"], "try the preset r3"),
        (["--train.loss", "wasserstein", "--penalty.gradient", "10"], "try --optimizer.beta1 0"),
    ],
)
def test_what_the_literature_doubts_is_said(words: list[str], says: str) -> None:
    (said,) = doubts(parse(words))
    assert said.endswith(says)
    assert "arXiv:" in said


def test_the_readme_has_every_flag_with_its_default() -> None:
    readme = (TRAIN.parent.parent / "README.md").read_text()
    for name, value in to_flat(Config()).items():
        assert f"| `--{name.replace('_', '-')}` | {value} |" in readme
