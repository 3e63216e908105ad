"""Stopping and going on: signals, exit codes, folders that belong to another run, W&B that is not there."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import wandb_file
from conftest import (
    INJECT,
    REPOSITORY,
    TRAIN,
    Ended,
    assert_same_end,
    draw_images,
    environment,
    figures,
    idx_bytes,
    launcher,
    run_command,
    train_here,
    wait_for_step,
    workers,
    write_root,
)
from safetensors.torch import load_file

from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json_lines

Flags = Callable[..., list[str]]


def train_run(folder: Path, flags: Flags, *more: str) -> int:
    return train_here(flags(folder, "--wandb.mode", "disabled", *more))


def stop_mid_run(command: list[str], folder: RunFolder, after: int, number: int) -> tuple[int, str]:
    """Start a run, send its launcher a signal once it logged `after` steps, wait for every process of it."""
    log = folder.path.with_suffix(".log")
    with open(log, "w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(),
            cwd=REPOSITORY,
            start_new_session=True,
            # A run heeds no signal that is ignored where it starts, as SIGINT is behind a shell's &.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        wait_for_step(folder, after, process)
        process.send_signal(number)
        code = process.wait(timeout=60)
        deadline = time.monotonic() + 60
        while _group_lives(process.pid):
            assert time.monotonic() < deadline, "processes were left behind"
            time.sleep(0.05)
    return code, log.read_text()


def _group_lives(group: int) -> bool:
    """Whether any process of a session's group is left (wandb's own service ends by itself when its run does)."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = status.read_text().rpartition(")")[2].split()[:3]
            command = (status.parent / "cmdline").read_text()
        except OSError:
            continue
        if int(process_group) == group and state != "Z" and "wandb-core" not in command:
            return True
    return False


# How to launch, the exit codes that SIGTERM to the launcher may lead to, and what status.json says then: by itself a
# launcher of one process ends at once, and one of several passes the signal on.
ACCELERATE = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
LAUNCHES = {
    "python": ([sys.executable], {75}, "SIGTERM"),
    "accelerate": (ACCELERATE, {143, -signal.SIGTERM}, "the launcher ended"),
    "two processes": (launcher(2), {1}, "SIGTERM"),
}


@pytest.mark.processes(2)
@pytest.mark.parametrize(
    "launch", [pytest.param(name, marks=[] if name == "accelerate" else pytest.mark.slow) for name in LAUNCHES]
)
def test_sigterm_saves_and_the_same_command_goes_on(launch: str, flags: Flags, tmp_path: Path) -> None:
    words, codes, reason = LAUNCHES[launch]
    stopped, straight = RunFolder(tmp_path / "stopped"), RunFolder(tmp_path / "straight")
    exact = ["--train.epochs", "10000", "--train.exact-shards", "2"]
    command = [*words, str(TRAIN), *flags(stopped.path, *exact)]
    code, log = stop_mid_run(command, stopped, 20, signal.SIGTERM)
    assert code in codes, log
    status = json.loads(stopped.status.read_text())
    assert status["state"] == "stopped", log
    assert status["reason"] == reason
    assert log.count("loading PyTorch") == 1
    step = status["step"]
    assert (stopped.checkpoints / f"step-{step:08d}").is_dir()
    assert stopped.curves.exists()
    assert stopped.panel.exists()

    end = step + 13
    more = [*exact, "--train.steps", str(end)]
    assert run_command(*words, TRAIN, *flags(stopped.path, *more)).code == 0
    assert train_run(straight.path, flags, *more) == 0
    assert_same_end(stopped, straight, end)
    steps = [row["step"] for row in read_json_lines(stopped.metrics)]
    assert steps == sorted(set(steps))

    # One run on the dashboard, no step twice: both sessions have one id and go on from each other.
    files = sorted(stopped.wandb.glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2
    assert len({file.name for file in files}) == 1
    logged = [row["train/step"] for file in files for row in wandb_file.history(file) if "loss/generator" in row]
    assert logged == steps


@pytest.mark.slow
@pytest.mark.processes(2)
def test_a_killed_worker_is_restarted_and_the_run_goes_on_by_itself(flags: Flags, tmp_path: Path) -> None:
    folder, straight = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "straight")
    more = ["--train.steps", "250", "--train.epochs", "10000", "--train.exact-shards", "2"]
    more += ["--checkpoint.every-steps", "41", "--samples.every-epochs", "100"]
    words = flags(folder.path, "--wandb.mode", "disabled", *more)
    command = [*launcher(2), "--max_restarts", "1", str(TRAIN), *words]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment(), cwd=REPOSITORY)
        wait_for_step(folder, 50, process)
        os.kill(workers(process)[-1], signal.SIGKILL)
        code = process.wait(timeout=90)
    said = (tmp_path / "log").read_text()
    assert code == 0, said
    assert "resuming after step" in said
    assert train_run(straight.path, flags, *more) == 0
    assert_same_end(folder, straight, 250)


@pytest.mark.processes(1)
def test_sigint_exits_with_75(flags: Flags, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    command = [sys.executable, str(TRAIN), *flags(folder.path, "--train.epochs", "10000", "--wandb.mode", "disabled")]
    code, log = stop_mid_run(command, folder, 5, signal.SIGINT)
    assert code == 75, log
    assert "Traceback" not in log
    assert "the same command resumes it" in log


@pytest.mark.processes(1)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR2])
def test_who_is_stopped_before_the_run_begins_has_lost_nothing(
    number: signal.Signals, flags: Flags, tmp_path: Path
) -> None:
    """A job can be preempted while torch is imported; a cluster then looks at the exit code."""
    command = [sys.executable, str(TRAIN), *flags(tmp_path / "run", "--train.epochs", "10000")]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        env=environment(),
        cwd=REPOSITORY,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        status = Path(f"/proc/{process.pid}/status")
        give_up = time.monotonic() + 30
        while not int(status.read_text().partition("SigCgt:")[2].split()[0], 16) >> (signal.SIGUSR2 - 1) & 1:
            assert process.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(60) == 75
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert not (tmp_path / "run").exists()


# What changes in the course of a run has to go on from where it was.
FALLING = ["--optimizer.final-learning-rate", "1e-5", "--optimizer.decay-images", "500", "--ema.half-life", "300"]
FALLING += ["--penalty.r1", "1", "--penalty.final-factor", "0.1", "--penalty.decay-images", "400"]


@pytest.mark.parametrize(
    "more", [pytest.param([], id="constant", marks=pytest.mark.slow), pytest.param(FALLING, id="falling")]
)
def test_a_run_stopped_inside_an_epoch_and_a_log_window_ends_as_if_never_stopped(
    more: list[str], flags: Flags, tmp_path: Path
) -> None:
    straight, pieces = RunFolder(tmp_path / "straight"), RunFolder(tmp_path / "pieces")
    assert train_run(straight.path, flags, *more, "--train.steps", "29") == 0
    for steps in ("7", "13", "20", "29"):
        assert train_run(pieces.path, flags, *more, "--train.steps", steps) == 0
        assert figures(pieces)[-1]["step"] == int(steps)
    assert_same_end(pieces, straight, 29)
    assert [row["step"] for row in read_json_lines(pieces.metrics)] == [5, 10, 15, 20, 25, 29]
    sessions = json.loads(pieces.environment.read_text())
    assert [session["from_step"] for session in sessions["earlier_sessions"]] == [0, 7, 13]
    assert sessions["from_step"] == 20


def train_hurt(fault: str, network: str, step: int, times: int, folder: Path, flags: Flags, *more: str) -> Ended:
    """A run of one process with a fault of inject.py."""
    words = flags(folder, "--wandb.mode", "disabled", *more)
    return run_command("python", INJECT, fault, network, str(step), "0", str(times), *words)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["discriminator", "generator"])
def test_nan_ends_a_run_with_the_state_before_it(network: str, flags: Flags, tmp_path: Path) -> None:
    straight, folder = RunFolder(tmp_path / "straight"), RunFolder(tmp_path / "run")
    more = ["--train.steps", "20", "--checkpoint.every-steps", "5"]
    assert train_run(straight.path, flags, *more) == 0
    ended = train_hurt("nan", network, 13, 1, folder.path, flags, *more)
    assert ended.code == 1
    says = f"step 13: the {network}'s loss or gradient is NaN or infinite on rank 0; the state after step 12 is saved"
    assert ended.err.startswith(f"gan_dist: {says}")
    assert ended.err.count("\n") == 1
    status = json.loads(folder.status.read_text())
    assert (status["state"], status["step"]) == ("failed", 12)
    assert status["reason"].startswith(says)
    assert [row["step"] for row in read_json_lines(folder.metrics)] == [5, 10]
    assert not list(folder.samples.glob("epoch-0002.png"))
    assert train_run(folder.path, flags, *more) == 0
    assert_same_end(folder, straight, 20)


@pytest.mark.slow
def test_nan_in_the_first_step_of_all_is_said_and_nothing_saved(flags: Flags, tmp_path: Path) -> None:
    ended = train_hurt("nan", "generator", 1, 9, tmp_path / "run", flags, "--train.steps", "20")
    assert ended.code == 1
    assert "step 1: the generator's loss" in ended.err
    assert "no earlier state was saved" in ended.err
    assert not RunFolder(tmp_path / "run").checkpoints.exists()


@pytest.mark.slow
def test_a_rollback_heals_what_does_not_come_back(flags: Flags, tmp_path: Path) -> None:
    straight, healed, ill = (RunFolder(tmp_path / name) for name in ("straight", "healed", "ill"))
    more = ["--train.steps", "20", "--checkpoint.every-steps", "7", "--train.on-nonfinite", "rollback"]
    assert train_run(straight.path, flags, *more) == 0
    ended = train_hurt("nan", "discriminator", 13, 1, healed.path, flags, *more)
    assert ended.code == 0
    assert "NaN or infinite on rank 0; rolled back to step 7" in ended.out
    assert_same_end(healed, straight, 20)
    ended = train_hurt("nan", "discriminator", 13, 9, ill.path, flags, *more)
    assert ended.code == 1
    assert "after 1 rollback(s); the state after step 12 is saved" in ended.err


@pytest.mark.slow
def test_skipped_updates_are_counted_and_the_run_goes_on(flags: Flags, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    more = ["--train.steps", "20", "--train.on-nonfinite", "skip", "--log.every-steps", "1"]
    ended = train_hurt("nan", "generator", 13, 1, folder.path, flags, *more)
    assert ended.code == 0, ended.err
    assert "step 13: the generator's loss or gradient is NaN or infinite on rank 0; updates skipped" in ended.out
    rows = [json.loads(line, parse_constant=pytest.fail) for line in folder.metrics.read_text().splitlines()]
    assert [row["updates_skipped"] for row in rows] == [0] * 12 + [1] * 8
    assert [row["step"] for row in rows if row["loss/generator"] is None] == [13]
    optimizers = {
        name: load_file(folder.checkpoints / "step-00000020" / f"{name}_optimizer.safetensors")
        for name in ("generator", "discriminator")
    }
    assert {int(optimizers["generator"][key]) for key in optimizers["generator"] if key.endswith(".step")} == {19}
    assert {int(optimizers["discriminator"][key]) for key in optimizers["discriminator"] if "step" in key} == {20}


def test_a_picture_that_can_not_be_drawn_is_no_failure(
    flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path / "run")
    assert train_run(folder.path, flags, "--train.steps", "3") == 0
    folder.curves.unlink()
    folder.curves.mkdir()  # in the picture's place
    assert train_run(folder.path, flags, "--train.steps", "5") == 0
    assert "draw_curves failed" in capsys.readouterr().out
    assert json.loads(folder.status.read_text())["state"] == "finished"
    assert folder.panel.exists()


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_begins_again(
    flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    straight, again = RunFolder(tmp_path / "straight"), RunFolder(tmp_path / "again")
    for folder in (straight, again):
        assert train_run(folder.path, flags, "--train.steps", "10") == 0
    (again.checkpoints / "step-00000010").rename(again.checkpoints / ".writing-1")  # as SIGKILL leaves it
    (again.samples / ".writing-1-epoch-0001.png").write_bytes(b"half")
    assert train_run(again.path, flags, "--train.steps", "10") == 0
    assert "starts again" in capsys.readouterr().out
    assert_same_end(again, straight, 10)
    assert [folder.name for folder in again.checkpoints.iterdir()] == ["step-00000010"]
    assert not list(again.path.rglob(".writing-*"))


def test_a_damaged_checkpoint_is_passed_over(flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path / "run")
    assert train_run(folder.path, flags, "--train.steps", "15", "--checkpoint.every-steps", "5") == 0
    before = figures(folder)
    (folder.checkpoints / "step-00000015" / "discriminator.safetensors").write_bytes(b"")
    assert train_run(folder.path, flags, "--train.steps", "15", "--checkpoint.every-steps", "5") == 0
    said = capsys.readouterr().out
    assert "step-00000015 is damaged" in said
    assert "resuming after step 10" in said
    assert figures(folder) == before


def test_a_finished_run_is_left_as_it_is(flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path / "run")
    assert train_run(folder.path, flags, "--train.steps", "7") == 0
    metrics, generator = folder.metrics.read_bytes(), folder.generator.read_bytes()
    assert train_run(folder.path, flags, "--train.steps", "7") == 0
    assert "is finished; a larger --train.epochs" in capsys.readouterr().out
    assert (folder.metrics.read_bytes(), folder.generator.read_bytes()) == (metrics, generator)


def test_folders_that_this_run_may_not_have(flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path / "run")
    assert train_run(folder.path, flags, "--train.steps", "6") == 0
    before = {file: file.read_bytes() for file in folder.path.rglob("*") if file.is_file()}
    capsys.readouterr()

    def refused(*more: str, into: Path = folder.path) -> str:
        assert train_run(into, flags, *more) == 2
        return capsys.readouterr().err

    said = refused("--train.seed", "3", "--model.hidden-dim", "8")
    assert "belongs to another configuration (model.hidden_dim: 256 -> 8; train.seed: 0 -> 3)" in said
    assert "--run.dir" in said
    assert "mixed_precision: no -> bf16" in refused("--train.mixed-precision", "bf16")
    assert "run.resume=never" in refused("--run.resume", "never")
    assert "run.resume=must" in refused("--run.resume", "must", into=tmp_path / "nothing")
    other = tmp_path / "other data"
    write_root(other, idx_bytes(draw_images(100)))
    assert "was trained on other images" in refused("--data.root", str(other))
    assert "use at most 100" in refused(
        "--data.root", str(other), "--train.batch-size", "101", into=tmp_path / "nothing"
    )
    folder.config.write_text("{")
    assert f"{folder.config} is not valid JSON" in refused()
    folder.config.write_bytes(before[folder.config])
    assert {file: file.read_bytes() for file in folder.path.rglob("*") if file.is_file()} == before
    assert not (tmp_path / "nothing").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a disk of so many MB, or gives the one that is mounted another size."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def make(megabytes: int) -> Path:
        how = f"remount,size={megabytes}m" if disk.is_mount() else f"size={megabytes}m"
        if subprocess.run(["mount", "-t", "tmpfs", "-o", how, "none", str(disk)], check=False).returncode:
            pytest.skip("mounting a small disk needs root")
        return disk

    yield make
    if disk.is_mount():
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_refused_before_anything_is_written(
    flags: Flags, small_disk: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    disk = small_disk(1)
    assert train_run(disk / "run", flags, "--train.steps", "2") == 1  # with room it may go on: not bad input
    said = capsys.readouterr().err
    assert said.startswith(f"gan_dist: run.dir={disk / 'run'}: its disk is full")
    assert said.count("\n") == 1
    assert list(disk.iterdir()) == []


def test_a_disk_that_fills_up_costs_nothing_but_the_wait(
    flags: Flags, small_disk: Callable[[int], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--train.steps", "30", "--checkpoint.every-steps", "5"]
    straight, folder = RunFolder(tmp_path / "straight"), RunFolder(small_disk(24) / "run")
    assert train_run(straight.path, flags, *more) == 0
    capsys.readouterr()
    assert train_run(folder.path, flags, *more) == 1  # three checkpoints fit, and a fourth does not
    said = capsys.readouterr().err
    assert "is not writable any more (No space left on device)" in said
    assert said.count("\n") == 1
    assert sorted(entry.name for entry in folder.checkpoints.iterdir()) == [f"step-{step:08d}" for step in (5, 10, 15)]
    small_disk(64)
    assert train_run(folder.path, flags, *more) == 0
    assert_same_end(folder, straight, 30)


@pytest.mark.slow
def test_a_disk_that_is_full_in_the_middle_of_a_checkpoint_keeps_the_one_before(
    flags: Flags, small_disk: Callable[[int], Path], tmp_path: Path
) -> None:
    disk = small_disk(64)
    straight, folder = RunFolder(tmp_path / "straight"), RunFolder(disk / "run")
    more = ["--train.steps", "30", "--checkpoint.every-steps", "7", "--checkpoint.keep", "1"]
    assert train_run(straight.path, flags, *more) == 0
    ended = train_hurt(f"fill:{disk / 'ballast'}:{3 * 2**20}", "generator", 14, 1, folder.path, flags, *more)
    assert ended.code == 1
    assert "is not writable any more (No space left on device)" in ended.err
    assert ended.err.count("\n") == 1
    assert [entry.name for entry in folder.checkpoints.iterdir()] == ["step-00000007"]
    (disk / "ballast").unlink()
    assert train_run(folder.path, flags, *more) == 0
    assert_same_end(folder, straight, 30)


@pytest.mark.slow
def test_samples_that_can_not_be_written_are_no_failure(flags: Flags, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert train_run(folder.path, flags, "--train.steps", "1") == 0
    (folder.samples / "epoch-0001.png").mkdir(parents=True)  # in the picture's place
    ended = run_command("python", TRAIN, *flags(folder.path, "--train.steps", "20", "--wandb.mode", "disabled"))
    assert ended.code == 0, ended.err
    assert "epoch-0001.png is not writable" in ended.out
    assert folder.epoch_samples(2).is_file()


@pytest.mark.slow
@pytest.mark.processes(1)
def test_a_server_of_wandb_that_refuses_costs_nothing(flags: Flags, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    key = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": f"http://127.0.0.1:{port}"}
    more = ["--train.steps", "6", "--wandb.timeout", "20"]
    ended = run_command("python", TRAIN, *flags(tmp_path / "run", *more), **key)
    assert ended.code == 0, ended.err
    assert "W&B online is unavailable" in ended.out
    assert len([line for line in ended.out.splitlines() if "wandb sync" in line]) == 1
    folder = RunFolder(tmp_path / "run")
    assert [row["step"] for row in read_json_lines(folder.metrics)] == [5, 6]
    assert json.loads(folder.environment.read_text())["trackers"]["wandb"]["mode"] == "offline"


@pytest.mark.slow
@pytest.mark.processes(1)
def test_a_key_is_looked_for_where_wandb_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gan_dist.outputs.trackers.wandb import has_api_key

    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://wandb.local:8080")
    netrc = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(netrc))
    program = "from gan_dist.outputs.trackers.wandb import has_api_key; print(has_api_key())"
    environment = {"WANDB_BASE_URL": "http://wandb.local:8080", "NETRC": str(netrc)}
    assert run_command("python", "-c", program, **environment).out == "False\n"
    netrc.write_text("machine wandb.local login user password secret\n")
    netrc.chmod(0o600)
    assert run_command("python", "-c", program, **environment).out == "True\n"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert has_api_key()
