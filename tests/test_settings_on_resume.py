"""What a resumed run may change: each field is changed inside an epoch and a log window, and no history is lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import STATE_FILES, figures, train_here
from safetensors.torch import load_file

from gan_dist.config import CHANGEABLE_ON_RESUME, Config, to_flat
from gan_dist.run.folder import RunFolder
from gan_dist.run.records import read_json_lines

Flags = Callable[..., list[str]]
STOP, END = 13, 29  # an epoch has 10 steps, a log window 5

# Field -> its flags before the stop and after it. {} is another folder.
CHANGES: dict[str, tuple[list[str], list[str]]] = {
    "data.root": ([], ["--data.root", "{}"]),
    "data.source": ([], ["--data.source", "auto"]),
    "data.download_timeout": ([], ["--data.download-timeout", "7"]),
    "train.epochs": (["--train.epochs", "5"], ["--train.epochs", "6"]),
    "train.steps": ([], []),  # changes in every case
    "train.on_nonfinite": ([], ["--train.on-nonfinite", "rollback"]),
    "train.max_rollbacks": ([], ["--train.max-rollbacks", "1"]),
    "train.log_hashes": (["--train.log-hashes", "2"], ["--train.log-hashes", "3"]),
    "train.threads": (["--train.threads", "1"], ["--train.threads", "2"]),
    "train.compile": ([], ["--train.compile"]),
    "log.every_steps": (["--log.every-steps", "4"], ["--log.every-steps", "7"]),
    "samples.every_epochs": ([], ["--samples.every-epochs", "2"]),
    "evaluate.every_epochs": (["--evaluate.every-epochs", "1"], ["--evaluate.every-epochs", "2"]),
    "evaluate.count": (
        ["--evaluate.every-epochs", "1", "--evaluate.count", "101"],
        ["--evaluate.every-epochs", "1", "--evaluate.count", "103"],
    ),
    "checkpoint.every_steps": (["--checkpoint.every-steps", "3"], ["--checkpoint.every-steps", "8"]),
    "checkpoint.keep": (["--checkpoint.keep", "3"], ["--checkpoint.keep", "1"]),
    "checkpoint.keep_every": (
        ["--checkpoint.every-steps", "2", "--checkpoint.keep", "1", "--checkpoint.keep-every", "2"],
        ["--checkpoint.every-steps", "2", "--checkpoint.keep", "1"],
    ),
    "distributed.timeout": ([], ["--distributed.timeout", "200"]),
    "distributed.shared_memory": ([], ["--distributed.no-shared-memory"]),
    "wandb.mode": (["--wandb.mode", "disabled"], ["--wandb.mode", "offline"]),
    "wandb.project": ([], ["--wandb.project", "other"]),
    "wandb.name": ([], ["--wandb.name", "other"]),
    "wandb.timeout": ([], ["--wandb.timeout", "7"]),
    "run.dir": ([], ["--run.dir", "{}"]),
    "run.resume": ([], ["--run.resume", "must"]),
    "run.shared": ([], ["--run.no-shared"]),
    "profile": ([], ["--profile"]),
}
# The other direction: a smaller interval than the steps that the open window holds.
MORE_CHANGES = {
    "log.every_steps, smaller": (["--log.every-steps", "8"], ["--log.every-steps", "3"]),
    "train.log_hashes, off": (["--train.log-hashes", "2"], []),
    "evaluate.every_epochs, off": (["--evaluate.every-epochs", "1", "--evaluate.count", "101"], []),
}


def test_every_field_that_may_change_has_a_case() -> None:
    assert CHANGES.keys() == {name for name in to_flat(Config()) if name.startswith(CHANGEABLE_ON_RESUME)}


@pytest.fixture(scope="module")
def straight(flags: Flags, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("straight") / "run")
    words = ["--train.steps", str(END), "--train.exact-shards", "2", "--wandb.mode", "disabled"]
    assert train_here(flags(folder.path, *words, "--log.every-steps", "1")) == 0
    return folder


@pytest.mark.parametrize("name", [*CHANGES, *MORE_CHANGES])
def test_a_field_changes_in_mid_run(
    name: str, straight: RunFolder, flags: Flags, tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAN_DIST_CACHE", str(straight.path.parent / "cache"))
    before, after = (CHANGES | MORE_CHANGES)[name]
    folder = RunFolder(tmp_path / "run")
    always = ["--wandb.mode", "disabled", "--train.exact-shards", "2"]
    assert train_here(flags(folder.path, *always, *before, "--train.steps", str(STOP))) == 0
    pictures = {file.name: file.read_bytes() for file in folder.samples.iterdir()}
    kept = {file.name for file in folder.checkpoints.iterdir()} if "--checkpoint.keep-every" in before else set()
    history = {file: read_json_lines(file) for file in (folder.metrics, folder.evaluations, folder.hashes)}

    other = tmp_path / "other"
    if name == "data.root":
        shutil.copytree(data_root, other)
    if name == "run.dir":
        folder.path.rename(other)
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
        assert all(torch.equal(a[key], b[key]) for key in a), state

    # Each line's figures are the means of the steps since the line before.
    each = {row["step"]: row for row in figures(straight)}
    last = 0
    for row in figures(folder):
        steps = range(last + 1, row["step"] + 1)
        mean = sum(each[step]["loss/generator"] for step in steps) / len(steps)
        assert row["loss/generator"] == pytest.approx(mean)
        last = row["step"]
