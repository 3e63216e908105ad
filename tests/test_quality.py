"""Evaluations during training: distributed over the ranks, unaffected by stops; the best state is kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import (
    TRAIN,
    draw_images,
    idx_bytes,
    labels_bytes,
    launcher,
    picture_size,
    run_command,
    train_here,
    write_root,
)
from safetensors.torch import load_file

from gan_dist.outputs.checkpoint_format import read_checkpoint
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json, read_json_lines
from gan_dist.results.evaluate import RunOptions, evaluate_run
from gan_dist.results.generator import load_generator

Flags = Callable[..., list[str]]
EVERY_EPOCH = ["--wandb.mode", "disabled", "--evaluate.every-epochs", "1", "--evaluate.count", "101"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def use_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAN_DIST_CACHE", str(cache))


@pytest.mark.slow
@pytest.mark.processes(2)
def test_two_processes_compute_the_same_figures_as_one(flags: Flags, tmp_path: Path) -> None:
    one, two = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "two")
    words = ["--train.epochs", "2", *EVERY_EPOCH]
    assert train_here(flags(one.path, *words)) == 0
    ended = run_command(*launcher(2), TRAIN, *flags(two.path, *words))
    assert ended.code == 0, ended.err
    assert ended.out.count("Fréchet distance") == 2
    for a, b in zip(*(read_json_lines(folder.evaluations) for folder in (one, two)), strict=True):
        assert a.keys() == b.keys()
        assert (a["step"], a["classifier"], a["count"]) == (b["step"], b["classifier"], 101)
        assert a["distance/frechet"] == pytest.approx(b["distance/frechet"], rel=1e-3)
        assert a["intervals"].keys() <= a.keys()
    assert [row["step"] for row in read_json_lines(two.evaluations)] == [10, 20]


def exact_evaluations(folder: RunFolder) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """evaluations.jsonl without the times, and the tensors of the best generator."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in read_json_lines(folder.evaluations)]
    return rows, load_file(folder.best_generator)


@pytest.mark.slow
@pytest.mark.processes(2)
def test_evaluations_in_the_exact_mode_are_bit_identical_on_any_number_of_processes_and_threads(
    flags: Flags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a prime number of images, and latents smaller than a SIMD register."""
    words = ["--train.exact-shards", "2", "--model.latent-dim", "5", "--train.epochs", "3", *EVERY_EPOCH]
    words += ["--evaluate.count", "1103"]
    one, threads, two = (RunFolder(tmp_path / name) for name in ("one", "threads", "two"))
    assert train_here(flags(one.path, *words)) == 0
    expected = exact_evaluations(one)
    assert len(expected[0]) == 3
    monkeypatch.setenv("GAN_DIST_CACHE", str(tmp_path / "cache"))  # the reference is computed again
    assert train_here(flags(threads.path, *words, "--train.threads", "2")) == 0
    ended = run_command(*launcher(2), TRAIN, *flags(two.path, *words))
    assert ended.code == 0, ended.err
    for folder in (threads, two):
        rows, best = exact_evaluations(folder)
        assert rows == expected[0]
        assert best.keys() == expected[1].keys()
        assert all(torch.equal(best[name], tensor) for name, tensor in expected[1].items())


def test_evaluations_and_the_best_state_survive_a_stop(flags: Flags, tmp_path: Path) -> None:
    whole, pieces = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "pieces")
    words = ["--checkpoint.every-steps", "4", "--checkpoint.keep", "1", "--ema.half-life", "100", *EVERY_EPOCH]
    assert train_here(flags(whole.path, *words, "--train.steps", "40")) == 0
    for steps in ("13", "25", "40"):
        assert train_here(flags(pieces.path, *words, "--train.steps", steps)) == 0
    rows, again = (
        [{name: value for name, value in row.items() if name != "seconds"} for row in read_json_lines(run.evaluations)]
        for run in (whole, pieces)
    )
    assert rows == again
    best = min(rows, key=lambda row: row["distance/frechet"])["step"]
    for run in (whole, pieces):
        kept = {file.name for file in run.checkpoints.iterdir()}
        assert kept == {f"step-{step:08d}" for step in {best, 40}}
        state = read_checkpoint(run.checkpoints / "step-00000040").state
        assert state["best"][0] == best
    kept = load_file(whole.checkpoints / f"step-{best:08d}" / "average.safetensors")
    assert all(torch.equal(kept[name], tensor) for name, tensor in load_file(whole.best_generator).items())


def test_the_command_computes_the_figures_of_the_run(flags: Flags, tmp_path: Path) -> None:
    """With the same generator and number of images, and so the same latents."""
    assert train_here(flags(tmp_path / "run", "--train.epochs", "1", *EVERY_EPOCH)) == 0
    (row,) = read_json_lines(RunFolder(tmp_path / "run").evaluations)
    evaluation = evaluate_run(tmp_path / "run", print, RunOptions(count=101))
    assert evaluation.classifier == row["classifier"]
    for name, figure in evaluation.figures.items():
        assert row[name] == pytest.approx(figure.value, rel=1e-5), name


def test_stacked_images_are_evaluated_channel_by_channel(flags: Flags, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert train_here(flags(folder.path, "--data.stack", "3", "--train.epochs", "1", *EVERY_EPOCH)) == 0
    (row,) = read_json_lines(folder.evaluations)
    real = read_json(folder.floor)
    assert 1 <= row["modes/found"] <= 101
    assert 10 < real["modes/found"] <= 101
    assert evaluate_run(folder.path, print, RunOptions(count=101)).real["modes/found"].value == real["modes/found"]
    assert load_generator(folder.path)(torch.zeros(1, 64)).shape == (1, 3, 28, 28)
    assert picture_size(folder.real_samples) == picture_size(folder.epoch_samples(1))


def test_stacks_of_a_few_held_out_images(flags: Flags, tmp_path: Path, data_root: Path) -> None:
    """Their number is not divisible by the size of a stack."""
    copy = tmp_path / "data"
    shutil.copytree(data_root, copy)
    write_root(copy, idx_bytes(draw_images(40)), "MNIST/raw/t10k-images-idx3-ubyte")
    write_root(copy, labels_bytes(np.arange(40, dtype=np.uint8) % 10), "MNIST/raw/t10k-labels-idx1-ubyte")
    folder = RunFolder(tmp_path / "run")
    words = ["--data.stack", "3", "--data.root", str(copy), "--train.epochs", "1", *EVERY_EPOCH]
    assert train_here(flags(folder.path, *words)) == 0
    (row,) = read_json_lines(folder.evaluations)
    assert row["score/train"] + row["score/held_out"] == pytest.approx(1)


def test_without_a_classifier_the_run_continues(
    flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data.name", "fashion-mnist", "--train.epochs", "2", *EVERY_EPOCH]
    root = tmp_path / "data" / "FashionMNIST" / "raw"
    given = flags(tmp_path / "run", *words)
    source = Path(given[given.index("--data.root") + 1])
    root.mkdir(parents=True)
    (root / "train-images-idx3-ubyte").write_bytes((source / "MNIST/raw/train-images-idx3-ubyte").read_bytes())
    assert train_here([*given, "--data.root", str(tmp_path / "data")]) == 0
    assert capsys.readouterr().out.count("evaluations are off") == 1
    assert not RunFolder(tmp_path / "run").evaluations.exists()
