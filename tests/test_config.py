"""Configuration and command line: what is accepted, and what the refusals say."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
from conftest import REPOSITORY, TRAIN, environment, run_command

from gan_dist.config import (
    PRESETS,
    Config,
    InputError,
    TrainConfig,
    check_processes,
    differences,
    from_dict,
    package_version,
    to_dict,
    to_flat,
    validate,
    warnings,
)
from gan_dist.config.arguments import read_arguments
from gan_dist.config.derived import derive, fields_to_derive
from gan_dist.config.options import Option, docstrings, options_of
from gan_dist.config.ranges import ranges_of
from gan_dist.config.suggestions import ELSEWHERE
from gan_dist.distributed.exit_codes import exit_code
from gan_dist.train import main, parse

NUMERIC = [option for option in options_of(Config) if option.kind in (int, float)]


def test_the_seed_preset_is_the_notebook() -> None:
    flat = to_flat(PRESETS["seed"]())
    assert flat["model.latent_dim"] == 64
    assert flat["model.hidden_dim"] == 256
    assert flat["optimizer.learning_rate"] == 2e-4
    assert (flat["optimizer.beta1"], flat["optimizer.beta2"]) == (0.9, 0.999)
    assert flat["train.batch_size"] == 100
    assert flat["train.epochs"] == 300
    assert flat["train.loss"] == "bce"


@pytest.mark.parametrize("columns", [80, 120])
def test_every_field_is_explained(columns: int) -> None:
    help_text = run_command("python", TRAIN, "--help-all", COLUMNS=str(columns))
    assert help_text.code == 0
    assert max(map(len, help_text.out.splitlines())) <= columns
    text = " ".join(help_text.out.split())
    explained = docstrings(Config)
    for name, value in to_flat(Config()).items():
        assert f"--{name.rstrip('_').replace('_', '-')}" in text
        assert f"{explained[name]} (default: {value})" in text


def test_help_fills_its_lines() -> None:
    """A line ends where the next word would not have fitted, and not where the docstring's line ends."""
    lines = run_command("python", TRAIN, "--help-all", COLUMNS="80").out.splitlines()
    in_a_text = [line.startswith("      ") for line in lines]
    wrapped = [pair for i, pair in enumerate(itertools.pairwise(lines)) if in_a_text[i] and in_a_text[i + 1]]
    assert len(wrapped) > 50
    assert all(len(line) + 1 + len(following.split()[0]) > 80 for line, following in wrapped)


@pytest.mark.parametrize("columns", [80, 120])
def test_help_is_short(columns: int) -> None:
    help_text = run_command("python", TRAIN, "--help", COLUMNS=str(columns))
    assert help_text.code == 0
    lines = help_text.out.splitlines()
    assert len(lines) < 50
    assert max(map(len, lines)) <= columns
    first = lines.index("presets:") + 1
    assert [line.split()[0] for line in lines[first : first + len(PRESETS)]] == list(PRESETS)  # a line for each
    for name in ("train.epochs", "train.batch-size", "train.exact-shards", "wandb.mode", "run.dir", "run.resume"):
        assert any(line.startswith(f"  --{name} ") for line in lines)
    assert "--help-all" in lines[-2]


def test_help_shows_the_values_of_the_preset() -> None:
    assert "(default: runs/r3)" in run_command("python", TRAIN, "r3", "--help").out


def test_a_reader_of_the_help_may_leave() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        words = [sys.executable, str(TRAIN), "--help-all"]
        done = subprocess.run(words, stdout=pipe, stderr=subprocess.PIPE, env=environment(), timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_version_is_that_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    said = run_command("python", TRAIN, "r3", "--version")
    assert (said.code, said.out) == (0, f"gan_dist {metadata.version('gan_dist')}\n")

    def not_installed(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", not_installed)
    assert package_version() == "unknown (not installed)"


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


def test_words_become_values() -> None:
    """What tyro is relied on for."""
    words = ["--train.epochs", "many", "--train.epochs=7", "--train.epochs", "8", "--train.batch_size", "60"]
    words += ["--run.no-shared", "--train.tf32", "--data.root=-x", "--evaluate.every-epochs", "None"]
    flat = to_flat(parse([*words, "--wandb.name=None", "--optimizer.beta1", "5e-1"]))
    assert (flat["train.epochs"], flat["train.batch_size"]) == (8, 60)  # the last one counts
    assert (flat["run.shared"], flat["train.tf32"], flat["data.root"]) == (False, True, "-x")
    assert (flat["evaluate.every_epochs"], flat["wandb.name"], flat["optimizer.beta1"]) == (None, None, 0.5)


@dataclass(frozen=True)
class Refusing:
    """Of a library's kinds of errors one that has no text of ours."""

    size: int = 1
    """Any size."""

    def __post_init__(self) -> None:
        raise ValueError(f"{self.size} is\nodd")


def test_an_error_that_only_tyro_can_name_is_one_line_too() -> None:
    with pytest.raises(InputError) as refused:
        read_arguments(Refusing, ["--size", "3"], prog="x", description="x")
    said = str(refused.value)
    assert said.startswith("the command line is invalid; --help-all lists all flags (")
    assert "Error parsing Refusing: 3 is odd" in said
    assert "\n" not in said


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


PICTURES = {
    "train.batch_size": 64,
    "model.channels": 64,
    "model.hidden_dim": 512,
    "optimizer.learning_rate": 0.001,
    "penalty.r1": 36.0,
    "penalty.r2": 36.0,
    "ema.half_life": 512_000.0,
    "train.epochs": 2_500,
}


def test_pictures_derives_what_no_flag_sets() -> None:
    config, derived = derive(parse(["pictures"]), (3, 64, 64), 4_000)
    assert {item.field: item.value for item in derived} == PICTURES
    assert not fields_to_derive(config)
    validate(config)
    assert derive(config, (1, 32, 32), 10) == (config, [])
    # A field that follows from another one follows from its flag too.
    flags = ["--train.batch-size", "16", "--penalty.r1", "1", "--ema.half-life", "10"]
    config, derived = derive(parse(["pictures", *flags]), (3, 64, 64), 4_000)
    flat = to_flat(config)
    assert (flat["train.batch_size"], flat["penalty.r1"], flat["ema.half_life"]) == (16, 1.0, 10.0)
    assert (flat["penalty.r2"], flat["optimizer.learning_rate"]) == (140.0, 0.0005)
    assert not {"train.batch_size", "penalty.r1", "ema.half_life"} & {item.field for item in derived}
    assert all(item.reason for item in derived)


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 28, 28), (3, 1024, 512)])
@pytest.mark.parametrize("count", [1, 70, 10**9])
def test_derived_values_are_in_their_ranges(shape: tuple[int, int, int], count: int) -> None:
    config, _ = derive(parse(["pictures"]), shape, count)
    validate(config)
    assert config.train.batch_size <= count


def test_presets_with_all_values_derive_nothing() -> None:
    for name in PRESETS.keys() - {"pictures"}:
        assert derive(PRESETS[name](), (3, 64, 64), 4_000) == (PRESETS[name](), [])


def test_what_is_still_to_be_derived_is_no_difference_on_resume() -> None:
    new = parse(["pictures"])
    stored = to_dict(derive(parse(["pictures", "--train.batch-size", "16"]), (3, 64, 64), 4_000)[0])
    assert differences(stored, new) == []
    assert differences(stored, parse(["pictures", "--model.channels", "3"])) == ["model.channels: 64 -> 3"]
    known, _ = derive(new, (3, 64, 64), 4_000)
    assert differences(to_dict(known), known) == []
    assert "train.batch_size: 16 -> 64" in differences(stored, known)


BAD = [
    (["nosuch"], "'nosuch'", "choose from seed"),
    (["sead"], "'sead'", "did you mean seed?"),
    (["--data.name", "emnist"], "data.name='emnist'", "choose from mnist, fashion-mnist,"),
    (["--train.epoch", "3"], "--train.epoch", "did you mean --train.epochs?"),
    (["--zzz"], "--zzz", "--help"),
    (["--train.epochs", "many"], "train.epochs='many'", "is not a whole number"),
    (["--train.epochs=many"], "train.epochs='many'", "is not a whole number"),
    (["--train.batch-size", "1e20"], "train.batch_size='1e20'", "is not a whole number"),
    (["--train.batch-size", "9" * 5000], "train.batch_size='999", "is not a whole number"),
    (["--penalty.r1", "a"], "penalty.r1='a'", "is not a number"),
    (["--train.epochs"], "--train.epochs", "needs a value: a whole number or None, as in --train.epochs 300"),
    (["--train.steps"], "--train.steps", "needs a value: a whole number"),
    (["--train.loss", "--train.steps", "3"], "--train.loss", "needs a value: one of bce, relativistic, hinge"),
    (["--train.epochs="], "train.epochs=''", "is not a whole number"),
    (["--train.tf32=True"], "--train.tf32", "takes no value; write --train.tf32 or --train.no-tf32"),
    (["--run.no-shared", "false"], "--run.no-shared", "write --run.shared or --run.no-shared"),
    (["--train.tf32", "yes"], "--train.tf32", "takes no value; write --train.tf32 or --train.no-tf32"),
    (["--train.tf32", "r3"], "r3", "must be the first word"),
    (["--train.compile"], "--train.compile", "has another name; write --train.capture on"),
    (["--train.no-compile"], "--train.no-compile", "has another name; write --train.capture off"),
    (["--train.steps", "all"], "train.steps='all'", "is not a whole number or None"),
    (["--train.mixed-precision", "int8"], "train.mixed_precision='int8'", "choose from no, bf16, fp16, None"),
    (["--train.loss", "-x"], "--train.loss", "needs a value: one of bce"),
    (["--tyro-write-completion", "bash", "/nowhere/x"], "--tyro-write-completion", "--help-all lists all flags"),
    (["seed", "foo"], "'foo'", "gan_dist/train.py [PRESET] [--FLAG VALUE ...]"),
    (["seed", "r3"], "r3", "must be the first word"),
    (["--train.epochs", "3", "r3"], "r3", "must be the first word"),
    (["epochs=3"], "'epochs=3'", "did you mean --train.epochs?"),
    (["--train.epochs", "0"], "train.epochs=0", "from 1 to 1,000,000"),
    (["--train.batch-size", "-5"], "train.batch_size=-5", "from 1 to"),
    (["--log.every-steps", str(10**10)], "log.every_steps=10000000000", "1 to 1,000,000 (the figures of all these"),
    (["--optimizer.learning-rate", "nan"], "optimizer.learning_rate=nan", "from 1e-12 to 10"),
    (["--optimizer.learning-rate", "-1e-3"], "optimizer.learning_rate=-0.001", "from 1e-12 to 10"),
    (["--penalty.r1", "-inf"], "penalty.r1=-inf", "from 0 to 1e+06"),
    (["--optimizer.beta1", "1"], "optimizer.beta1=1", "from 0 to 0.999999"),
    (["--evaluate.count", "10"], "evaluate.count=10", "from 100 to"),
    (["--train.exact-shards", "4", "--train.accumulation", "2"], "train.exact_shards", "omit one of them"),
    (["--train.capture", "on", "--profile"], "train.capture=on", "omit one of them"),
    (["--train.tf32", "--train.exact-shards", "4"], "train.tf32", "only some GPUs have TensorFloat-32"),
    (["--train.channels-last", "--train.exact-shards", "4"], "train.channels_last", "the order of its sums, depends"),
    (["--train.cudnn-benchmark", "--train.exact-shards", "4"], "train.cudnn_benchmark", "between two starts on one"),
    (["--distributed.gradients", "ddp", "--train.exact-shards", "4"], "distributed.gradients", "in a fixed order"),
    (["--distributed.gradients", "ddp", "--train.capture", "on"], "distributed.gradients", "can't replay DDP's hooks"),
    (["--data.stack", "2"], "data.stack=2", "1 or 3"),
    (["--train.loss", "wgan"], "train.loss='wgan'", "choose from bce, "),
    (["--penalty.r1", "1", "--penalty.gradient", "10"], "penalty.gradient", "use one or the others"),
    (["r3", "--train.mixed-precision", "fp16"], "fp16", "use bf16"),
    (["--data.name", "kmnist", "--data.source", "sample"], "data.source=sample", "local or download"),
]


@pytest.mark.parametrize(("arguments", "names", "way_out"), BAD, ids=[" ".join(case[0])[:40] for case in BAD])
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


EXTREMES = [-1, 0, 10**10, 10**20, -(10**20), *(float(word) for word in ("nan", "inf", "-inf"))]


@pytest.mark.parametrize("option", NUMERIC, ids=[option.name for option in NUMERIC])
def test_a_numeric_field_is_in_its_range_or_refused_in_one_line(
    option: Option, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every numeric field of Config is covered, a new one too."""
    accepted = ranges_of(Config)[option.name]
    assert docstrings(Config)[option.name].endswith(f" Range: {accepted}.")
    accepted.check(option.name, option.kind(accepted.lowest))
    accepted.check(option.name, option.kind(accepted.highest))

    def parsed(words: list[str]) -> int:
        assert to_flat(parse(words))[option.name] == float(words[-1])
        return 0

    for value in EXTREMES:
        words = [option.flag, f"{value}"]
        inside = accepted.lowest <= value <= accepted.highest and (option.kind is float or isinstance(value, int))
        assert exit_code("gan_dist", functools.partial(parsed, words)) == (0 if inside else 2), words
        said = capsys.readouterr().err
        assert said.count("\n") == (0 if inside else 1)
        assert inside or said.startswith(f"gan_dist: {option.name}=")


TEXTS = [option for option in options_of(Config) if option.kind in (str, Path) and not option.choices]
UNUSABLE = ["a\0b", "a\nb", "a\x1b[2Jb", "a\u2028b", "a\udcffb", "", "x" * 300, "y/" * 3000]


@pytest.mark.parametrize("option", TEXTS, ids=[option.name for option in TEXTS])
@pytest.mark.parametrize("text", UNUSABLE, ids=[repr(text)[:10] for text in UNUSABLE])
def test_a_text_that_nothing_can_hold_is_one_line(
    option: Option, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([option.flag, text]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"gan_dist: {option.name}=" in said
    assert len(said) < 250
    section, _, name = option.name.partition(".")
    part = dataclasses.replace(getattr(Config(), section), **{name: option.kind(text)})
    if text or option.kind is str:  # Path("") is the working directory
        with pytest.raises(InputError, match=option.name):
            validate(dataclasses.replace(Config(), **{section: part}))


def test_bytes_that_are_no_text_are_one_line() -> None:
    words: list[bytes] = [os.fsencode(sys.executable), os.fsencode(TRAIN), b"--run.dir", b"runs/\xff"]
    done = subprocess.run(words, capture_output=True, env=environment(), timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith(b"gan_dist: run.dir='runs/\\udcff' is not supported: it is not valid UTF-8")
    assert done.stderr.count(b"\n") == 1


MEANT = {
    **{f"--{name}": f"--train.{name}" for name in ("epochs", "steps", "batch-size", "seed", "loss", "threads")},
    "--batch_size": "--train.batch-size",
    "--lr": "--optimizer.learning-rate",
    "--train.lr": "--optimizer.learning-rate",
    "--learning-rate": "--optimizer.learning-rate",
    "--output": "--run.dir",
    "--output_dir": "--run.dir",
    "--resume": "--run.resume",
    "--name": "--data.name or --wandb.name",
    "--wandb-name": "--wandb.name",
    "--latent-dim": "--model.latent-dim",
    "--hidden_dim": "--model.hidden-dim",
    "--dataset": "--data.name",
    "--bf16": "--train.mixed-precision bf16",
    "--fp16": "--train.mixed-precision fp16",
    "--no-wandb": "--wandb.mode disabled",
    "--workers": "--train.threads",
    "--no-train.tf32": "--train.no-tf32",
    "--no-shared": "--run.no-shared",
    "--Train.Epochs": "--train.epochs",
    "--epoch": "--train.epochs",
    "--train.epoch=3": "--train.epochs",
    "--model.hiden-dim": "--model.hidden-dim",
    "--checkpoint.every-epochs": "--checkpoint.every-steps",
}


@pytest.mark.parametrize(("word", "meant"), MEANT.items(), ids=MEANT)
def test_an_unknown_flag_gets_the_one_that_was_meant(word: str, meant: str) -> None:
    with pytest.raises(InputError) as refused:
        parse([word, "3"])
    assert str(refused.value) == f"there is no flag {word.partition('=')[0]}; did you mean {meant}?"


@pytest.mark.parametrize("word", ["--gpus", "--num_processes", "--nproc-per-node"])
def test_a_flag_of_the_launcher_is_named_as_such(word: str) -> None:
    with pytest.raises(
        InputError, match=f"no flag {word}; it is for the launcher: accelerate launch .*--num_processes"
    ):
        parse([word, "2"])


def test_what_is_suggested_exists() -> None:
    known = {option.flag for option in options_of(Config)} | {"--count", "--output", "--seed", "--processes"}
    for ours in itertools.chain.from_iterable(ELSEWHERE.values()):
        flag, *value = ours.split()
        assert flag in known
        if value:
            parse([flag, *value])


def test_the_script_itself_exits_with_2() -> None:
    ended = run_command("python", TRAIN, "--train.epochs", "0")
    assert ended.code == 2
    assert ended.err == "gan_dist: train.epochs=0 is not supported: it must be a whole number from 1 to 1,000,000\n"


def test_a_stored_configuration_from_elsewhere_is_refused() -> None:
    with pytest.raises(InputError, match=r"train\.warp"):
        from_dict({"train": {"warp": 9}})
    with pytest.raises(InputError, match="train is not a dictionary"):
        from_dict({"train": 3})
    for name, value in (("epochs", "many"), ("epochs", 3.5), ("epochs", True), ("loss", "wgan"), ("capture", 1)):
        with pytest.raises(InputError, match=f"train.{name}={value!r} is of the wrong type"):
            from_dict({"train": {name: value}})
    with pytest.raises(InputError, match=r"run\.dir=None"):
        from_dict({"run": {"dir": None}})
    with pytest.raises(InputError, match=r"train\.compile"):
        from_dict({"train": {"compile": "yes"}})
    for compiled, capture in ((True, "on"), (False, "off")):  # of an earlier version
        assert from_dict({"train": {"compile": compiled}}).train.capture == capture
    assert from_dict({"distributed": {"timeout": 300}, "train": {"steps": None}}) == Config()


def test_presets_are_valid() -> None:
    for preset in PRESETS.values():
        validate(preset())
        assert warnings(preset()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--train.loss", "wasserstein"], "try --penalty.gradient 10"),
        (["--train.loss", "relativistic", "--penalty.r1", "1"], "try the preset r3"),
        (["--train.loss", "wasserstein", "--penalty.gradient", "10"], "try --optimizer.beta1 0"),
    ],
)
def test_what_the_literature_doubts_is_said(words: list[str], says: str) -> None:
    (said,) = warnings(parse(words))
    assert said.endswith(says)
    assert "arXiv:" in said


def test_the_page_of_flags_is_the_one_that_its_command_writes() -> None:
    page = run_command("python", "-m", "gan_dist.config.reference")
    assert page.code == 0, page.err
    assert (REPOSITORY / "docs" / "configuration.md").read_text() == page.out
    for name, value in to_flat(Config()).items():
        assert f"| `--{name.rstrip('_').replace('_', '-')}`" in page.out
        assert f"| {value} |" in page.out
