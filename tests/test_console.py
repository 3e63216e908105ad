"""Console output, and that closed, full and unread terminals, pipes and files do not affect a command."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import shlex
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY, TRAIN, Ended, environment, launcher, run_command, wait_for_step
from rich.console import Console as RichConsole

from gan_dist.config import Config, EvaluateConfig, TrainConfig
from gan_dist.distributed import output_streams, output_targets
from gan_dist.distributed.output_streams import OutputStream, nonblocking_output
from gan_dist.outputs.console import Console, Progress
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json, read_json_lines
from gan_dist.trainer.schedule import Schedule
from gan_dist.trainer.timing import Timing

# --- output streams


def in_shell(redirection: str, *words: str | Path) -> Ended:
    """Run a command with streams redirected by bash; returns the exit code of the command."""
    command = shlex.join(str(word) for word in words)
    return run_command("bash", "-c", f"{command} {redirection}; exit ${{PIPESTATUS[0]}}", PYTHONPATH=str(REPOSITORY))


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def output_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "console-output"]


def test_all_text_is_written_and_the_streams_are_restored(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with nonblocking_output():
        outer = sys.stdout
        with nonblocking_output():  # gan-dist train calls train.py's main
            assert sys.stdout is outer
            print("one")
            print("two", file=sys.stderr)
        print("three", end="")
        assert sys.stdout.isatty() == before[0].isatty()
        assert sys.stdout.encoding == before[0].encoding
    assert (sys.stdout, sys.stderr) == before
    assert not output_threads()
    output = capsys.readouterr()
    assert (output.out, output.err) == ("one\nthree", "two\n")


PRINTING = """
import os, sys
from gan_dist.distributed.output_streams import nonblocking_output

def work():
    if len(sys.argv) == 1:
        print("outside before")
    with nonblocking_output():
        for line in range(5000):
            print("line", line, file=(sys.stdout, sys.stderr)[line % 2])
        if hasattr(os, "fork") and os.fork() == 0:
            sys.stdout.write("from a fork\\n")
            sys.stdout.flush()
            os._exit(0)
        os.wait()
        raise RuntimeError("the end")

try:
    work()
except RuntimeError:
    if len(sys.argv) > 1:  # what libraries print directly is not written into a file of ours
        with open(sys.argv[1], "w") as file:
            file.write("whole")
            file.flush()
            for descriptor in (1, 2):
                os.write(descriptor, b"from C")
        sys.exit(75)
    raise
"""


def test_the_order_of_both_streams_and_a_traceback_are_kept() -> None:
    ended = in_shell("2>&1", sys.executable, "-c", PRINTING)
    assert ended.code == 1
    lines = ended.out.splitlines()
    lines.remove("from a fork")  # another process
    assert lines[:5001] == ["outside before", *(f"line {line}" for line in range(5000))]
    assert lines[5001].startswith("Traceback")
    assert lines[-1] == "RuntimeError: the end"


@pytest.mark.parametrize(
    "redirection",
    [
        *("| head -n 1", "2>&1 | head -n 1", "2>&1 >/dev/null | head -n 1"),
        *(">/dev/full", "2>/dev/full", ">/dev/full 2>&1", ">&-", "2>&-", "<&- >&- 2>&-"),
    ],
)
def test_a_stream_that_accepts_no_text_changes_nothing(tmp_path: Path, redirection: str) -> None:
    ended = in_shell(redirection, sys.executable, "-c", PRINTING, tmp_path / "file")
    assert ended.code == 75
    assert (tmp_path / "file").read_text() == "whole"
    assert "Error" not in ended.err + ended.out


@contextlib.contextmanager
def unread_pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.TextIOBase]:
    """Replaces sys.stdout with a pipe; yields its reading end."""
    reading, writing = os.pipe()
    with open(reading) as reader, open(writing, "w", encoding="ascii") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        yield reader


def test_an_unread_pipe_delays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_streams, "MAX_QUEUED", 10)
    seen: list[str] = []
    with unread_pipe(monkeypatch) as pipe:
        reader = threading.Thread(target=lambda: seen.extend(pipe))
        with nonblocking_output():
            assert isinstance(sys.stdout, OutputStream)
            for line in range(1000):
                print(f"{line:06} {'é' * 1000}")
            reader.start()
            wait_until(sys.stdout._thread.queue.empty)
            print("1000000")
        sys.stdout.close()
        reader.join()
    dropped = [int(line[1:].split()[0]) for line in seen if line.startswith("[")]
    lines = [line for line in seen if not line.startswith("[")]
    assert dropped
    assert len(lines) + sum(dropped) == 1001
    assert lines == sorted(lines)
    assert lines[0] == f"000000 {'?' * 1000}\n"
    assert lines[-1] == "1000000\n"


def test_the_end_does_not_wait_for_an_unread_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_targets, "CLOSE_SECONDS", 0.1)
    with unread_pipe(monkeypatch):
        with nonblocking_output():
            for _ in range(100):
                print("x" * 1000)
        assert os.path.samestat(os.fstat(sys.stdout.fileno()), os.stat(os.devnull))
        print("x" * 100_000, flush=True)  # other writers do not wait either
    wait_until(lambda: not output_threads())


def test_a_log_continues_when_the_disk_has_space_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_targets, "RETRY_SECONDS", 0.0)
    with open("/dev/full", "w") as full, open(tmp_path / "log", "w") as log:
        monkeypatch.setattr(sys, "stdout", full)
        with nonblocking_output():
            assert isinstance(sys.stdout, OutputStream)
            print("one\ntwo")
            wait_until(lambda: sys.stdout._target._missing)  # type: ignore[attr-defined]
            os.dup2(log.fileno(), full.fileno())
            print("three")
    text = (tmp_path / "log").read_text()
    assert text.strip() == "[2 line(s) of output could not be written here]\nthree"


def test_a_stream_that_was_closed_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for closed in ((tmp_path / "log").open("w"), io.StringIO()):
        monkeypatch.setattr(sys, "stdout", closed)
        with nonblocking_output():
            print("one")
            sys.stdout.close()
            with open(tmp_path / "other", "w") as other:  # it has the descriptor of the log
                print("two")
                wait_until(lambda: sys.stdout._target._failed)  # type: ignore[attr-defined]
                other.write("whole")
        assert (tmp_path / "other").read_text() == "whole"


# --- runs and commands


@pytest.fixture
def make_command(flags: Callable[..., list[str]], tmp_path: Path) -> Callable[[int], list[str | Path]]:
    """A run with epochs of 10 steps that logs each step in about 100 characters."""

    def make(epochs: int) -> list[str | Path]:
        logged = ["--train.epochs", str(epochs), "--log.every-steps", "1", "--wandb.mode", "disabled"]
        saved = ["--samples.every-epochs", str(epochs), "--checkpoint.every-steps", "500"]
        return [TRAIN, *flags(tmp_path / "run", *logged, *saved)]

    return make


def assert_finished(folder: RunFolder, step: int) -> None:
    assert read_json(folder.status)["state"] == "finished"
    assert read_json_lines(folder.metrics)[-1]["step"] == step
    assert folder.summary.exists()


@pytest.mark.slow
@pytest.mark.parametrize(("redirection", "processes"), [("2>&1 | head -n 1", 2), (">/dev/full 2>&-", 1), (">&-", 1)])
def test_a_run_finishes_with_any_output(
    make_command: Callable[[int], list[str | Path]], tmp_path: Path, redirection: str, processes: int
) -> None:
    start = launcher(processes) if processes > 1 else [sys.executable]
    assert in_shell(redirection, *start, *make_command(5)).code == 0
    assert_finished(RunFolder(tmp_path / "run"), step=50)


@pytest.mark.slow
def test_a_run_finishes_with_unread_output(make_command: Callable[[int], list[str | Path]], tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, *make_command(20)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pipesize=4096,
        env=environment(),
        cwd=REPOSITORY,
    ) as process:
        assert process.wait(timeout=120) == 0
        assert process.stdout is not None
        assert b"gan_dist" in process.stdout.read()
    assert_finished(RunFolder(tmp_path / "run"), step=200)


@pytest.mark.slow
def test_a_run_continues_with_an_unread_terminal_and_is_saved_when_it_closes(
    make_command: Callable[[int], list[str | Path]], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [sys.executable, *make_command(1000)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment() | {"TERM": "dumb"},
        cwd=REPOSITORY,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as process:
        os.close(theirs)
        wait_for_step(folder, 400, process)  # more than a terminal buffers (less than 20 kB)
        os.close(ours)
        assert process.wait(timeout=120) == 75
    status = read_json(folder.status)
    assert (status["state"], status["reason"]) == ("stopped", "SIGHUP")
    assert RunFolder(tmp_path / "run").checkpoints.joinpath(f"step-{status['step']:08}").exists()


def test_commands_work_with_a_closed_pipe() -> None:
    commands = [
        [],
        ["--help"],
        ["bogus"],
        *([name, "--help"] for name in ("train", "sample", "doctor", "diff", "check")),
    ]
    for command in commands:
        ended = in_shell("2>&1 | sleep 0", sys.executable, "-m", "gan_dist.cli", *command)
        assert (ended.code, ended.out, ended.err) == (2 if command in ([], ["bogus"]) else 0, "", "")


# --- console


ROW = {
    "images_per_second": 123_456.7,
    "loss/discriminator": 0.25,
    "loss/generator": None,
    "score/real": 0.5,
    "score/fake": 0.5,
}


def test_a_disabled_console_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(enabled=False)
    console.announce("x")
    console.table("x", {"a": 1})
    console.begin(10, 1.0, lambda: Progress(0, 0.0))
    console.progress({})
    console.end()
    assert capsys.readouterr().out == ""


def test_markup_in_an_error_is_printed_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(enabled=True)
    console.table("failed: [/pair.cc:545] read error", {"x": "[/b]"})
    console.announce("[/i] and more")
    output = capsys.readouterr().out
    assert all(text in output for text in ("[/pair.cc:545]", "[/b]", "[/i] and more"))


def test_a_log_file_gets_whole_lines_and_whole_paths(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    console = Console(enabled=True)
    console.begin(2000, 100.0, lambda: Progress(500, 25.0, 1000.0, 3723.4))
    console.progress(ROW)
    console.end()
    path = "/a" * 100
    console.table("finished", {"generator": path})
    output = capsys.readouterr().out
    assert output.splitlines()[0] == (
        "epoch 25.00/100  step 500/2,000  123,457 images/s  1:02:03 left  loss D 0.250 G -  score real 0.50 fake 0.50"
    )
    assert path in output


def terminal(console: Console, width: int) -> io.StringIO:
    """Make a console write to a fake terminal; returns its content."""
    screen = io.StringIO()
    console.rich = RichConsole(file=screen, width=width, force_terminal=True, force_interactive=True, color_system=None)
    return screen


def test_the_bar_moves_between_log_points() -> None:
    console = Console(enabled=True)
    screen = terminal(console, 80)
    step = 3
    console.begin(1000, 10.0, lambda: Progress(step, step / 100, 1000.0, 60.0))
    try:
        wait_until(lambda: "step 3/1,000" in screen.getvalue())
        step = 7
        wait_until(lambda: "step 7/1,000" in screen.getvalue())
        assert "1,000 images/s  1:00 left" in screen.getvalue()
        assert "loss" not in screen.getvalue()  # not known yet
        console.progress(ROW)
        wait_until(lambda: "123,457 images/s  1:00 left  loss D 0.250 G -" in screen.getvalue())
    finally:
        console.end()
    wait_until(lambda: not [thread for thread in threading.enumerate() if "Refresh" in type(thread).__name__])


@pytest.mark.parametrize("width", [20, 80, 120])
def test_no_line_of_the_bar_is_wider_than_the_terminal(width: int) -> None:
    console = Console(enabled=True)
    screen = terminal(console, width)
    console.begin(10_000_000, 12_345.0, lambda: Progress(9_999_999, 12_344.99, 1e6, 1e6))
    console.progress(ROW)
    console.announce("a long line " * 20)  # printed together with the bar
    console.end()
    frames = screen.getvalue().replace("a long line " * 20, "")
    lines = [line for line in frames.replace("\x1b", "\n\x1b").splitlines() if not line.startswith("\x1b")]
    assert any("step" in line for line in lines) or width == 20
    assert max(len(line) for line in lines) < min(width, 80)


def test_a_notebook_gets_the_plain_lines_of_a_log_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As display data they would be lost: a forked process has no connection to the front end."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as ipykernel does
    console = Console(enabled=True)
    console.begin(1000, 10.0, lambda: Progress(3, 0.03, 1000.0, 60.0))
    console.table("title", {"name": "value"})
    console.progress(ROW)
    console.end()
    output = capsys.readouterr().out
    assert "title\n" in output
    assert "│ name │ value │" in output
    assert "epoch 0.03/10  step 3/1,000  123,457 images/s" in output
    assert "\x1b" not in output


# --- time


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_speed_excludes_evaluations() -> None:
    clock = Clock()
    timing = Timing(seconds=1000.0, evaluating=30.0, clock=clock)
    assert timing.seconds() == 1000.0  # the run has not started
    timing.begin(50)
    assert timing.pace(50) is None
    clock.now += 10  # slow first steps
    assert timing.pace(55) == 0.5
    with timing.evaluation():
        clock.now += 7
        assert timing.pace(55) == 0.5
    assert timing.pace(55) == 0.5
    assert timing.log(55) == 0.5
    assert timing.pace(56) == 0.5
    clock.now += 10
    with timing.evaluation():
        clock.now += 40
    clock.now += 10
    assert timing.log(95) == 2.0
    assert timing.pace(95) == 2.0  # the first steps are excluded
    clock.now += 10
    assert timing.log(135) == 4.0
    assert timing.pace(140) == 80 / 30
    assert (timing.last_evaluation, timing.evaluating) == (40.0, 77.0)
    assert timing.seconds() == 1000.0 + 87
    timing.begin(100)  # rollback to a checkpoint
    assert timing.seconds() == 1000.0 + 87
    clock.now += 1
    assert timing.pace(110) == 10.0


@pytest.mark.parametrize("every", [None, 1, 3])
def test_remaining_evaluations_are_counted(every: int | None) -> None:
    config = Config(train=TrainConfig(epochs=8, batch_size=30), evaluate=EvaluateConfig(every_epochs=every))
    schedule = Schedule(config, dataset_size=100)
    due = [step for step in range(1, schedule.total_steps + 1) if schedule.at(step, False).evaluate]
    assert len(due) == (8 // every if every else 0)
    for step in range(schedule.total_steps + 1):
        assert schedule.evaluations_after(step) == len([at for at in due if at > step])
