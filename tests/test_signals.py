"""Signals before there is anything to save, Ctrl-C and SIGHUP in a terminal, launchers that end or are process 1."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import shlex
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY, TRAIN, environment, free_port, launcher, run_command, train_here, wait_for_step

from gan_dist.distributed.signals import handle_signals
from gan_dist.outputs.folder import RunFolder

Flags = Callable[..., list[str]]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def processes_of(folder: Path) -> list[int]:
    """Returns the living processes with a run folder on their command line: its launcher and its workers."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            arguments = (entry / "cmdline").read_bytes().split(b"\0")  # empty for a process that has ended
            if str(folder).encode() in arguments:
                found.append(int(entry.name))
    return found


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with open(log, "w") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, env=environment(), cwd=REPOSITORY)


# --- signal handlers


def test_the_innermost_block_that_names_a_signal_handles_it() -> None:
    handled: list[tuple[str, int]] = []
    before = signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGUSR2)
    threads = set(threading.enumerate())
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with handle_signals(
        lambda number: handled.append(("outer", number)), signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP
    ):
        with handle_signals(lambda number: handled.append(("inner", number)), signal.SIGUSR1):
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGUSR2)
            os.kill(os.getpid(), signal.SIGHUP)
            wait_until(lambda: len(handled) == 2)
        os.kill(os.getpid(), signal.SIGUSR1)
        wait_until(lambda: len(handled) == 3)
    signal.signal(signal.SIGHUP, ignored)
    assert sorted(handled[:2]) == [("inner", signal.SIGUSR1), ("outer", signal.SIGUSR2)]
    assert handled[2] == ("outer", signal.SIGUSR1)
    assert (signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGUSR2)) == before
    assert set(threading.enumerate()) <= threads
    assert signal.set_wakeup_fd(-1) == -1


def test_a_forked_process_handles_its_own_signals() -> None:
    program = """
import os, signal, time
from gan_dist.distributed.signals import handle_signals
handled = []
with handle_signals(handled.append, signal.SIGTERM):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, b"ready")
        time.sleep(60)
        os._exit(0)
    os.read(reading, 5)
    os.kill(child, signal.SIGTERM)
    print(os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM)
print(handled)
"""
    assert run_command(sys.executable, "-c", program).out == "True\n[]\n"


@pytest.mark.processes(1)
@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_process_that_waits_for_others_ends_at_once(number: signal.Signals, flags: Flags, tmp_path: Path) -> None:
    """The rendezvous runs in C++, where Python's own handlers wait for its end."""
    port = free_port()
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    alone |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with subprocess.Popen(
        [sys.executable, str(TRAIN), *flags(tmp_path / "run")],
        stderr=subprocess.PIPE,
        env=environment() | alone,
        cwd=REPOSITORY,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:

        def is_waiting() -> bool:
            assert process.poll() is None
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                return True
            return False

        wait_until(is_waiting)
        time.sleep(0.5)
        process.send_signal(number)
        assert process.wait(60) == 75
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()


@pytest.mark.processes(1)
def test_loading_is_announced_only_where_it_takes_time(
    flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_here(flags(tmp_path / "run", "--train.steps", "1", "--wandb.mode", "disabled")) == 0
    assert "loading PyTorch" not in capsys.readouterr().out


# --- the launcher ends


@pytest.mark.slow
@pytest.mark.processes(2)
@pytest.mark.parametrize("after", [None, 5])
def test_a_killed_launcher_leaves_no_processes(after: int | None, flags: Flags, tmp_path: Path) -> None:
    """Workers that still import torch end at once; those of a running run save first."""
    folder = RunFolder(tmp_path / "run")
    arguments = flags(folder.path, "--train.epochs", "10000", "--wandb.mode", "disabled")
    process = start([*launcher(2), str(TRAIN), *arguments], tmp_path / "log")
    if after is None:
        wait_until(lambda: len(children(process.pid)) == 2)
    else:
        wait_for_step(folder, after, process)
    process.kill()
    process.wait()
    wait_until(lambda: not processes_of(folder.path), 10 if after is None else 60)
    if after is None:
        assert not folder.path.exists()
    else:
        status = json.loads(folder.status.read_text())
        assert (status["state"], status["reason"]) == ("stopped", "the launcher ended"), (tmp_path / "log").read_text()


WAITING = """
import os, signal, time
from gan_dist.distributed.preemption import StopRequest
request = StopRequest()
with request.listening():
    print(os.getpid(), flush=True)
    while True:
        time.sleep(0.05)
        print(request.reason, flush=True)
"""


@contextlib.contextmanager
def waiting_worker(**variables: str) -> Iterator[tuple[subprocess.Popen[str], int, Iterator[str]]]:
    """Runs WAITING in a worker of a process that ends only if it is killed.

    Yields:
        That process, the worker, and the lines that the worker prints.
    """
    launch = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    with subprocess.Popen(
        [sys.executable, "-c", launch, WAITING],
        stdout=subprocess.PIPE,
        text=True,
        env=environment() | variables,
        cwd=REPOSITORY,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        output = iter(process.stdout.readline, "")
        worker = int(next(output))
        try:
            yield process, worker, output
        finally:
            process.kill()
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)


def assert_lives(output: Iterator[str], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert next(output, ""), "it ended"


@pytest.mark.slow
@pytest.mark.parametrize("first", [None, signal.SIGINT])
def test_the_end_of_the_launcher_is_not_a_second_request(first: signal.Signals | None) -> None:
    """After a Ctrl-C in a terminal, a launcher ends seconds later, while its worker saves."""
    with waiting_worker(TORCHELASTIC_RUN_ID="none") as (process, worker, output):
        if first is not None:
            os.kill(worker, first)
            time.sleep(2.5)
        process.kill()
        reason = "the launcher ended\n" if first is None else "SIGINT\n"
        wait_until(lambda: next(output) == reason, 20)
        assert_lives(output, 3)
        os.kill(worker, signal.SIGTERM)
        if first is None:  # the first request by a user
            assert_lives(output, 2.5)
            os.kill(worker, signal.SIGTERM)
        wait_until(lambda: not next(output, ""), 20)


def test_a_process_started_from_a_shell_outlives_it() -> None:
    with waiting_worker(ACCELERATE_MIXED_PRECISION="bf16") as (process, _, output):
        process.kill()
        process.wait()
        assert_lives(output, 1)
        assert next(output) == "\n"  # no stop was requested


# --- a launcher that is process 1, as in a container


@pytest.fixture
def in_namespace() -> Callable[..., list[str]]:
    """Makes a command process 1 of a new process namespace."""
    arguments = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    try:
        refused = subprocess.run([*arguments, "true"], check=False, capture_output=True).returncode
    except OSError:
        refused = 1
    if refused:
        pytest.skip("a process namespace needs root")
    return lambda *command: [*arguments, *command]


@pytest.mark.slow
@pytest.mark.processes(1)
def test_a_launcher_that_is_process_1_trains_to_the_end(
    in_namespace: Callable[..., list[str]], flags: Flags, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    arguments = flags(folder.path, "--train.steps", "12", "--wandb.mode", "disabled")
    ended = run_command(*in_namespace(*ACCELERATE, str(TRAIN), *arguments))
    assert ended.code == 0, ended.out + ended.err
    status = json.loads(folder.status.read_text())
    assert (status["state"], status["step"]) == ("finished", 12)


@pytest.mark.slow
@pytest.mark.processes(1)
def test_a_launcher_that_is_process_1_can_be_killed(
    in_namespace: Callable[..., list[str]], flags: Flags, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    arguments = flags(folder.path, "--train.epochs", "10000", "--wandb.mode", "disabled")
    process = start(in_namespace(*ACCELERATE, str(TRAIN), *arguments), tmp_path / "log")
    wait_for_step(folder, 5, process)
    (first,) = children(process.pid)
    os.kill(first, signal.SIGKILL)
    process.wait(60)
    wait_until(lambda: not processes_of(folder.path), 20)


# Runs a worker whose launcher, a shell, ends before it starts, so that its parent is process 1. Ends with the worker.
ORPHAN = """
sh -c 'sh -c "sleep 0.5; echo \\$\\$ >pid; exec $PYTHON -c \\"$WORKER\\"" &'
until [ -s pid ]; do sleep 0.05; done
while [ -e /proc/$(cat pid)/exe ]; do sleep 0.05; done
"""
WORKER = """
from gan_dist.distributed.signals import exit_on_signals
print('parent', __import__('os').getppid(), flush=True)
with exit_on_signals():
    print('alive', flush=True)
"""


@pytest.mark.parametrize("process_1", ["sh", "python"])
@pytest.mark.parametrize("launched", [True, False])
def test_a_process_1_that_is_not_python_is_not_a_launcher(
    process_1: str, launched: bool, in_namespace: Callable[..., list[str]], tmp_path: Path
) -> None:
    command = ["sh", "-c", ORPHAN + ":"]
    if process_1 == "python":
        command = [sys.executable, "-c", f"import subprocess; subprocess.run({command!r})"]
    done = subprocess.run(
        in_namespace(*command),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env=environment()
        | {"PYTHON": sys.executable, "WORKER": WORKER, "PYTHONPATH": str(REPOSITORY)}
        | ({"TORCHELASTIC_RUN_ID": "none"} if launched else {}),
    )
    output = done.stdout.splitlines()
    assert output[:1] == ["parent 1"], done.stderr
    assert output[1:] == ([] if launched and process_1 == "sh" else ["alive"])


# --- a terminal


@contextlib.contextmanager
def in_terminal(command: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Runs a command in the foreground of a shell with its own terminal; the shell survives a Ctrl-C.

    Yields:
        The user's end of the terminal, and the shell.
    """
    user, terminal = pty.openpty()

    def take_terminal() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    with subprocess.Popen(
        ["bash", "-c", f"trap : INT; {command}; sleep 600"],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment() | {"TERM": "xterm"},
        cwd=REPOSITORY,
        start_new_session=True,
        preexec_fn=take_terminal,
    ) as shell:
        os.close(terminal)
        try:
            yield user, shell
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
            with contextlib.suppress(OSError):  # already closed
                os.close(user)


@pytest.mark.slow
@pytest.mark.processes(1)
def test_ctrl_c_in_a_terminal_shows_how_the_run_ended(flags: Flags, tmp_path: Path) -> None:
    folder, screen = RunFolder(tmp_path / "run"), bytearray()

    def read(user: int) -> None:
        with contextlib.suppress(OSError):  # the shell has ended
            while seen := os.read(user, 4096):
                screen.extend(seen)

    arguments = flags(folder.path, "--train.epochs", "10000", "--wandb.mode", "disabled")
    with in_terminal(shlex.join([*ACCELERATE, str(TRAIN), *arguments])) as (user, shell):
        reader = threading.Thread(target=read, args=(user,))
        reader.start()
        wait_for_step(folder, 20, shell)
        os.write(user, b"\x03")
        wait_until(lambda: not processes_of(folder.path))
        os.killpg(shell.pid, signal.SIGKILL)
        reader.join(60)
    output = screen.decode()
    status = json.loads(folder.status.read_text())
    assert (status["state"], status["reason"]) == ("stopped", "SIGINT"), output
    assert "stopped: SIGINT; the same command resumes it" in output
    assert "│ panel" in output
    assert "│ curves" in output
    assert folder.curves.exists()
    assert folder.panel.exists()


@pytest.mark.slow
@pytest.mark.processes(1)
def test_a_closed_terminal_stops_a_run_with_a_checkpoint(flags: Flags, tmp_path: Path) -> None:
    folder, log = RunFolder(tmp_path / "run"), tmp_path / "log"
    arguments = flags(folder.path, "--train.epochs", "10000", "--wandb.mode", "disabled")
    command = f"{shlex.join([*ACCELERATE, str(TRAIN), *arguments])} >{shlex.quote(str(log))} 2>&1"
    with in_terminal(command) as (user, shell):
        wait_for_step(folder, 20, shell)
        os.close(user)
        wait_until(lambda: not processes_of(folder.path))
    status = json.loads(folder.status.read_text())
    assert status["state"] == "stopped", log.read_text()
    assert status["reason"] in ("SIGHUP", "the launcher ended")
    assert (folder.checkpoints / f"step-{status['step']:08d}").is_dir()
    assert folder.panel.exists()


MAIN_THREAD_EXITS = """
import ctypes, os, subprocess, sys, threading, time
subprocess.Popen([sys.executable, "-c", sys.argv[1]], env=os.environ | {"TORCHELASTIC_RUN_ID": "x"})
threading.Thread(target=time.sleep, args=(3,)).start()
ctypes.CDLL(None).pthread_exit(0)
"""
PRINT_LAUNCHER_ENDED = """
import time
from gan_dist.distributed import signals
time.sleep(1)
print(signals.launcher_ended())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_launcher_whose_main_thread_has_exited_has_ended() -> None:
    """Its other threads may take seconds on a busy machine; the parent of its children changes after the last one."""
    assert run_command("python", "-c", MAIN_THREAD_EXITS, PRINT_LAUNCHER_ENDED).out == "True\n"
