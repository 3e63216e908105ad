"""Checkpoints that are damaged, of another run, or not checkpoints at all."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from conftest import assert_same_end, train_here
from hypothesis import given
from hypothesis import strategies as st

from gan_dist.config import InputError, from_dict
from gan_dist.data.spec import DataSpec
from gan_dist.outputs.checkpoint import Checkpoints
from gan_dist.outputs.checkpoint_format import MANIFEST, STATE, DamagedCheckpoint, ForeignCheckpoint, read_checkpoint
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json
from gan_dist.trainer.start import check_state, expected_tensors

Flags = Callable[..., list[str]]
SPEC = DataSpec("digits", (1, 28, 28), None, 200, 20, "unlabelled")


def train_run(folder: Path, flags: Flags, *more: str) -> int:
    return train_here(flags(folder, "--wandb.mode", "disabled", "--model.hidden-dim", "16", *more))


@pytest.fixture(scope="module")
def trained(flags: Flags, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with checkpoints after 5, 10 and 15 steps."""
    folder = RunFolder(tmp_path_factory.mktemp("trained") / "run")
    assert train_run(folder.path, flags, "--train.steps", "15", "--checkpoint.every-steps", "5") == 0
    return folder


def copy_of(trained: RunFolder, path: Path) -> RunFolder:
    shutil.copytree(trained.path, path)
    return RunFolder(path)


def forge(checkpoint: Path, contents: dict[str, bytes] | None = None, **fields: Any) -> None:
    """Replace files of a checkpoint and update its manifest, with the given fields."""
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    for name, content in (contents or {}).items():
        (checkpoint / name).write_bytes(content)
        manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (checkpoint / MANIFEST).write_text(json.dumps(manifest | fields))


def changed_state(checkpoint: Path, **fields: Any) -> dict[str, bytes]:
    return {STATE: json.dumps(json.loads((checkpoint / STATE).read_text()) | fields).encode()}


def changed_tensor(checkpoint: Path, file: str, name: str, tensor: torch.Tensor) -> dict[str, bytes]:
    tensors = safetensors.torch.load((checkpoint / file).read_bytes()) | {name: tensor}
    return {file: safetensors.torch.save(tensors)}


def add_outside_file(checkpoint: Path, name: str) -> None:
    """Add a file outside the checkpoint to the manifest, with its size and sha256."""
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    content = (checkpoint.parent.parent / "metrics.jsonl").read_bytes()
    entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    forge(checkpoint, files=manifest["files"] | {name: entry})


def link_state(checkpoint: Path) -> None:
    elsewhere = checkpoint.parent.parent / "elsewhere"
    (checkpoint / STATE).rename(elsewhere)
    (checkpoint / STATE).symlink_to(elsewhere)


def replace_with_fifo(checkpoint: Path, name: str) -> None:
    (checkpoint / name).unlink()
    os.mkfifo(checkpoint / name)


OPTIMIZER = "generator_optimizer.safetensors"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "optimizer of another shape": (
        lambda c: forge(c, changed_tensor(c, OPTIMIZER, "0.exp_avg", torch.zeros(3))),
        "0.exp_avg of shape [3]",
    ),
    "optimizer of another dtype": (
        lambda c: forge(c, changed_tensor(c, OPTIMIZER, "0.step", torch.zeros((), dtype=torch.int64))),
        "0.step as torch.int64",
    ),
    "unexpected tensor": (
        lambda c: forge(c, changed_tensor(c, "generator.safetensors", "x", torch.zeros(1))),
        "unexpected tensor 'x'",
    ),
    "not safetensors": (lambda c: forge(c, {"generator.safetensors": b"\xff" * 99}), "generator.safetensors is not"),
    "a huge header": (lambda c: forge(c, {"generator.safetensors": b"\xff" * 7 + b"\x7f{}"}), "generator.safetensors"),
    "unexpected file": (lambda c: forge(c, {"more.safetensors": safetensors.torch.save({})}), "other files"),
    "absolute name": (lambda c: add_outside_file(c, str(c.parent.parent / "metrics.jsonl")), "no checkpoint has"),
    "name outside": (lambda c: add_outside_file(c, "../../metrics.jsonl"), "no checkpoint has"),
    "symbolic link": (link_state, "state.json can't be read"),
    "fifo for a state": (lambda c: replace_with_fifo(c, STATE), "state.json is not a regular file"),
    "fifo for a manifest": (lambda c: replace_with_fifo(c, MANIFEST), "manifest.json is not a regular file"),
    "step as text": (lambda c: forge(c, step="15"), "another format or step"),
    "step null": (lambda c: forge(c, step=None), "another format or step"),
    "step a float": (lambda c: forge(c, step=15.0), "another format or step"),
    "step of another": (lambda c: forge(c, step=14), "another format or step"),
    "format true": (lambda c: forge(c, format=True), "another format or step"),
    "no files": (lambda c: forge(c, files=None), "wrong type"),
    "files a list": (lambda c: forge(c, files=["state.json"]), "wrong type"),
    "files of numbers": (lambda c: forge(c, files={"state.json": 3}), "size and sha256"),
    "size negative": (lambda c: forge(c, files={"state.json": {"size": -1, "sha256": ""}}), "size and sha256"),
    "size huge": (lambda c: forge(c, files={"state.json": {"size": 10**30, "sha256": ""}}), "other files"),
    "run a number": (lambda c: forge(c, run=3), "wrong type"),
    "deep nesting": (lambda c: (c / MANIFEST).write_bytes(b'{"a":' * 10**5), "manifest.json is not valid JSON"),
    "deep state": (lambda c: forge(c, {STATE: b"[" * 10**5}), "state.json is not valid JSON"),
    "state a list": (lambda c: forge(c, {STATE: b"[]"}), "state.json does not hold"),
    "state invalid UTF-8": (lambda c: forge(c, {STATE: b'{"a": "\xff"}'}), "state.json is not valid JSON"),
    "seconds as text": (lambda c: forge(c, changed_state(c, seconds="1")), "no valid seconds"),
    "seconds negative": (lambda c: forge(c, changed_state(c, seconds=-1)), "no valid seconds"),
    "best a text": (lambda c: forge(c, changed_state(c, best="ab")), "no valid best"),
    "window of other width": (lambda c: forge(c, changed_state(c, metrics_window=[[1.0]])), "no valid metrics_window"),
    "window of texts": (lambda c: forge(c, changed_state(c, metrics_window=["abcd"])), "no valid metrics_window"),
    "sha a number": (lambda c: forge(c, changed_state(c, data_sha256=3)), "no valid data_sha256"),
    "config a list": (lambda c: forge(c, changed_state(c, config=[])), "no valid config"),
    "empty folder": (lambda c: (shutil.rmtree(c), c.mkdir()), "manifest.json can't be read"),
    "a file": (lambda c: (shutil.rmtree(c), c.write_text("x")), "not a folder"),
    "a link to itself": (lambda c: (shutil.rmtree(c), c.symlink_to(c)), "not a folder"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_skipped_with_one_line(
    name: str, trained: RunFolder, flags: Flags, tmp_path: Path
) -> None:
    damage, message = DAMAGES[name]
    folder = copy_of(trained, tmp_path / "run")
    damage(folder.checkpoints / "step-00000015")
    config = from_dict(read_json(folder.config))
    announced: list[str] = []
    checkpoints = Checkpoints(folder.checkpoints, 3, run_id=read_json(folder.environment)["run_id"])
    found = checkpoints.latest(
        announced.append, expected_tensors(config, SPEC), lambda found: check_state(found.state, config)
    )
    assert found is not None
    assert found.step == 10
    assert len(announced) == 1
    assert "\n" not in announced[0]
    assert "step-00000015 is damaged and skipped: " in announced[0]
    assert message in announced[0]


def test_optimizer_tensors_of_another_shape_are_not_loaded(
    trained: RunFolder, flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They used to cause a segmentation fault in the first step."""
    straight, folder = copy_of(trained, tmp_path / "straight"), copy_of(trained, tmp_path / "run")
    newest = folder.checkpoints / "step-00000015"
    forge(newest, changed_tensor(newest, OPTIMIZER, "0.exp_avg_sq", torch.zeros(3)))
    for run in (straight, folder):
        assert train_run(run.path, flags, "--train.steps", "20", "--checkpoint.every-steps", "5") == 0
    assert "resuming after step 10" in capsys.readouterr().out
    assert_same_end(straight, folder, 20)
    # The damaged checkpoint still exists under another name.
    assert (folder.checkpoints / "replaced-1-step-00000015").is_dir()


OBSTACLES: dict[str, Callable[[Path], object]] = {
    "file": lambda path: path.write_text("mine"),
    "folder": lambda path: (path.mkdir(), (path / "mine").write_text("mine")),
    "link": lambda path: path.symlink_to("/"),
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "fifo": lambda path: os.mkfifo(path),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_a_file_at_the_path_of_a_checkpoint_does_not_end_the_run(
    name: str, trained: RunFolder, flags: Flags, tmp_path: Path
) -> None:
    folder = copy_of(trained, tmp_path / "run")
    path = folder.checkpoints / "step-00000020"
    OBSTACLES[name](path)
    assert train_run(folder.path, flags, "--train.steps", "20", "--checkpoint.every-steps", "5") == 0
    assert read_checkpoint(path).step == 20
    assert os.path.lexists(folder.checkpoints / "replaced-1-step-00000020")


def test_a_checkpoint_of_another_run_is_skipped_and_kept(
    trained: RunFolder, flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, folder = RunFolder(tmp_path / "other"), copy_of(trained, tmp_path / "run")
    assert train_run(other.path, flags, "--train.steps", "25", "--train.seed", "7") == 0
    shutil.copytree(other.checkpoints / "step-00000025", folder.checkpoints / "step-00000025")
    shutil.copytree(other.checkpoints / "step-00000020", folder.checkpoints / "step-00000004")
    forge(folder.checkpoints / "step-00000004", step=4)
    capsys.readouterr()
    more = ["--train.steps", "24", "--checkpoint.every-steps", "3", "--checkpoint.keep", "1"]
    assert train_run(folder.path, flags, *more) == 0
    output = capsys.readouterr().out
    assert "step-00000025 belongs to another run and is skipped: it has another run's id" in output
    assert "resuming after step 15" in output
    assert {entry.name for entry in folder.checkpoints.iterdir()} == {f"step-{step:08d}" for step in (4, 24, 25)}


def test_another_seed_is_detected_without_an_id(trained: RunFolder, flags: Flags, tmp_path: Path) -> None:
    folder = copy_of(trained, tmp_path / "run")
    config = from_dict(read_json(folder.config))
    state = read_checkpoint(folder.checkpoints / "step-00000015").state
    check_state(state, config)
    other = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=9))
    with pytest.raises(ForeignCheckpoint, match=r"train\.seed: 0 -> 9"):
        check_state(state, other)
    with pytest.raises(ForeignCheckpoint, match="doesn't know"):
        check_state(state | {"config": {"warp": 3}}, config)


def test_a_missing_config_json_is_no_new_start(
    trained: RunFolder, flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_of(trained, tmp_path / "run")
    folder.config.unlink()
    before = sorted(folder.path.rglob("*"))
    capsys.readouterr()
    assert train_run(folder.path, flags, "--train.steps", "20") == 2
    output = capsys.readouterr().err
    assert "restore config.json (every checkpoint's state.json contains it)" in output
    assert sorted(folder.path.rglob("*")) == before


def test_only_damaged_checkpoints_are_no_new_start(
    trained: RunFolder, flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_of(trained, tmp_path / "run")
    for checkpoint in folder.checkpoints.iterdir():
        forge(checkpoint, step=None)
    metrics = folder.metrics.read_bytes()
    assert train_run(folder.path, flags, "--train.steps", "20") == 2
    assert "has no intact checkpoint" in capsys.readouterr().err
    assert folder.metrics.read_bytes() == metrics


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@pytest.mark.fuzz
@given(data=st.data())
def test_any_checkpoint_is_read_or_skipped(data: st.DataObject, trained: RunFolder, tmp_path: Path) -> None:
    """Arbitrary fields, state and tensor files, with a matching manifest."""
    checkpoint = tmp_path / "step-00000015"
    shutil.rmtree(checkpoint, ignore_errors=True)
    shutil.copytree(trained.checkpoints / "step-00000015", checkpoint)
    config = from_dict(read_json(trained.config))
    kind = data.draw(st.sampled_from(["manifest", "state", "tensors", "bytes"]))
    if kind == "manifest":
        names = st.sampled_from(["format", "run", "step", "permanent", "files"])
        forge(checkpoint, **data.draw(st.dictionaries(names, JSON, min_size=1)))
    elif kind == "state":
        names = st.sampled_from(sorted(json.loads((checkpoint / STATE).read_text())))
        forge(checkpoint, changed_state(checkpoint, **data.draw(st.dictionaries(names, JSON, min_size=1))))
    else:
        name = data.draw(st.sampled_from([STATE, "generator.safetensors", OPTIMIZER]))
        content = (checkpoint / name).read_bytes()
        at = data.draw(st.integers(0, min(len(content), 600)))
        changed = content[:at] + data.draw(st.binary(min_size=1, max_size=20)) + content[at + 1 :]
        forge(checkpoint, {name: changed if kind == "tensors" else data.draw(st.binary(max_size=100))})
    announced: list[str] = []
    expected = expected_tensors(config, SPEC)
    with contextlib.suppress(InputError):  # there is no other checkpoint
        found = Checkpoints(tmp_path, 3).latest(announced.append, expected, lambda c: check_state(c.state, config))
        assert announced or found is not None


def test_a_checkpoint_is_on_the_disk_before_it_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of calls that survives a power failure: every file, its folder, the new name, the parent folder."""
    calls: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def traced_fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        name = path.name.replace(f".writing-{os.getpid()}", "temporary")
        calls.append(f"fsync {name}" + (f" {path.stat().st_size}" if path.is_file() else ""))
        fsync(descriptor)

    def traced_rename(path: Path, target: Path) -> Path:
        calls.append(f"rename {target.name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(Path, "rename", traced_rename)
    folder = Checkpoints(tmp_path / "checkpoints", keep=1).save(3, {"generator": {"w": torch.zeros(3)}}, {})
    files = {f"fsync {file.name} {file.stat().st_size}" for file in folder.iterdir()}
    assert len(files) == 3
    assert set(calls[:3]) == files
    assert calls[3:] == ["fsync temporary", "rename step-00000003", "fsync checkpoints"]


def test_metrics_are_on_the_disk_before_the_checkpoint(
    flags: Flags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: dict[str, int] = {}
    fsync, save = os.fsync, Checkpoints.save
    seen: list[tuple[int, int]] = []

    def traced_fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced[path.name] = path.read_bytes().count(b"\n") if path.is_file() else 0
        fsync(descriptor)

    def traced_save(self: Checkpoints, step: int, *arguments: Any, **options: Any) -> Path:
        seen.append((step, synced.get("metrics.jsonl", 0)))
        return save(self, step, *arguments, **options)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(Checkpoints, "save", traced_save)
    assert train_run(tmp_path / "run", flags, "--train.steps", "20", "--checkpoint.every-steps", "5") == 0
    assert [(step, lines >= step // 5) for step, lines in seen] == [(5, True), (10, True), (15, True), (20, True)]


def test_reading_stays_inside_the_checkpoint(tmp_path: Path) -> None:
    folder = Checkpoints(tmp_path, keep=1).save(3, {"generator": {"w": torch.zeros(3)}}, {})
    outside_file = tmp_path / "secret.json"
    outside_file.write_text("{}")
    forge(folder, files={"../secret.json": {"size": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}})
    with pytest.raises(DamagedCheckpoint, match="no checkpoint has"):
        read_checkpoint(folder)
