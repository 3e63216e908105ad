"""How a process starts and stops: cores, threads, precision, variables of launchers, signals."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from conftest import TRAIN, environment, run_command

from gan_dist.config import InputError, TrainingFailed
from gan_dist.distributed import launcher, machine
from gan_dist.distributed.device_wait import NoRunAhead
from gan_dist.distributed.environment import ProcessEnvironment, read_environment
from gan_dist.distributed.launch_command import launch_warnings
from gan_dist.distributed.preemption import StopRequest
from gan_dist.distributed.stop_agreement import StopAgreement
from gan_dist.gan.stop_signal import LocalStopSignal

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


def test_a_failed_connection_is_reported_by_a_rank_that_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 of this host reports it, unless the store is gone with it."""
    reset = dist.DistNetworkError("recvVector failed: Connection reset by peer")
    refused = dist.DistNetworkError("The client socket has timed out after 8000ms")
    late = dist.DistStoreError("wait timeout after 8000ms")
    here, elsewhere = ProcessEnvironment(1, 4, 1, 2), ProcessEnvironment(2, 4, 0, 2)
    with socket.create_server(("127.0.0.1", 0)) as store:
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(store.getsockname()[1]))
        answered = [launcher.connection_failure(error, here) for error in (reset, refused, late)]
    gone = [launcher.connection_failure(error, here) for error in (reset, refused, late)]
    assert [failure.reported_by for failure in answered] == [0, 0, 0]
    assert [failure.reported_by for failure in gone] == [1, 1, 0]
    assert "lost rank 0 (dead, hung or cut off) before the first step" in str(gone[0])
    assert "the 4 processes did not connect at 127.0.0.1:" in str(gone[1])
    assert launcher.connection_failure(reset, elsewhere).reported_by == 2


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
        agreement = StopAgreement(request, LocalStopSignal(), NoRunAhead())
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
        assert child.wait(timeout=60) == 128 + signal.SIGTERM
