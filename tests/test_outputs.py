"""What a run writes: its folder, checkpoints, pictures and metrics; and what happens if the disk or W&B fails."""

from __future__ import annotations

import json
import os
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch
import wandb_file
from conftest import picture_size
from PIL import Image
from torch import nn

from gan_dist.config import Config, InputError, TrainingFailed, WandbConfig
from gan_dist.distributed import launcher
from gan_dist.files import replacing, write_json
from gan_dist.gan.slices import ALIGNMENT, slices_of, vector_of
from gan_dist.outputs.checkpoint import Checkpoints
from gan_dist.outputs.checkpoint_format import DamagedCheckpoint, read_checkpoint
from gan_dist.outputs.curves import draw_curves
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.optimizer_state import load_optimizer_tensors, optimizer_tensors
from gan_dist.outputs.pictures import COUNT, draw_panel, generate_pixels, save_grid, save_pixels
from gan_dist.outputs.records import StepLines, read_json, read_json_lines
from gan_dist.outputs.trackers import make_tracker
from gan_dist.outputs.trackers.background import BackgroundTracker
from gan_dist.outputs.trackers.several import SeveralTrackers
from gan_dist.outputs.trackers.wandb import WandbBackend
from gan_dist.outputs.writer import MAX_PENDING, Writer

# --- folder


def test_a_file_is_replaced_atomically(tmp_path: Path) -> None:
    file = tmp_path / "status.json"
    write_json(file, {"step": 1})

    def interrupted() -> None:
        with replacing(file) as beside:
            beside.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert read_json(file) == {"step": 1}
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_a_damaged_json_file_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(content)
    with pytest.raises(InputError, match=str(file)):
        read_json(file)


def test_an_unusable_folder_is_refused_and_not_changed(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("mine")
    for path in (occupied, occupied / "below"):
        with pytest.raises(InputError, match=rf"run\.dir={path} can't be used .*--run\.dir"):
            RunFolder(path).check_usable()
    with pytest.raises(TrainingFailed, match="disk is full"):
        RunFolder(tmp_path / "new").check_usable(needed_bytes=2**60)
    RunFolder(tmp_path / "new").check_usable()
    assert list(tmp_path.iterdir()) == [occupied]


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    first.lock(print, print)
    with pytest.raises(InputError, match="in use by another run"):
        second.lock(print, print, wait=0.2)
    first.close()
    second.lock(print, print, wait=0.2)
    second.close()


# --- checkpoint


def save(checkpoints: Checkpoints, step: int) -> Path:
    return checkpoints.save(step, {"generator": {"w": torch.full((3,), float(step))}}, {"seconds": 1.5})


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    assert checkpoints.latest(print) is None
    folder = save(checkpoints, 600)
    assert folder.name == "step-00000600"
    assert {file.name for file in folder.iterdir()} == {"generator.safetensors", "state.json", "manifest.json"}
    found = checkpoints.latest(print)
    assert found is not None
    assert found.step == 600
    assert torch.equal(found.tensors["generator"]["w"], torch.full((3,), 600.0))
    assert found.state == {"seconds": 1.5, "step": 600}


def test_old_checkpoints_are_removed_after_a_new_one_is_written(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3, 4):
        save(checkpoints, step)
    assert checkpoints.steps() == [3, 4]


def test_permanent_checkpoints_are_not_removed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1, is_permanent=lambda step: step % 10 == 0)
    for step in (5, 10, 15, 20, 25):
        save(checkpoints, step)
    assert checkpoints.steps() == [10, 20, 25]


def test_a_failed_checkpoint_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    save(checkpoints, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save(checkpoints, 2)
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000001"]
    assert read_checkpoint(tmp_path / "step-00000001").step == 1


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["generator.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize(
    "damage",
    [flip_a_bit, lambda file: file.write_bytes(file.read_bytes()[:-1]), lambda file: file.write_bytes(b""), os.remove],
    ids=["bit", "truncated", "emptied", "deleted"],
)
def test_a_damaged_checkpoint_is_named_and_the_previous_one_is_used(tmp_path: Path, name: str, damage) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    save(checkpoints, 1)
    damage(save(checkpoints, 2) / name)
    announced: list[str] = []
    found = checkpoints.latest(announced.append)
    assert found is not None
    assert found.step == 1
    assert len(announced) == 1
    assert "step-00000002 is damaged" in announced[0]
    assert name in announced[0]
    # The damaged one neither replaces an intact one nor prevents a new one of the same step.
    save(checkpoints, 2)
    assert read_checkpoint(tmp_path / "step-00000002").step == 2


def test_a_damaged_later_checkpoint_does_not_replace_a_new_one(tmp_path: Path) -> None:
    before, after = Checkpoints(tmp_path, keep=2), Checkpoints(tmp_path, keep=1)
    save(before, 1)
    flip_a_bit(save(before, 5) / "generator.safetensors")
    save(after, 2)  # the run resumed from step 1
    assert after.steps() == [2, 5]


def test_only_damaged_checkpoints_are_an_error(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    flip_a_bit(save(checkpoints, 1) / "generator.safetensors")
    with pytest.raises(InputError, match="no intact checkpoint"):
        checkpoints.latest(lambda line: None)


def test_a_renamed_checkpoint_is_refused(tmp_path: Path) -> None:
    save(Checkpoints(tmp_path, keep=3), 5).rename(tmp_path / "step-00000009")
    with pytest.raises(DamagedCheckpoint, match="another format or step"):
        read_checkpoint(tmp_path / "step-00000009")


@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 5), (5, 1), (5, 3)])
def test_an_optimizer_resumes_exactly_with_any_number_of_slices(before: int, after: int) -> None:
    """GPUs of different sizes have different numbers of slices; the file is the same, and so is every bit."""
    size = 5 * ALIGNMENT - 3

    class Optimized:
        def __init__(self, slices: int) -> None:
            self.weights = nn.Parameter(torch.linspace(-1, 1, size))
            self.slices = slices_of(self.weights, slices)
            rate = torch.tensor(1e-3) if slices > 1 else float(torch.tensor(1e-3))
            self.adam = torch.optim.Adam(self.slices, lr=rate, fused=True)
            self.veto = self.adam.found_inf = torch.zeros(())
            gradient = self.gradient = torch.zeros(size)
            for part, own in zip(self.slices, gradient.split([len(part) for part in self.slices]), strict=True):
                part.grad = own

        def advance(self, steps: range) -> None:
            for step in steps:
                self.veto.fill_(step == 2)  # that update is not applied, and does not count
                self.adam.param_groups[0]["lr"] = float(torch.tensor(1e-3 / step))
                self.gradient.copy_(torch.linspace(-2, 3, size).sin() * step)
                self.adam.step()

    straight, stopped, resumed = Optimized(1), Optimized(before), Optimized(after)
    assert [len(each.slices) for each in (stopped, resumed)] == [before, after]
    straight.advance(range(1, 7))
    stopped.advance(range(1, 4))
    stored = {name: tensor.clone() for name, tensor in optimizer_tensors(stopped.adam).items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    assert shapes == {"0.step": (), "0.exp_avg": (size,), "0.exp_avg_sq": (size,)}
    assert int(stored["0.step"]) == 2
    load_optimizer_tensors(resumed.adam, stored)
    assert torch.equal(vector_of(resumed.slices), resumed.weights)
    vector_of(resumed.slices).copy_(stopped.weights.detach())  # in place, as a checkpoint is loaded
    resumed.advance(range(4, 7))
    assert torch.equal(straight.weights, resumed.weights)
    after_steps = [optimizer_tensors(each.adam) for each in (straight, resumed)]
    assert all(torch.equal(one, after_steps[1][name]) for name, one in after_steps[0].items())


# --- pictures


class Ramp(nn.Module):
    """Generates images of one gray value each, from -1 to 1."""

    def forward(self, latents: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        return latents[:, :1, None, None].expand(-1, 1, 28, 28)


def test_a_grid_shows_the_denormalized_images_8_by_8(tmp_path: Path) -> None:
    file = tmp_path / "samples" / "epoch-0001.png"
    save_pixels(generate_pixels(Ramp(), torch.linspace(-1, 1, COUNT).unsqueeze(1), None), file)
    with Image.open(file) as stored:
        picture = stored.convert("L")
    assert picture.size == (8 * 30 + 2, 8 * 30 + 2)
    grays = [picture.getpixel((2 + 30 * column + 14, 2 + 30 * row + 14)) for row in range(8) for column in range(8)]
    expected = [255 * i / 63 for i in range(64)]
    assert all(abs(gray - value) <= 1 for gray, value in zip(grays, expected, strict=True))  # type: ignore[operator]
    assert list(file.parent.iterdir()) == [file]


def folder_with_epochs(path: Path, epochs: list[int]) -> RunFolder:
    folder = RunFolder(path)
    for file in (folder.real_samples, *(folder.epoch_samples(epoch) for epoch in epochs)):
        save_grid(torch.zeros(COUNT, 1, 28, 28), file)
    return folder


@pytest.mark.parametrize(
    ("epochs", "columns"),
    [([], 1), ([1, 2], 2), ([9, 10, 11], 2), ([10, 50, 60], 3), ([10, 50, 100, 300], 5), (list(range(1, 301)), 5)],
)
def test_the_panel_shows_the_epochs_that_were_reached(tmp_path: Path, epochs: list[int], columns: int) -> None:
    folder = folder_with_epochs(tmp_path, epochs)
    draw_panel(folder)
    assert picture_size(folder.panel)[0] == 300 * columns


def test_the_curves_are_drawn_from_truncated_metrics(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    row = {"step": 5, "epoch": 0.5, "loss/discriminator": 1, "loss/generator": 2, "score/real": 0.9, "score/fake": 0.1}
    folder.metrics.write_text(json.dumps(row) + "\n" + json.dumps(row)[:20])
    draw_curves(folder)
    assert picture_size(folder.curves) == (1000, 400)


# --- metrics


def test_no_step_is_twice_in_the_metrics_after_a_rollback(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    metrics = StepLines(folder.metrics)
    assert metrics.read().rows == []
    for step in (5, 10, 15, 20):
        metrics.append({"step": step, "epoch": step / 10})
    with open(folder.metrics, "a") as stream:
        stream.write('{"step": 2')
    read = metrics.read()
    metrics.rewrite(read, [row for row in read.rows if row["step"] <= 13], print)
    metrics.append({"step": 15, "epoch": 1.5})
    assert [row["step"] for row in read_json_lines(folder.metrics)] == [5, 10, 15]


# --- writer


def test_a_failing_disk_is_reported_once_and_not_written_again() -> None:
    reported: list[str] = []
    done: list[str] = []
    writer = Writer(reported.append)

    def fail() -> None:
        raise OSError(28, "No space left on device")

    writer.save(lambda: done.append("now"))
    writer.save_async(lambda: (time.sleep(0.1), done.append("async")))
    writer.save_async(fail)
    assert done == ["now"]
    writer.wait()
    assert done == ["now", "async"]  # one after the other
    writer.save_async(fail)
    writer.save(lambda: done.append("never"))
    writer.wait()
    assert reported == ["No space left on device"]
    assert writer.error is not None
    assert done == ["now", "async"]


def test_an_exception_in_the_background_is_raised() -> None:
    writer = Writer(lambda reason: None)
    for following in (writer.wait, lambda: writer.save_async(lambda: None)):
        writer.save_async(lambda: 1 / 0)
        while not writer._pending[-1][0].done():
            time.sleep(0.001)
        with pytest.raises(ZeroDivisionError):
            following()


def test_only_a_full_queue_delays_the_caller() -> None:
    """Lines and grids wait in the queue; of what holds as much memory as a checkpoint, only one does."""
    writer, free, done = Writer(lambda reason: None), threading.Event(), list[int]()
    writer.save_async(lambda: (free.wait(10), done.append(0)), large=True)
    for number in range(1, MAX_PENDING):
        writer.save_async(partial(done.append, number))
    assert not done
    opened = threading.Timer(0.1, free.set)
    opened.start()
    writer.save_async(partial(done.append, MAX_PENDING))  # one more than fits
    assert free.is_set()
    writer.wait()
    assert done == list(range(MAX_PENDING + 1))
    free.clear()
    writer.save_async(lambda: (free.wait(10), done.append(-1)), large=True)
    writer.save_async(lambda: None)
    opened = threading.Timer(0.1, free.set)
    opened.start()
    writer.save_async(lambda: None, large=True)
    assert free.is_set()
    writer.wait()


# --- W&B


def test_wandb_that_fails_during_the_run_is_announced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETRC", os.devnull)
    accelerator = launcher.start_accelerator(None, 1, 60.0)
    announced: list[str] = []
    config = Config(wandb=WandbConfig(mode="offline"))
    tracker = make_tracker(config, accelerator, RunFolder(tmp_path), announced.append)
    assert isinstance(tracker, SeveralTrackers)
    (only,) = tracker.trackers
    assert isinstance(only, BackgroundTracker)
    tracker.start({"train": {"seed": 1}}, resume_ids={}, logged_through=0)
    tracker.log(1, {"loss/generator": 1.0})
    assert len(announced) == 1
    sent = threading.Event()
    assert only._worker is not None
    only._worker.put(sent.set)
    assert sent.wait(60)
    assert isinstance(only.backend, WandbBackend)
    only.backend._run.finish()  # without the tracker
    tracker.log(2, {"loss/generator": 1.0})
    tracker.log(3, {"loss/generator": 1.0})
    tracker.log_picture(3, "samples", tmp_path / "nothing.png", "")
    tracker.finish(exit_code=0)
    assert len(announced) == 2
    assert "metrics.jsonl has all figures" in announced[1]
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 60  # on a busy machine, W&B's service writes after finish() has returned
    while not wandb_file.history(file) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [row["train/step"] for row in wandb_file.history(file)] == [1]
