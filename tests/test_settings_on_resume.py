"""What a resumed run may change: each field is changed inside an epoch and a log window, and no history is lost."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import STATE_FILES, figures, train_here
from safetensors.torch import load_file

from gan_dist.config import CHANGEABLE_ON_RESUME, Config, TrainConfig, differences, to_dict, to_flat
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json, read_json_lines

Flags = Callable[..., list[str]]
STOP, END = 13, 29  # an epoch has 10 steps, a log window 5


@dataclass(frozen=True)
class Change:
    """The fields that change, and their flags before the stop and after it. {} is another folder."""

    fields: tuple[str, ...]
    before: list[str]
    after: list[str]
    exact: bool = True
    """Whether the weights stay those of an unchanged run in the exact mode, bit for bit; else up to rounding."""


CHANGES = {
    "data.root": Change(("data.root",), [], ["--data.root", "{}"]),
    "run.dir": Change(("run.dir",), [], ["--run.dir", "{}"]),
    "length": Change(("train.epochs", "train.steps"), ["--train.epochs", "5"], ["--train.epochs", "6"]),
    "hashes": Change(("train.log_hashes",), ["--train.log-hashes", "2"], ["--train.log-hashes", "3"]),
    "hashes, off": Change(("train.log_hashes",), ["--train.log-hashes", "2"], []),
    "threads": Change(("train.threads",), ["--train.threads", "1"], ["--train.threads", "2"]),
    "log, larger": Change(("log.every_steps",), ["--log.every-steps", "4"], ["--log.every-steps", "7"]),
    # The open window holds more steps than the new interval has.
    "log, smaller": Change(("log.every_steps",), ["--log.every-steps", "8"], ["--log.every-steps", "3"]),
    "evaluations": Change(
        ("evaluate.every_epochs", "evaluate.count"),
        ["--evaluate.every-epochs", "1", "--evaluate.count", "101"],
        ["--evaluate.every-epochs", "2", "--evaluate.count", "103"],
    ),
    "evaluations, off": Change(
        ("evaluate.every_epochs",), ["--evaluate.every-epochs", "1", "--evaluate.count", "101"], []
    ),
    # The file holds no weights, so the evaluations have no FID.
    "features": Change(
        ("evaluate.features",),
        [],
        ["--evaluate.features", "inception:{}", "--evaluate.every-epochs", "1", "--evaluate.count", "101"],
    ),
    "checkpoints": Change(
        ("checkpoint.every_steps", "checkpoint.keep"),
        ["--checkpoint.every-steps", "3", "--checkpoint.keep", "3"],
        ["--checkpoint.every-steps", "8", "--checkpoint.keep", "1"],
    ),
    "limits by the clock": Change(
        ("samples.every_seconds", "evaluate.every_seconds", "checkpoint.every_seconds"),
        ["--samples.every-seconds", "1000"],
        [
            *("--checkpoint.every-seconds", "1000", "--evaluate.every-seconds", "1000"),
            *("--evaluate.every-epochs", "1", "--evaluate.count", "101"),
        ],
    ),
    "permanent checkpoints": Change(
        ("checkpoint.keep_every",),
        ["--checkpoint.every-steps", "2", "--checkpoint.keep", "1", "--checkpoint.keep-every", "2"],
        ["--checkpoint.every-steps", "2", "--checkpoint.keep", "1"],
    ),
    "dashboard": Change(
        (
            *("wandb.mode", "wandb.project", "wandb.name", "wandb.timeout", "wandb.entity", "wandb.group"),
            *("wandb.job_type", "wandb.tags", "wandb.notes", "wandb.artifacts"),
        ),
        ["--wandb.mode", "disabled"],
        [
            *("--wandb.mode", "offline", "--wandb.project", "a", "--wandb.name", "b", "--wandb.timeout", "7"),
            *("--wandb.entity", "c", "--wandb.group", "d", "--wandb.job-type", "e", "--wandb.tags", "f,g"),
            *("--wandb.notes", "h", "--wandb.artifacts"),
        ],
    ),
    "kernels": Change(
        ("train.channels_last", "train.cudnn_benchmark"),
        [],
        ["--train.channels-last", "--train.cudnn-benchmark"],
        exact=False,
    ),
    "no trackers": Change(("tracking.with_",), ["--wandb.mode", "offline"], ["--tracking.with", "None"]),
    "everything else": Change(
        (
            *("data.source", "data.download_timeout", "train.on_nonfinite", "train.max_rollbacks", "train.capture"),
            *("data.memory", "data.verify"),
            *("samples.every_epochs", "distributed.timeout", "distributed.shared_memory", "run.resume", "run.shared"),
            *("distributed.gradients", "profile"),
        ),
        [],
        [
            *("--data.memory", "file", "--data.verify"),
            *("--data.source", "auto", "--data.download-timeout", "7", "--train.on-nonfinite", "rollback"),
            *("--train.max-rollbacks", "1", "--train.capture", "off", "--samples.every-epochs", "2"),
            *("--distributed.timeout", "200", "--distributed.no-shared-memory", "--run.resume", "must"),
            *("--run.no-shared", "--profile", "--distributed.gradients", "flat"),
        ],
    ),
}


def test_every_field_that_may_change_has_a_case() -> None:
    covered = {field for change in CHANGES.values() for field in change.fields}
    assert covered == {name for name in to_flat(Config()) if name.startswith(CHANGEABLE_ON_RESUME)}


def test_tf32_is_part_of_the_trajectory() -> None:
    """It changes the rounding on GPUs, as mixed precision does. Runs of earlier versions have the default."""
    tf32 = dataclasses.replace(Config(), train=TrainConfig(tf32=True))
    assert differences(to_dict(Config()), tf32) == ["train.tf32: False -> True"]
    earlier = to_dict(Config())
    del earlier["train"]["tf32"]
    assert differences(earlier, Config()) == []


@pytest.fixture(scope="module")
def straight(flags: Flags, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("straight") / "run")
    words = ["--train.steps", str(END), "--train.exact-shards", "2", "--wandb.mode", "disabled"]
    assert train_here(flags(folder.path, *words, "--log.every-steps", "1")) == 0
    recorded = read_json(folder.environment)
    assert recorded["device_names"] == [recorded["device_name"]]
    # The settings of CUDA are none of the CPU's, in the exact mode neither.
    if not torch.accelerator.is_available():
        assert recorded["numerics"] == {"deterministic_algorithms": False, "channels_last": False}
    return folder


@pytest.mark.parametrize("name", CHANGES)
def test_a_field_changes_in_mid_run(
    name: str, straight: RunFolder, flags: Flags, tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAN_DIST_CACHE", str(straight.path.parent / "cache"))
    before, after = CHANGES[name].before, CHANGES[name].after
    folder = RunFolder(tmp_path / "run")
    always = ["--wandb.mode", "disabled", *(["--train.exact-shards", "2"] if CHANGES[name].exact else [])]
    assert train_here(flags(folder.path, *always, *before, "--train.steps", str(STOP))) == 0
    pictures = {file.name: file.read_bytes() for file in folder.samples.iterdir()}
    kept = {file.name for file in folder.checkpoints.iterdir()} if "--checkpoint.keep-every" in before else set()
    history = {file: read_json_lines(file) for file in (folder.metrics, folder.evaluations, folder.hashes)}

    other = tmp_path / "other"
    if name == "data.root":
        shutil.copytree(data_root, other)
    if name == "run.dir":
        folder.path.rename(other)
    if name == "features":
        other.write_bytes(b"no weights")
    words = [word.format(other) for word in after]
    assert train_here(flags(folder.path, *always, *words, "--train.steps", str(END))) == 0
    if name == "run.dir":
        history = {other / file.name: rows for file, rows in history.items()}
        folder = RunFolder(other)

    for file, rows in history.items():
        whole = read_json_lines(file)
        # The line of step 13 was inside a window, whose end covers its steps.
        inside = [row["step"] for row in rows if file == folder.metrics][-1:]
        assert whole[: len(rows) - len(inside)] == rows[: len(rows) - len(inside)]
        steps = [row["step"] for row in whole]
        assert steps == sorted(set(steps))
    assert {file.name: file.read_bytes() for file in folder.samples.iterdir()}.items() >= pictures.items()
    permanent = {name for name in kept if name != f"step-{STOP:08d}"}
    assert {file.name for file in folder.checkpoints.iterdir()} >= permanent
    for state in STATE_FILES:
        a, b = (load_file(run.checkpoints / f"step-{END:08d}" / f"{state}.safetensors") for run in (straight, folder))
        same = torch.equal if CHANGES[name].exact else partial(torch.allclose, atol=1e-4)
        assert all(same(a[key], b[key]) for key in a), state

    # Each line's figures are the means of the steps since the line before.
    each = {row["step"]: row for row in figures(straight)}
    last = 0
    for row in figures(folder):
        steps = range(last + 1, row["step"] + 1)
        mean = sum(each[step]["loss/generator"] for step in steps) / len(steps)
        assert row["loss/generator"] == pytest.approx(mean)
        last = row["step"]
