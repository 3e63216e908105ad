"""Using a run: its generators, images, hashes, and the commands."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import picture_size, run_command
from damage import Damage, damages, loads_or_is_refused
from hypothesis import given
from safetensors.torch import save

import gan_dist
from gan_dist import cli, train
from gan_dist.config import PRESETS, InputError, package_version
from gan_dist.data.pixels import quantize
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json, read_json_lines
from gan_dist.results import arguments, sample
from gan_dist.tensors import read_tensors


@pytest.fixture(scope="module")
def finished(flags: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "run"
    assert train.main(flags(folder, "--train.steps", "12", "--wandb.mode", "disabled")) == 0
    return folder


@pytest.fixture(scope="module")
def averaged(flags: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that keeps an average and evaluates once, after 10 of its 12 steps."""
    folder = tmp_path_factory.mktemp("averaged")
    words = ["--ema.half-life", "50", "--evaluate.every-epochs", "1", "--evaluate.count", "100"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GAN_DIST_CACHE", str(folder / "cache"))
        assert train.main(flags(folder / "run", "--train.steps", "12", "--wandb.mode", "disabled", *words)) == 0
    return folder / "run"


def test_load_generator(finished: Path) -> None:
    generator = gan_dist.load_generator(finished)
    assert not generator.training
    assert (generator.latent_dim, generator.shape, generator.classes) == (64, (1, 28, 28), None)
    images = generator(torch.zeros(3, 64)).numpy()  # no gradients, so no torch.no_grad() around it
    assert images.shape == (3, 1, 28, 28)
    assert np.abs(images).max() <= 1


def test_load_generator_loads_each_generator_of_a_run(averaged: Path, finished: Path, tmp_path: Path) -> None:
    folder, latents = RunFolder(averaged), torch.ones(2, 64)
    files = {"average": folder.generator, "live": folder.live_generator, "best": folder.best_generator}
    made = {weights: gan_dist.load_generator(averaged, weights)(latents) for weights in files}  # type: ignore[arg-type]
    for weights, file in files.items():
        moved = tmp_path / f"{weights}.safetensors"
        moved.write_bytes(file.read_bytes())
        assert torch.equal(gan_dist.load_generator(moved)(latents), made[weights])
    assert not any(torch.equal(made[a], made[b]) for a, b in itertools.combinations(made, 2))
    # Without an average, "average" is the trained generator.
    live, used = (gan_dist.load_generator(finished, weights)(latents) for weights in ("live", "average"))
    assert torch.equal(live, used)


def test_the_commands_use_each_generator_of_a_run(
    averaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GAN_DIST_CACHE", str(averaged.parent / "cache"))
    folder, arrays = RunFolder(averaged), []
    words = {"average": folder.generator, "live": folder.live_generator, "best": folder.best_generator}
    for weights, file in words.items():
        for run in ([str(averaged), "--weights", weights], [str(file)]):
            output = tmp_path / "some.npz"
            assert cli.main(["sample", *run, "--count", "3", "--output", str(output), "--force"]) == 0
            arrays.append(np.load(output)["images"])
    for by_name, by_file in zip(arrays[::2], arrays[1::2], strict=True):
        assert np.array_equal(by_name, by_file)
    assert not np.array_equal(arrays[0], arrays[2])
    assert not np.array_equal(arrays[0], arrays[4])

    assert cli.main(["evaluate", str(averaged), "--weights", "best", "--count", "100"]) == 0
    assert f"{folder.best_generator}, step 10: 100 images" in capsys.readouterr().out
    by_name = read_json(folder.evaluation)
    assert (by_name["generator"], by_name["step"]) == (str(folder.best_generator), 10)
    assert cli.main(["evaluate", str(folder.best_generator), "--count", "100"]) == 0
    by_file = read_json(averaged / "generator-best-evaluation.json")
    assert by_file["figures"] == by_name["figures"]
    (row,) = read_json_lines(folder.evaluations)
    assert by_name["figures"]["distance/frechet"]["value"] == pytest.approx(row["distance/frechet"], rel=1e-5)
    assert cli.main(["evaluate", str(averaged), "--count", "100"]) == 0
    assert read_json(folder.evaluation)["step"] == 12


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains_a_generator(
    preset: str, flags: Callable[..., list[str]], labelled_root: Path, tmp_path: Path
) -> None:
    words = [preset, *flags(tmp_path / "run", "--train.steps", "5", "--wandb.mode", "disabled")]
    words += ["--data.name", "mnist", "--data.root", str(labelled_root)]
    if preset == "cifar10":  # made for GPUs
        words += ["--model.channels", "8", "--model.max-channels", "16"]
    assert train.main(words) == 0
    (row,) = read_json_lines(RunFolder(tmp_path / "run").metrics)
    assert all(math.isfinite(value) for value in row.values())
    config, generator = PRESETS[preset](), gan_dist.load_generator(tmp_path / "run")
    labels = torch.tensor([3, 7]) if config.model.labels == "conditional" else None
    assert generator(torch.zeros(2, 64), labels).shape == (2, config.data.stack, 28, 28)


def test_sample_writes_a_grid_and_an_array(finished: Path, tmp_path: Path) -> None:
    grid, array = tmp_path / "grid.png", tmp_path / "many.npz"
    assert cli.main(["sample", str(finished), "--count", "9", "--output", str(grid)]) == 0
    assert picture_size(grid) == (3 * 30 + 2, 3 * 30 + 2)
    assert cli.main(["sample", str(finished), "--count", "1500", "--output", str(array)]) == 0
    images = np.load(array)["images"]
    assert images.shape == (1500, 1, 28, 28)
    assert images.dtype == np.uint8
    first = array.read_bytes()
    assert cli.main(["sample", str(finished), "--count", "1500", "--output", str(array), "--seed", "1", "--force"]) == 0
    assert array.read_bytes() != first


def test_gan_dist_train_trains_the_same_generator(
    finished: Path, flags: Callable[..., list[str]], tmp_path: Path
) -> None:
    assert cli.main(["train", *flags(tmp_path / "run", "--train.steps", "12", "--wandb.mode", "disabled")]) == 0
    same = [RunFolder(folder).generator.read_bytes()[-10_000:] for folder in (finished, tmp_path / "run")]
    assert same[0] == same[1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["paint"], "no command 'paint'; choose from train, data, sample, walk, evaluate, doctor, diff"),
        (["trian"], "no command 'trian'; did you mean train?"),
        (["sample", "RUN", "--count", "0"], "count=0 is not supported: it must be a whole number from 1 to 1,000,000"),
        (
            ["sample", "RUN", "--count", str(10**10), "--output", "x.npz"],
            "1 to 1,000,000,000 (these take days)",
        ),
        (["sample", "RUN", "--count", "10001"], "1 to 10,000 (a larger grid is unreadable; use .npz)"),
        (["sample", "RUN", "--count", "1e20"], "count='1e20' is not a whole number"),
        (["sample", "RUN", "--seed", str(10**20)], "seed=100000000000000000000 is not supported"),
        (["sample", "RUN", "--n", "3"], "did you mean --count?"),
        (["sample", "RUN", "--out", "x.png"], "did you mean --output?"),
        (["sample", "RUN", "twice"], "'twice' does not belong to a flag; the command is: gan-dist sample RUN"),
        (["sample", "a\0b"], "run='a\\x00b' is not supported: it holds a control character"),
        (["sample", "RUN", "--output", "x" * 300 + ".png"], "a name in it is longer than 200 bytes"),
        (["evaluate", "RUN", "--count", str(10**10)], "count=10000000000 is not supported"),
        (["evaluate", "RUN", "--seed", str(10**20)], "seed=100000000000000000000 is not supported"),
        (["check", "--processes", "0"], "processes=0 is not supported: it must be a whole number from 1 to 1,024"),
        (["check", "--processes", str(10**10)], "1 to 1,024 (no machine has more cores or GPUs)"),
        (["check", "--processes", "1e6"], "processes='1e6' is not a whole number"),
        (["sample", "RUN", "--output", "x.jpg"], "output=x.jpg must end in .png"),
        (["sample", "RUN", "--output", "/nowhere/x.png"], "output=/nowhere/x.png can't be written"),
        (["sample", "RUN", "--cuont", "3"], "did you mean --count?"),
        (["sample", "/nowhere"], "/nowhere holds no generator.safetensors; it is written with the first checkpoint"),
        (["sample", "/nowhere", "--weights", "live"], "/nowhere holds no generator.safetensors"),
        (
            ["sample", "RUN", "--weights", "best"],
            "RUN holds no generator-best.safetensors; it is written with the first ch",
        ),
        (["evaluate", "RUN", "--weights", "best"], "RUN holds no generator-best.safetensors"),
        (["sample", "/nowhere/a.safetensors"], "/nowhere holds no a.safetensors"),
        (["sample", "RUN", "--weights", "bset"], "weights"),
        (["sample", "/nowhere/a.safetensors", "--weights", "best"], "weights=best selects a file in a run folder"),
        (["sample"], "RUN is missing; the command is: gan-dist sample RUN"),
        (["diff", "RUN"], "RUN RUN is incomplete; the command is: gan-dist diff RUN RUN"),
        (["diff", "RUN", "--typo", "RUN"], "there is no flag --typo"),
        (["diff", "--typo"], "there is no flag --typo"),
        (["evaluate", "RUN", "--root", "DIR"], "there is no flag --root; did you mean --data.root?"),
        (["diff", "RUN", ""], "runs='' is not supported: it is empty"),
        (["sample", "RUN", "--output", ""], "output='' is not supported: it is empty"),
        (["diff", "RUN", "RUN"], "holds no hashes; train with --train.log-hashes N"),
    ],
)
def test_bad_arguments_are_one_line(
    words: list[str], says: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([str(finished) if word == "RUN" else word for word in words]) == 2
    output = capsys.readouterr().err
    assert says.replace("RUN holds", f"{finished} holds") in output
    assert output.count("\n") == 1


def test_diff_finds_the_first_step_and_tensor(
    flags: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(name: str, *more: str) -> str:
        folder = tmp_path / name
        words = flags(folder, "--train.steps", "12", "--wandb.mode", "disabled", "--train.log-hashes", "2", *more)
        assert train.main(words) == 0
        return str(folder)

    one, same, other = run("one"), run("same"), run("other", "--optimizer.beta2", "0.9")
    capsys.readouterr()
    assert cli.main(["diff", one, same]) == 0
    assert capsys.readouterr().out == "the runs are equal at all 6 hashed steps, the last 12\n"

    # As with a bug of a distributed run: one tensor differs after step 6.
    hashes = RunFolder(Path(same)).hashes
    lines = [json.loads(line) for line in hashes.read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    assert {name.split("/")[0] for name in lines[0]["hashes"]} == {
        *("generator", "discriminator", "generator_optimizer", "discriminator_optimizer")
    }
    lines[3]["hashes"]["discriminator/layers.3.bias"] = "0" * 16
    hashes.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cli.main(["diff", one, same]) == 1
    assert capsys.readouterr().out == (
        "the runs are equal at step 6 and differ at step 8 in 1 tensor(s): discriminator/layers.3.bias\n"
    )
    assert cli.main(["diff", one, other]) == 1
    assert "the runs are equal at no hashed step and differ at step 2 in " in capsys.readouterr().out


def generator_content(tensors: dict[str, torch.Tensor], metadata: dict[str, str], **changes: Any) -> bytes:
    """A generator's file; `changes` replace fields of model in the config of the metadata."""
    config = json.loads(metadata["config"])
    config["model"] |= changes
    return save(tensors, metadata | {"config": json.dumps(config)})


def refusal(run: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of `gan-dist sample` about an unusable generator."""
    assert cli.main(["sample", str(run)]) == 2
    output = capsys.readouterr().err
    assert output.count("\n") == 1
    assert len(output) < 1000
    return output


def test_a_damaged_generator_is_one_line(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = RunFolder(finished).generator.read_bytes()
    tensors, metadata = read_tensors(content)
    config = json.loads(metadata["config"])
    damaged = RunFolder(tmp_path).generator
    nested = "[" * 5000 + "]" * 5000
    earlier = {name: text for name, text in metadata.items() if name != "data"}  # as earlier versions wrote it

    def described(**changes: Any) -> str:
        return json.dumps(json.loads(metadata["data"]) | changes)

    for wrong, says in {
        content[:-100]: "is damaged",
        b"": "is not a safetensors file, or is truncated",
        save(tensors): "does not describe a generator: its metadata lack 'config'",
        save(tensors, metadata | {"config": nested}): "invalid config",
        save(tensors, metadata | {"config": "3"}): "invalid config",
        save(tensors, metadata | {"config": json.dumps({"model": 3})}): "invalid config",
        save(tensors, metadata | {"config": json.dumps({"modle": {}})}): "invalid config",
        save(tensors, metadata | {"config": json.dumps(config | {"model": {"latent_dim": "64"}})}): "invalid config",
        save(tensors, metadata | {"data": nested}): "is not valid JSON",
        save(tensors, metadata | {"data": "[1, 28, 28]"}): "does not describe a data set by name, shape",
        save(tensors, metadata | {"data": described(shape=[1, 28])}): "an invalid shape",
        save(tensors, metadata | {"data": described(shape=[1, 28, -28])}): "an invalid shape",
        save(tensors, metadata | {"data": described(shape=[1, 28, 1e3])}): "an invalid shape",
        save(tensors, metadata | {"data": described(classes=["a", "a"])}): "an invalid classes",
        save(tensors, metadata | {"data": described(features="eyes")}): "an invalid features",
        save(tensors, metadata | {"data": described(shape=[1, 28, 29])}): "of shape [784, 256] instead of [812, 256]",
        save(tensors, earlier | {"image_shape": "[1, 28]"}): "image_shape is not three positive whole numbers",
        save(tensors, earlier | {"image_shape": "[1, 28, 29]"}): "of shape [784, 256] instead of [812, 256]",
        save(tensors, metadata | {"step": "Infinity"}): "step is not a whole number",
        generator_content(tensors, metadata, hidden_dim=10**6): "of shape [256, 64] instead of [1000000, 64]",
        generator_content(tensors, metadata, hidden_dim=10**12): "invalid config",
        generator_content(tensors, metadata, hidden_dim=10**400): "",
        generator_content(tensors, metadata, hidden_dim=256.0): "",
        generator_content(tensors, metadata, hidden_dim=[]): "invalid config",
        generator_content(tensors, metadata, architecture="transformer"): "",
        generator_content(tensors, metadata, architecture="conv"): "of shape [256, 256] instead of [1568, 256]",
        generator_content({**tensors, "more": torch.zeros(1)}, metadata): "holds an unexpected tensor 'more'",
        generator_content({n: t.double() for n, t in tensors.items()}, metadata): "as torch.float64 instead of",
    }.items():
        damaged.write_bytes(wrong)
        output = refusal(tmp_path, capsys)
        assert str(damaged) in output
        assert says in output


def test_a_generator_that_is_not_a_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = RunFolder(tmp_path).generator
    os.mkfifo(file)
    assert f"{file} is not a regular file" in refusal(tmp_path, capsys)
    assert f"{file} is not a regular file" in refusal(file, capsys)
    file.unlink()
    file.mkdir()
    assert f"{file} is not a regular file" in refusal(tmp_path, capsys)
    file.rmdir()
    file.symlink_to(file)
    assert f"{file} can't be read" in refusal(tmp_path, capsys)


@pytest.mark.fuzz
@given(damage=damages())
def test_no_damage_to_a_generator_is_a_traceback(damage: Damage, finished: Path, tmp_path_factory: Any) -> None:
    file = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    file.write_bytes(damage(RunFolder(finished).generator.read_bytes()))
    assert loads_or_is_refused(lambda: gan_dist.load_generator(file), InputError)


def test_check_does_not_start_more_processes_than_fit_into_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(arguments, "available_memory", lambda: 8 * 10**9)
    assert cli.main(["check", "--processes", "100"]) == 2
    assert (
        "processes=100 is not supported: these take at least 30.0 GB of memory, and 8.0 GB" in capsys.readouterr().err
    )


def test_generate_pixels_rounds_chunk_by_chunk(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator, count = gan_dist.load_generator(finished), sample.CHUNK + 76
    whole = quantize(sample.generate_images(generator, count, seed=1))
    assert torch.equal(sample.generate_pixels(generator, count, seed=1), whole)

    largest = 0

    def quantized(images: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, len(images))
        return quantize(images)

    monkeypatch.setattr(sample, "quantize", quantized)
    sample.generate_pixels(generator, count, seed=1)
    assert largest == sample.CHUNK
    monkeypatch.setattr(sample, "available_memory", lambda: 10**5)
    with pytest.raises(InputError, match=r"count=576 is not supported: .* 0.0 GB are available; use a lower count"):
        sample.generate_pixels(generator, count, seed=1)


@pytest.mark.parametrize("word", ["--help", "-h", "--help-all"])
def test_help_lists_the_commands(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([word]) == 0
    output = capsys.readouterr().out
    for command in cli.COMMANDS:
        assert f"\n  {command} " in output


@pytest.mark.parametrize("command", cli.COMMANDS)
@pytest.mark.parametrize("columns", [80, 120])
def test_each_command_has_help(
    command: str, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    output = capsys.readouterr().out
    assert output.startswith(f"usage: gan-dist {command} ")
    assert max(map(len, output.splitlines())) <= columns


@pytest.mark.parametrize("words", [["--version"], ["train", "--version"], ["sample", "--version"]])
def test_each_command_prints_its_version(words: list[str]) -> None:
    ended = run_command("python", "-m", "gan_dist.cli", *words)
    assert (ended.code, ended.out) == (0, f"gan_dist {package_version()}\n")
