"""Everything in a run except its arithmetic: folder, checkpoints, pictures, tracking, launchers, signals."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import wandb_file
from conftest import TRAIN, environment, picture_size, run_command
from PIL import Image
from torch import nn

from gan_dist.config import Config, InputError, TrainingFailed, WandbConfig
from gan_dist.distributed import launcher, local_sockets, machine, shared_memory
from gan_dist.distributed.environment import ProcessEnvironment, read_environment
from gan_dist.distributed.launch_command import launch_warnings
from gan_dist.distributed.preemption import StopAgreement, StopRequest
from gan_dist.distributed.shared_memory import SharedMemory
from gan_dist.files import replacing, write_json
from gan_dist.outputs.checkpoint import Checkpoints
from gan_dist.outputs.checkpoint_format import DamagedCheckpoint, read_checkpoint
from gan_dist.outputs.curves import draw_curves
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.optimizer_state import load_optimizer_tensors, optimizer_tensors
from gan_dist.outputs.pictures import COUNT, draw_panel, save_grid, save_samples
from gan_dist.outputs.records import StepLines, read_json, read_json_lines
from gan_dist.outputs.trackers import make_tracker
from gan_dist.outputs.trackers.background import BackgroundTracker
from gan_dist.outputs.writer import Writer

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


def test_an_optimizer_resumes_exactly() -> None:
    def make() -> tuple[nn.Module, torch.optim.Adam]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = nn.Linear(3, 2)
        return network, torch.optim.Adam(network.parameters(), lr=0.1, fused=True)

    def advance(network: nn.Module, optimizer: torch.optim.Adam, steps: range) -> None:
        for i in steps:
            optimizer.zero_grad()
            network(torch.full((1, 3), float(i))).sum().backward()
            optimizer.step()

    network, optimizer = make()
    advance(network, optimizer, range(3))
    resumed, resumed_optimizer = make()
    resumed.load_state_dict(network.state_dict())
    stored = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer).items()}
    load_optimizer_tensors(resumed_optimizer, stored)
    advance(network, optimizer, range(3, 6))
    advance(resumed, resumed_optimizer, range(3, 6))
    assert torch.equal(network.weight, resumed.weight)  # type: ignore[arg-type]


# --- pictures


class Ramp(nn.Module):
    """Generates images of one gray value each, from -1 to 1."""

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return latents[:, :1, None, None].expand(-1, 1, 28, 28)


def test_a_grid_shows_the_denormalized_images_8_by_8(tmp_path: Path) -> None:
    file = tmp_path / "samples" / "epoch-0001.png"
    save_samples(Ramp(), torch.linspace(-1, 1, COUNT).unsqueeze(1), file)
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
    assert done == ["now"]
    writer.save_async(fail)
    assert done == ["now", "async"]  # one after the other
    writer.wait()
    writer.save_async(fail)
    writer.save(lambda: done.append("never"))
    writer.wait()
    assert reported == ["No space left on device"]
    assert writer.error is not None
    assert done == ["now", "async"]


def test_an_exception_in_the_background_is_raised() -> None:
    writer = Writer(lambda reason: None)
    writer.save_async(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        writer.wait()


# --- shared memory


def in_ranks(count: int, work: Callable[[int, Callable[[object], list[object]]], object]) -> list[object]:
    """Call `work(rank, exchange)` in `count` threads, which exchange objects as processes would."""
    barrier, board = threading.Barrier(count), [None] * count

    def exchange(rank: int, mine: object) -> list[object]:
        board[rank] = mine  # type: ignore[call-overload]
        barrier.wait()
        everyone = list(board)
        barrier.wait()
        return everyone

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda rank: work(rank, partial(exchange, rank)), range(count)))


NUMBERS = 10  # maximum in a row of these tests


def open_memory(rank: int, ranks: int, exchange: Callable[[object], list[object]]) -> SharedMemory:
    announced: list[str] = []
    memory = SharedMemory.open(rank, ranks, NUMBERS, exchange, 10.0, announced.append)
    assert memory is not None, announced
    return memory


def refusals(ranks: int, seen: Callable[[Any], Any] = lambda offer: offer) -> list[object]:
    """Returns what each rank announces if shared memory is unavailable; `seen` changes the offers that it receives."""

    def work(rank: int, exchange: Callable[[object], list[object]]) -> object:
        announced: list[str] = []

        def exchange_changed(mine: object) -> list[object]:
            return [(seen(offer), problem) for offer, problem in exchange(mine)]  # type: ignore[misc]

        assert SharedMemory.open(rank, ranks, NUMBERS, exchange_changed, 2.0, announced.append) is None
        (line,) = announced
        return line

    return in_ranks(ranks, work)


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_every_rank_receives_all_rows_in_order(ranks: int) -> None:
    def work(rank: int, exchange: Callable[[object], list[object]]) -> None:
        memory = open_memory(rank, ranks, exchange)
        for call in range(20):
            memory.stop_requested = call == 7 and rank == ranks - 1
            seen = memory.gather(torch.full((2, 3 + call % 3), float(100 * call + rank)))
            assert memory.stop_requested_anywhere == (call == 7)
            assert seen.shape == (2 * ranks, 3 + call % 3)
            assert seen[:, 0].tolist() == [100 * call + other for other in range(ranks) for _ in range(2)]
        memory.close()

    in_ranks(ranks, work)


@pytest.mark.parametrize("ends", [True, False])
def test_a_rank_that_ends_or_hangs_is_an_error(ends: bool) -> None:
    def work(rank: int, exchange: Callable[[object], list[object]]) -> None:
        announced: list[str] = []
        memory = SharedMemory.open(rank, 2, NUMBERS, exchange, 1.0, announced.append)
        assert memory is not None, announced
        memory.gather(torch.zeros(1, 1))
        if rank == 0:
            with pytest.raises(dist.DistNetworkError, match="closed its connection" if ends else "in time"):
                memory.gather(torch.zeros(1, 1))
        elif ends:
            memory.close()
        exchange(None)  # until then it is alive, but sends nothing
        memory.close()

    in_ranks(2, work)


def test_all_ranks_know_that_one_is_unreachable() -> None:
    lines = refusals(3, lambda offer: offer and ("\0nobody", offer[1]))
    assert len(set(lines)) == 1
    assert lines[0] == (
        "shared memory is unavailable (rank 1: another rank can't be reached, as on another host); "
        "the gradients are added through gloo"
    )


def refuse(code: int) -> Callable[..., object]:
    def refused(*_: object) -> object:
        raise OSError(code, os.strerror(code))

    return refused


@pytest.mark.parametrize(
    ("module", "name", "code", "rank"),
    [
        (os, "memfd_create", errno.ENOSYS, 0),
        (os, "ftruncate", errno.EFBIG, 0),
        (os, "posix_fallocate", errno.ENOSPC, 0),
        (fcntl, "fcntl", errno.EINVAL, 0),
        (shared_memory, "_map", errno.ENOMEM, 0),
        (socket, "send_fds", errno.EPIPE, 0),
        (socket, "recv_fds", errno.EMFILE, 1),
        (shared_memory, "connect", errno.EACCES, 1),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_all_ranks_do_without_what_one_cannot_create(
    module: object, name: str, code: int, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, refuse(code))
    lines = refusals(3)
    assert len(set(lines)) == 1
    assert f"(rank {rank}: {os.strerror(code)})" in str(lines[0])


def test_shared_memory_needs_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(rank: int, exchange: Callable[[object], list[object]]) -> list[float]:
        memory = open_memory(rank, 2, exchange)
        try:
            return memory.gather(torch.full((1, 1), float(rank)))[:, 0].tolist()
        finally:
            memory.close()

    monkeypatch.setattr(torch, "from_file", refuse(errno.ENOENT))  # which opened /proc/self/fd
    assert in_ranks(2, work) == [[0.0, 1.0]] * 2


def test_no_rank_can_resize_the_memory() -> None:
    file = shared_memory._create_memory(8192)
    try:
        for size in (0, 4096, 16384):
            with pytest.raises(PermissionError):
                os.ftruncate(file, size)
        with pytest.raises(PermissionError):
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        assert os.fstat(file).st_blocks * 512 >= 8192  # its pages are allocated
    finally:
        os.close(file)


def received(intruder: socket.socket) -> tuple[bytes, list[int]]:
    """Returns what another process receives until its connection is closed."""
    intruder.settimeout(20)
    try:
        content, files, _, _ = socket.recv_fds(intruder, 100, 10)
    except ConnectionResetError:
        return b"", []
    return content, files


def test_other_processes_neither_block_the_ranks_nor_get_the_memory() -> None:
    """Many connect to every listener and send nothing, half a greeting, or the wrong secret."""
    intruders: list[socket.socket] = []

    def work(rank: int, exchange: Callable[[object], list[object]]) -> list[float]:
        def exchange_and_intrude(mine: object) -> list[object]:
            offers = exchange(mine)
            offer = offers[rank][0]  # type: ignore[index]
            if offer is not None:  # the listeners are open; no rank has connected yet
                for i in range(300):
                    intruder = socket.socket(socket.AF_UNIX)
                    intruder.settimeout(20)
                    while True:
                        try:
                            intruder.connect(offer[0])
                            break
                        except BlockingIOError:  # the queue is full
                            time.sleep(0.01)
                    with contextlib.suppress(BrokenPipeError):  # already closed
                        intruder.sendall([b"", b"GET", bytes(16) + (2).to_bytes(4, "big"), os.urandom(5000)][i % 4])
                    intruders.append(intruder)
            return offers

        memory = open_memory(rank, 3, exchange_and_intrude)
        try:
            return memory.gather(torch.full((1, 1), float(rank)))[:, 0].tolist()
        finally:
            memory.close()

    try:
        assert in_ranks(3, work) == [[0.0, 1.0, 2.0]] * 3
        assert len(intruders) == 900
        assert all(received(intruder) == (b"", []) for intruder in intruders)
    finally:
        for intruder in intruders:
            intruder.close()


def test_a_process_of_another_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if it knows the secret."""
    with contextlib.closing(local_sockets.Listener()) as listener:
        monkeypatch.setattr(os, "geteuid", lambda: 1 + os.getuid())
        with pytest.raises(PermissionError, match="another user"):
            local_sockets.connect(listener.name, listener.secret, 1, time.monotonic() + 5)
        with socket.socket(socket.AF_UNIX) as intruder:
            intruder.connect(listener.name)
            with contextlib.suppress(BrokenPipeError):
                intruder.sendall(listener.secret + (1).to_bytes(4, "big"))
            assert received(intruder) == (b"", [])
        with pytest.raises(TimeoutError, match="rank 1 did not connect in time"):
            listener.wait_for({1}, time.monotonic() + 0.2)


# --- W&B


def test_wandb_that_fails_during_the_run_is_announced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETRC", os.devnull)
    accelerator = launcher.start_accelerator(None, 1, 60.0)
    announced: list[str] = []
    config = Config(wandb=WandbConfig(mode="offline"))
    tracker = make_tracker(config, accelerator, RunFolder(tmp_path), announced.append)
    assert isinstance(tracker, BackgroundTracker)
    tracker.start({"train": {"seed": 1}}, resume_id=None, logged_through=0)
    tracker.log(1, {"loss/generator": 1.0})
    assert len(announced) == 1
    sent = threading.Event()
    assert tracker._worker is not None
    tracker._worker.put(sent.set)
    assert sent.wait(20)
    accelerator.get_tracker("wandb", unwrap=True).finish()  # without the tracker
    tracker.log(2, {"loss/generator": 1.0})
    tracker.log(3, {"loss/generator": 1.0})
    tracker.log_samples(3, tmp_path / "nothing.png")
    tracker.finish(exit_code=0)
    assert len(announced) == 2
    assert "metrics.jsonl has all figures" in announced[1]
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 20  # on a busy machine, W&B's service writes after finish() has returned
    while not wandb_file.history(file) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [row["train/step"] for row in wandb_file.history(file)] == [1]


# --- launcher


def test_usable_cores_follow_the_affinity() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert machine.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(
    ("content", "cores"),
    [
        ("150000 100000", 1),
        ("300000 100000\n", 3),
        ("5000 100000", 1),  # less than one core
        ("max 100000", 8),
        ("100000 0", 8),
        ("-1 100000", 8),
        ("100000", 8),
        ("1e5 100000", 8),
        ("\N{SUPERSCRIPT TWO} 1", 8),
        ("", 8),
        (None, 8),
    ],
)
def test_usable_cores_follow_the_quota_of_a_container(
    content: str | None, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(machine, "CPU_QUOTA", str(tmp_path / "cpu.max"))
    if content is not None:
        (tmp_path / "cpu.max").write_text(content)
    assert machine.usable_cores() == cores
    (tmp_path / "cpu.max").write_bytes(b"\xff\xfe")
    assert machine.usable_cores() == 8


@pytest.fixture
def launched_with(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    """(options of accelerate launch) -> the warnings of a single process."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    with contextlib.ExitStack() as stack:

        def warnings(*options: str | Path) -> list[str]:
            words = [sys.executable, "-c", "input()", "launch", *map(str, options)]
            parent = stack.enter_context(subprocess.Popen(words, stdin=subprocess.PIPE))
            stack.callback(parent.kill)
            while b"launch" not in Path(f"/proc/{parent.pid}/cmdline").read_bytes():  # it is still starting
                time.sleep(0.01)
            monkeypatch.setattr(os, "getppid", lambda: parent.pid)
            return launch_warnings(1)

        yield warnings


@pytest.mark.parametrize(
    "content",
    [
        "num_processes: 2",
        "- num_processes: 2",
        "2",
        "",
        "num_processes: {a: 2}",
        "num_processes: \N{SUPERSCRIPT TWO}",
        "num_processes: " + 5000 * "9",
        "num_processes: '" + 5000 * "9" + "'",
        "num_processes: 2026-99-99",
        "{[}",
        10_000 * "[",
        "num_processes: 2\n" + 100_000 * "# large\n",
    ],
    ids=lambda content: content[:20],
)
def test_any_content_of_a_launch_configuration_is_accepted(
    content: str, launched_with: Callable[..., list[str]], tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(content)
    assert bool(launched_with("--config_file", file)) == (content == "num_processes: 2")


def test_any_file_as_launch_configuration_is_accepted(launched_with: Callable[..., list[str]], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    for name in ("fifo", "binary", "", "nothing"):
        assert launched_with("--config_file", tmp_path / name) == []
    assert launched_with("--num_processes", 5000 * "9") == []
    assert launched_with(os.fsdecode(b"--\xff=2"), "--num-processes=3") != []


RANK_1_OF_2 = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE='abc' must be a whole number of at least 1"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE='0' must be"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE='' must be"),
        ({"RANK": "-1"}, "RANK='-1' must be a whole number of at least 0"),
        ({"RANK": "\N{SUPERSCRIPT TWO}"}, "RANK='.' must be"),
        ({"RANK": "7"}, "RANK=7 can't be used with WORLD_SIZE=2"),
        ({"LOCAL_RANK": "1.0"}, "LOCAL_RANK='1.0' must be"),
        ({"LOCAL_WORLD_SIZE": "many"}, "LOCAL_WORLD_SIZE='many' must be"),
        ({"MASTER_PORT": "x"}, "MASTER_PORT='x' must be"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT=65536 can't be used"),
        ({"MASTER_PORT": None}, "WORLD_SIZE=2 is set and MASTER_PORT is not"),
        ({"MASTER_ADDR": None}, "WORLD_SIZE=2 is set and MASTER_ADDR is not"),
        ({"RANK": None}, "WORLD_SIZE=2 is set and RANK is not"),
    ],
    ids=str,
)
def test_invalid_variables_of_a_launcher_are_named(
    variables: dict[str, str | None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in RANK_1_OF_2.items():
        monkeypatch.setenv(name, value)
    assert read_environment() == ProcessEnvironment(rank=1, ranks=2, local_rank=0, local_ranks=1)
    for name, changed in variables.items():
        monkeypatch.delenv(name) if changed is None else monkeypatch.setenv(name, changed)
    with pytest.raises(InputError, match=message):
        launcher.start_accelerator(None, 1, 5.0)


def test_every_process_reports_its_invalid_variables(tmp_path: Path) -> None:
    variables = RANK_1_OF_2 | {"RANK": "7", "LOCAL_RANK": "1"}
    ended = run_command("python", TRAIN, "--run.dir", tmp_path / "run", **variables)
    assert ended.code == 2
    assert ended.err.startswith("gan_dist: RANK=7 can't be used with WORLD_SIZE=2")
    assert len(ended.err.splitlines()) == 1


def test_an_unresolvable_name_of_the_first_host_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name, value in (RANK_1_OF_2 | {"MASTER_ADDR": "no.such.host.invalid", "LOCAL_WORLD_SIZE": "1"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingFailed, match=r"no\.such\.host\.invalid:29500 \(the name can't be resolved: ") as caught:
        launcher.start_accelerator(None, 1, 1.0)
    assert caught.value.reported_by == 1


def test_threads_follow_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "usable_cores", lambda: 6)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    launcher.start_accelerator(None, None, 60.0)
    assert torch.get_num_threads() == 6
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    launcher.start_accelerator(None, None, 60.0)
    assert torch.get_num_threads() == 1
    launcher.start_accelerator(None, 2, 60.0)
    assert torch.get_num_threads() == 2


def test_the_launcher_sets_the_precision_unless_the_run_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert launcher.start_accelerator(None, 1, 60.0).mixed_precision == "bf16"
    with pytest.raises(InputError, match="mixed_precision=fp8"):
        launcher.start_accelerator("fp8", 1, 60.0)
    if not torch.accelerator.is_available():
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
        with pytest.raises(InputError, match="fp16 needs a GPU"):
            launcher.start_accelerator(None, 1, 60.0)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_freed_memory_is_reused_without_the_kernel() -> None:
    """Five tensors of 8 MB are filled repeatedly: otherwise that causes 10,000 page faults each time."""
    program = """
import resource, torch
from gan_dist.distributed.launcher import start_accelerator
start_accelerator(None, 1, 60.0)
faults = []
for _ in range(11):
    tensors = [torch.ones(2**21) for _ in range(5)]
    del tensors
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[5])  # the heap grows first
"""
    ended = run_command("python", "-c", program)
    assert int(ended.out) < 1000, ended.err


# --- preemption


def test_a_signal_is_a_request_and_the_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    request = StopRequest()
    with request.listening():
        agreement = StopAgreement(request, 60.0)
        assert not agreement.reached()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)  # a launcher forwards what the terminal has also sent
        deadline = time.monotonic() + 30
        while not agreement.reached():  # a thread handles the signal
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert request.reason == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) == before


WAITING = """
import datetime, signal
from torch.distributed import TCPStore
from gan_dist.distributed.preemption import StopRequest
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
with StopRequest().listening():
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    print("ready", flush=True)
    store.wait(["never"], datetime.timedelta(seconds=60))  # in C++, where Python runs no handlers
"""


def test_a_second_signal_ends_at_once() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True, env=environment()
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGUSR1)  # ignored, as nohup ignores SIGHUP
        child.send_signal(signal.SIGTERM)
        time.sleep(2.5)
        child.send_signal(signal.SIGHUP)  # the terminal is closed in the meantime
        time.sleep(1)
        assert child.poll() is None
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=10) == 128 + signal.SIGTERM
