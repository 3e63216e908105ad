"""The run folder: one run at a time, unrelated files in it, and arbitrary content of its files."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import REPOSITORY, TRAIN, Ended, assert_same_end, environment, figures, run_command, train_here
from hypothesis import given
from hypothesis import strategies as st

from gan_dist.config import InputError
from gan_dist.files import BadFile, parse_json, read_file
from gan_dist.outputs import lock
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.record_reader import RecordReader
from gan_dist.outputs.records import (
    Records,
    StepLines,
    read_floor,
    read_json,
    read_json_lines,
    read_optional_json,
    read_records,
)

Flags = Callable[..., list[str]]
QUIET = ("--wandb.mode", "disabled")


def train_run(folder: Path, flags: Flags, *more: str) -> int:
    return train_here(flags(folder, *QUIET, *more))


# --- one run at a time


@pytest.mark.slow
def test_one_of_two_runs_that_start_in_a_new_folder_trains(flags: Flags, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "new" / "run")
    command = [sys.executable, str(TRAIN), *flags(folder.path, *QUIET, "--train.epochs", "100000")]
    started = []
    for _ in range(2):
        started.append(
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), cwd=REPOSITORY
            )
        )
        time.sleep(0.05)
    refused = None
    while refused is None:  # the second one gives up after ten seconds
        time.sleep(0.1)
        refused = next((process for process in started if process.poll() is not None), None)
    running = next(process for process in started if process is not refused)
    assert "is in use by another run (process " in refused.communicate()[1]
    assert refused.returncode == 2
    running.terminate()
    out, err = running.communicate(timeout=60)
    assert running.returncode == 75, out + err
    steps = [row["step"] for row in read_json_lines(folder.metrics)]
    assert steps == list(range(5, steps[-1] + 1, 5))
    assert not list(folder.path.glob(".lock"))


def test_bad_input_leaves_no_folder(flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_run(tmp_path / "a" / "b", flags, "--train.batch-size", "5000") == 2
    assert "more than the 200 images" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def refuse_locks(descriptor: int, operation: int) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def test_a_file_system_without_locks_is_announced_and_replaced_by_a_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse_locks)
    monkeypatch.setattr(lock, "LEASE_SECONDS", 0.4)
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.1)
    announced: list[str] = []
    lost: list[str] = []
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    first.lock(announced.append, lost.append)
    assert len(announced) == 1
    assert "without locks (No locks available)" in announced[0]
    with pytest.raises(InputError, match=rf"in use by another run \(process {os.getpid()} on "):
        second.lock(announced.append, lost.append, wait=0.2)
    first.close()
    second.lock(announced.append, lost.append, wait=0.2)
    second.close()
    assert not list(tmp_path.iterdir())
    assert lost == []


def test_the_lease_of_a_dead_or_silent_run_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse_locks)
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.1)
    lease = tmp_path / lock.LEASE
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    lease.write_text(json.dumps({"pid": dead.pid, **lock._pid_namespace(), "token": "x"}))
    folder, lost = RunFolder(tmp_path), []
    folder.lock(print, lost.append, wait=0.1)
    folder.close()
    lease.write_text(json.dumps({"pid": 1, "host": "elsewhere", "pids": "", "token": "x"}))
    os.utime(lease, (time.time() - 100, time.time() - 100))
    folder.lock(print, lost.append, wait=0.1)
    # Another run took it over while this one was suspended, which is reported.
    lease.write_text(json.dumps({"pid": 1, "host": "elsewhere", "pids": "", "token": "y"}))
    deadline = time.monotonic() + 60
    while not lost and time.monotonic() < deadline:
        time.sleep(0.02)
    assert lost == ["another run took its folder over"]
    folder.close()
    assert json.loads(lease.read_text())["token"] == "y"


def test_whether_a_run_holds_a_folder_is_seen_without_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lock.is_held(tmp_path) is False
    folder = RunFolder(tmp_path)
    folder.lock(print, print)
    assert lock.is_held(tmp_path) is True
    left = (tmp_path / lock.LOCK).read_bytes()
    folder.close()
    assert lock.is_held(tmp_path) is False
    (tmp_path / lock.LOCK).write_bytes(left)  # of a killed run
    assert lock.is_held(tmp_path) is False
    (tmp_path / lock.LOCK).write_bytes(b'{"pid": 1, "host": "elsewhere"}')
    assert lock.is_held(tmp_path) is None
    (tmp_path / lock.LOCK).unlink()
    (lease := tmp_path / lock.LEASE).touch()
    assert lock.is_held(tmp_path) is True
    os.utime(lease, (time.time() - 100, time.time() - 100))
    assert lock.is_held(tmp_path) is False
    assert [file.name for file in tmp_path.iterdir()] == [lock.LEASE]
    os.mkfifo(tmp_path / lock.LOCK)
    assert lock.is_held(tmp_path) is None


def test_a_growing_file_is_read_as_if_it_were_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    reader = RecordReader(file)
    assert reader.read() == read_records(file) == Records([], [])
    lines = [json.dumps({"step": step, "epoch": 1.0}).encode() + b"\n" for step in (1, 2, 3, 3, 4)]
    content = b"".join([*lines[:2], b"\n", b"\xff{\n", *lines[2:], b"no line\n", *lines[4:]])
    for end in range(len(content) + 1):  # byte by byte, so that every line is seen half-written
        file.write_bytes(content[:end])
        assert reader.read() == read_records(file), end
    file.write_bytes(content + b'{"step": 5, "epoch": 1}')  # complete but for its newline
    assert [row["step"] for row in reader.read().rows] == [1, 2, 3, 4, 5]
    longer = content.replace(b'"step": 2', b'"step": 9') + lines[2] * 9
    file.write_bytes(longer)  # another file with the same inode that is longer
    assert reader.read() == read_records(file)
    file.write_bytes(lines[0])  # truncated
    assert reader.read() == read_records(file)
    content = b"".join(lines[2].replace(b"3", b"%d" % step) for step in range(10, 99))
    file.write_bytes(content)
    assert len(reader.read().rows) == 89
    other = tmp_path / "other"  # differs only far from its end
    other.write_bytes(content.replace(b'"step": 10', b'"step": 99'))
    other.replace(file)
    assert reader.read() == read_records(file)
    StepLines(file).rewrite(Records([], [], complete=False), [{"step": 7, "epoch": 1}], print)  # replaced
    assert [row["step"] for row in reader.read().rows] == [7]
    file.unlink()
    assert reader.read() == Records([], [])
    file.write_bytes(lines[1])
    assert [row["step"] for row in reader.read().rows] == [2]
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(InputError, match="is not a regular file"):
        reader.read()


def test_a_lock_that_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".lock")
    with pytest.raises(InputError, match="not a regular file"):
        RunFolder(tmp_path).lock(print, print)


def test_a_folder_with_unrelated_files_is_refused(
    flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    assert train_run(tmp_path, flags, "--train.steps", "1") == 2
    output = capsys.readouterr().err
    assert "is not a run folder (thesis.tex)" in output
    assert "--run.dir" in output
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "job.log").write_text("of a scheduler")
    assert train_run(logs, flags, "--train.steps", "1") == 0


@pytest.mark.slow
def test_a_fallback_trains_in_its_own_folder(
    flags: Flags, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first start without a network must not use the folder in which the next start expects its run."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    folder = RunFolder(tmp_path / "run")
    sample = RunFolder(tmp_path / "run-sample")
    nothing = ["--data.root", str(tmp_path / "nothing"), "--data.source", "auto"]
    for steps in ("3", "6"):
        assert train_run(folder.path, flags, *nothing, "--train.steps", steps) == 0
        assert f"this run is stored in {sample.path}" in capsys.readouterr().out
    assert not folder.path.exists()
    assert read_json(sample.environment)["from_step"] == 3
    assert read_json(sample.environment)["data"]["source"] == "sample"
    assert read_json(sample.config)["run"]["dir"] == str(sample.path)
    # The same command trains on the data once they exist. Without them, it does not resume with other images.
    assert train_run(folder.path, flags, "--train.steps", "3") == 0
    capsys.readouterr()
    assert train_run(folder.path, flags, *nothing, "--train.steps", "6") == 2
    output = capsys.readouterr().err
    assert "was trained on other images" in output
    assert "holds no mnist" in output
    assert "pass the original --data.root" in output


# --- files with one object per line


@pytest.fixture(scope="module")
def stopped(flags: Flags, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of 20 steps."""
    folder = RunFolder(tmp_path_factory.mktemp("stopped") / "run")
    assert train_run(folder.path, flags, "--train.steps", "20") == 0
    return folder


@pytest.fixture(scope="module")
def straight(flags: Flags, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The same run with 30 steps."""
    folder = RunFolder(tmp_path_factory.mktemp("straight") / "run")
    assert train_run(folder.path, flags, "--train.steps", "30") == 0
    return folder


@pytest.mark.parametrize(
    "bad", [b"garbage", b"", b"\0" * 40, b"\xff\xfe", b"5", b"{}", b"[" * 100_000, b'{"step": "5"}']
)
def test_a_damaged_line_does_not_affect_others(
    bad: bytes,
    stopped: RunFolder,
    straight: RunFolder,
    flags: Flags,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(stopped.path, folder.path)
    lines = folder.metrics.read_bytes().split(b"\n")
    lines.insert(1, bad)
    folder.metrics.write_bytes(b"\n".join(lines))
    assert train_run(folder.path, flags, "--train.steps", "30") == 0
    assert_same_end(folder, straight, 30)
    out = capsys.readouterr().out.replace("\n", "")
    assert "1 damaged line(s) moved to metrics.jsonl.damaged (line 2:" in out
    assert (folder.path / "metrics.jsonl.damaged").read_bytes() == bad + b"\n"


def test_no_line_is_appended_to_a_truncated_one(flags: Flags, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert train_run(folder.path, flags, "--train.steps", "10") == 0
    folder.metrics.write_bytes(folder.metrics.read_bytes()[:-1])
    assert train_run(folder.path, flags, "--train.steps", "15") == 0
    assert [row["step"] for row in figures(folder)] == [5, 10, 15]


DAMAGED = [b"", b"\xff", b"5", b"null", b"[]", b'{"data": 3, "earlier_sessions": 4, "wandb": 5}', b'{"a":' * 5000]


@pytest.mark.slow
def test_damaged_optional_files_do_not_end_a_run(flags: Flags, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert train_run(folder.path, flags, "--train.steps", "5") == 0
    for i, content in enumerate(DAMAGED):
        for file in (folder.environment, folder.floor, folder.status, folder.summary):
            file.write_bytes(content)
        assert train_run(folder.path, flags, "--train.steps", str(10 + i)) == 0
    assert read_json(folder.environment)["from_step"] == 10 + len(DAMAGED) - 2


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "evaluations.jsonl", "hashes.jsonl"])
def test_a_fifo_instead_of_a_file_is_refused(
    name: str, flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path / "run")
    assert train_run(folder.path, flags, "--train.steps", "5") == 0
    (folder.path / name).unlink(missing_ok=True)
    os.mkfifo(folder.path / name)
    before = {file.name: file.read_bytes() for file in folder.path.iterdir() if file.is_file()}
    capsys.readouterr()
    assert train_run(folder.path, flags, "--train.steps", "10") == 2
    output = capsys.readouterr().err
    assert f"{folder.path / name} is not a regular file" in output
    assert output.count("\n") == 1
    assert {file.name: file.read_bytes() for file in folder.path.iterdir() if file.is_file()} == before


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)
ROWS = st.fixed_dictionaries(
    {"step": st.integers(-2, 50) | JSON, "epoch": st.floats() | JSON},
    optional={"hashes": JSON, "ranks_differ": JSON, "intervals": JSON, "classifier": JSON, "loss/generator": JSON},
)
LINES = st.lists(st.binary(max_size=60) | (JSON | ROWS).map(lambda value: json.dumps(value).encode()), max_size=8)


@pytest.mark.fuzz
@given(lines=LINES, name=st.sampled_from(["metrics.jsonl", "evaluations.jsonl", "hashes.jsonl"]))
def test_the_valid_lines_of_any_file_are_read(tmp_path: Path, lines: list[bytes], name: str) -> None:
    file = tmp_path / name
    file.write_bytes(b"\n".join(lines))
    (tmp_path / f"{name}.damaged").unlink(missing_ok=True)
    records = StepLines(file).read()
    steps = [row["step"] for row in records.rows]
    assert len(set(steps)) == len(steps)
    StepLines(file).rewrite(records, records.rows, lambda line: None)
    again = StepLines(file).read()
    assert [row["step"] for row in again.rows] == steps
    assert again.damaged == []


@pytest.mark.fuzz
@given(content=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_json_file_is_an_object_or_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    values, problem = read_optional_json(file)
    assert isinstance(values, dict)
    assert all(isinstance(value, int | float) for value in read_floor(file).values())
    if problem:
        with pytest.raises(InputError, match="restore it"):
            read_json(file)
    else:
        assert read_json(file).keys() == values.keys()


def test_deep_nesting_is_refused() -> None:
    for depth in (10, 63):
        parse_json(b"[" * depth + b"]" * depth)
    for depth in (66, 900, 10**6):
        with pytest.raises(BadFile, match="not valid JSON"):
            parse_json(b"[" * depth + b"]" * depth)


def test_only_regular_files_of_limited_size_are_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert read_file(file, 5) == b"12345"
    with pytest.raises(BadFile, match="too large"):
        read_file(file, 4)
    link = tmp_path / "link"
    link.symlink_to(file)
    assert read_file(link, 5) == b"12345"
    with pytest.raises(BadFile, match="can't be read"):
        read_file(link, 5, follow_links=False)
    for other in (tmp_path, tmp_path / "nothing", Path("/dev/zero"), Path("with\0nul")):
        with pytest.raises(BadFile):
            read_file(other, 5)


def test_commands_report_a_damaged_run_in_one_line(flags: Flags, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert train_run(folder.path, flags, "--train.steps", "5", "--train.log-hashes", "5") == 0
    for name in ("config.json", "metrics.jsonl", "generator.safetensors", "hashes.jsonl"):
        content = (folder.path / name).read_bytes()
        for damaged in DAMAGED:
            (folder.path / name).write_bytes(damaged)
            for words in (["doctor", str(folder.path)], ["diff", str(folder.path), str(folder.path)]):
                ended = command(*words)
                assert "Traceback" not in ended.err
                assert ended.code in (0, 1, 2, 3)
        (folder.path / name).write_bytes(content)


def command(*words: str) -> Ended:
    """Runs a gan-dist command in this process."""
    import contextlib
    import io

    from gan_dist import cli

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(words)
    return Ended(code, out.getvalue(), err.getvalue())


def test_a_run_without_its_environment_file_is_resumed(flags: Flags, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert train_run(folder.path, flags, "--train.steps", "5") == 0
    run_id = read_json(folder.environment)["run_id"]
    folder.environment.unlink()
    assert train_run(folder.path, flags, "--train.steps", "10") == 0
    environment = read_json(folder.environment)
    assert (environment["from_step"], environment["run_id"]) == (5, run_id)


def test_the_next_run_takes_the_lock_of_a_killed_one(flags: Flags, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    program = (
        "import sys, os, signal; from gan_dist.outputs.folder import RunFolder; from pathlib import Path\n"
        "RunFolder(Path(sys.argv[1])).lock(print, print); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert run_command("python", "-c", program, folder.path).code == -9
    assert (folder.path / ".lock").exists()
    assert train_run(folder.path, flags, "--train.steps", "2") == 0
