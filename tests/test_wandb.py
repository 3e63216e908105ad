"""Whatever happens to W&B's service or server, a run loses no figures, ends in time, and reports the failure once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import wandb_file
from conftest import REPOSITORY, TRAIN, Ended, environment, run_command, train_here, wait_for_step
from PIL import Image
from wandb_server import KEY, serving

from gan_dist.config import Config, WandbConfig
from gan_dist.distributed import launcher
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json, read_json_lines
from gan_dist.outputs.trackers import Tracker, make_tracker
from gan_dist.outputs.trackers.wandb_server import find_problem

Flags = Callable[..., list[str]]
TIMEOUT = 30.0  # wandb.timeout, seconds: on a busy machine, the start and the end of W&B's service take some of them
EXIT = 45.0  # maximum seconds until a process ends after its last output; about one if W&B works


def train_with(
    arguments: list[str],
    folder: RunFolder,
    steps: int,
    env: dict[str, str],
    half_way: Callable[[int], object] | None,
    timeout: float = TIMEOUT,
) -> Ended:
    """Train in another process that logs every step, and check what holds whatever happens to W&B.

    Args:
        half_way: called with the process id in the middle of the run.
        timeout: wandb.timeout.
    """
    arguments = [*arguments, "--train.steps", str(steps), "--train.epochs", "1000", "--log.every-steps", "1"]
    arguments += ["--samples.every-epochs", "100", "--wandb.timeout", str(timeout)]
    logs = [folder.path.with_name(name) for name in ("out", "err")]
    with open(logs[0], "w") as out, open(logs[1], "w") as err:
        process = subprocess.Popen(
            [sys.executable, str(TRAIN), *arguments], stdout=out, stderr=err, env=environment() | env, cwd=REPOSITORY
        )
    try:
        if half_way is not None:
            wait_for_step(folder, 40, process)
            half_way(process.pid)
        deadline = time.monotonic() + 90
        while "\nfinished: " not in logs[0].read_text() and process.poll() is None:
            assert time.monotonic() < deadline, f"the run did not end:\n{logs[0].read_text()}"
            time.sleep(0.05)
        code = process.wait(EXIT)
    finally:
        process.kill()
        process.wait()
    ended = Ended(code, logs[0].read_text(), logs[1].read_text())
    assert ended.code == 0, ended.err
    assert ended.err == ""
    assert [row["step"] for row in read_json_lines(folder.metrics)] == list(range(1, steps + 1))
    return ended


def wandb_lines(ended: Ended) -> list[str]:
    """Returns the lines about W&B, except that in the table of the run."""
    return [line for line in ended.out.splitlines() if "W&B" in line and not line.startswith("│")]


def synced_file(line: str) -> Path:
    """Returns the file that a line tells the user to upload."""
    (file,) = Path(line.split("wandb sync ")[1]).glob("run-*.wandb")
    return file


def kill(processes: list[psutil.Process]) -> None:
    """End processes that a failed test may have left behind."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def services(process: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(process).children() if child.name() == "wandb-core"]


@pytest.mark.processes(1)
def test_everything_is_uploaded_in_order(flags: Flags, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with serving("works") as server:
        ended = train_with(flags(folder.path, "--wandb.artifacts"), folder, 60, server.environment(), None)
    assert [line.split()[0] for line in wandb_lines(ended)] == ["W&B:"]
    assert server.keys == {KEY}
    figures = [row for row in server.rows if "loss/generator" in row]
    for row, line in zip(figures, read_json_lines(folder.metrics), strict=True):
        assert {name: row[name] for name in line} == line
    pictures = [content for name, content in server.files.items() if name.endswith(".png")]
    sent = {file.read_bytes() for file in (folder.real_samples, folder.panel, folder.curves)}
    assert set(pictures) == sent
    assert len(pictures) == 3
    (report,) = [content for name, content in server.files.items() if name.endswith(".html")]
    assert report.startswith(b"<!doctype html>")
    data, generator = ((key, server.artifacts[key]) for key in server.artifacts)
    for (key, artifact), name in ((data, "data-mnist"), (generator, "generator-")):
        assert artifact["committed"]
        assert artifact["artifactCollectionName"].startswith(name)
        assert artifact["metadata"]["data_sha256"] == read_json(folder.environment)["data"]["sha256"]
        assert artifact["used"] == (key == data[0]), "the data are an input of the run, the generator an output"
    assert json.loads(server.files[f"{data[0]}/dataset.json"]) == data[1]["metadata"]
    assert server.files[f"{generator[0]}/generator.safetensors"] == folder.generator.read_bytes()
    assert {alias["alias"] for alias in generator[1]["aliases"]} == {"latest"}


@pytest.mark.parametrize(
    ("behaviour", "problem"),
    [
        ("works", None),
        ("403", None),
        ("503", "answers with status 503"),
        ("drops", "is not reached"),
        ("hangs", "does not answer"),
    ],
)
def test_a_server_that_is_of_no_use_is_not_waited_for(behaviour: Any, problem: str | None) -> None:
    with serving(behaviour) as server:
        assert find_problem(server.url, {}, seconds=1.0) == problem
    assert find_problem(server.url, {}, seconds=0.3) == "is not reached"


@pytest.mark.slow
@pytest.mark.processes(1)
@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("503", "answers with status 503"),
        ("403", "is the API key valid?"),
        ("hangs", "does not answer"),
        ("refuses", "is not reached"),
    ],
)
def test_without_a_server_a_run_is_offline(behaviour: Any, reason: str, flags: Flags, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with serving("503" if behaviour == "refuses" else behaviour) as server:
        if behaviour == "refuses":
            server.die()
        ended = train_with(flags(folder.path), folder, 60, server.environment(), None)
    online, offline = wandb_lines(ended)
    assert online.startswith("W&B online is unavailable (")
    assert reason in online
    assert [row["train/step"] for row in wandb_file.history(synced_file(offline))][-1] == 60


@pytest.mark.slow
@pytest.mark.processes(1)
@pytest.mark.parametrize("behaviour", ["503", "hangs", "dies", "403"])
def test_a_server_that_fails_during_the_run(behaviour: str, flags: Flags, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with serving("works") as server:

        def fail(process: int) -> None:
            if behaviour == "dies":
                server.die()
            else:
                server.behaviour = behaviour  # type: ignore[assignment]

        ended = train_with(flags(folder.path), folder, 120, server.environment(), fail)
    url, problem = wandb_lines(ended)
    assert url == f"W&B: {server.url}/somebody/gan_dist/runs/{url.split('/')[-1]}"
    assert "metrics.jsonl has all figures" in problem
    steps = [row["train/step"] for row in wandb_file.history(synced_file(problem)) if "loss/generator" in row]
    assert steps == list(range(1, 121))


@pytest.mark.slow
@pytest.mark.processes(1)
def test_a_suspended_service_does_not_stop_the_run(flags: Flags, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    suspended: list[psutil.Process] = []

    def suspend(process: int) -> None:
        suspended.extend(services(process))
        for service in suspended:
            service.suspend()

    # The service's socket holds about 200 figures: the others would wait forever.
    try:
        ended = train_with(flags(folder.path, "--wandb.mode", "offline"), folder, 600, {}, suspend, timeout=15.0)
        assert [service.is_running() for service in suspended] == [False]
    finally:
        kill(suspended)
    offline, problem = wandb_lines(ended)
    assert "metrics.jsonl" in problem
    assert synced_file(problem) == synced_file(offline)


@pytest.mark.slow
@pytest.mark.processes(1)
def test_a_process_that_does_not_finish_its_run_ends_in_time(tmp_path: Path) -> None:
    program = f"""
import sys
import psutil
from pathlib import Path
from gan_dist.config import Config, WandbConfig
from gan_dist.distributed import launcher
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.trackers import make_tracker

accelerator = launcher.start_accelerator(None, 1, 60.0)
config = Config(wandb=WandbConfig(mode="offline", timeout={TIMEOUT}))
tracker = make_tracker(config, accelerator, RunFolder(Path(sys.argv[1])), print)
tracker.start({{}}, {{}}, 0)
tracker.log(1, {{"loss/generator": 1.0}})
(service,) = psutil.Process().children()
service.suspend()
Path(sys.argv[2]).write_text(str(service.pid))
sys.exit(3)
"""
    service = tmp_path / "service"
    try:
        ended = run_command(sys.executable, "-c", program, tmp_path / "run", service, timeout=60)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            kill([psutil.Process(int(service.read_text()))])
    assert ended.code == 3, ended.err
    assert ended.err == ""
    assert len(ended.out.splitlines()) == 2


@pytest.mark.slow
@pytest.mark.processes(1)
def test_sync_of_a_run_that_was_killed_and_resumed_shows_each_step_once(flags: Flags, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    more = ("--log.every-steps", "1", "--samples.every-epochs", "1", "--wandb.mode", "offline", "--train.steps")
    arguments = [sys.executable, str(TRAIN), *flags(folder.path, *more, "3000")]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment(), "cwd": REPOSITORY}
    with subprocess.Popen(arguments, **quiet, start_new_session=True) as process:  # type: ignore[call-overload]
        wait_for_step(folder, 100, process)
        for service in services(process.pid):
            service.suspend()  # it writes at times of its own: from here on, nothing
        wait_for_step(folder, 200, process)
        os.killpg(process.pid, signal.SIGKILL)  # with W&B's service, as a killed container
    (killed,) = folder.wandb.glob("offline-run-*")
    (file,) = killed.glob("run-*.wandb")
    recorded = [row["train/step"] for row in wandb_file.history(file)]
    assert max(recorded, default=0) < max(row["step"] for row in read_json_lines(folder.metrics))
    steps = max(row["step"] for row in read_json_lines(folder.metrics)) + 50
    assert train_here([*arguments[2:-1], str(steps)]) == 0
    with serving("works") as server:
        sessions = folder.wandb.glob(f"*-{file.stem.removeprefix('run-')}")
        synced = run_command(sys.executable, "-m", "wandb", "sync", *sessions, **server.environment())
    for name, expected in {"loss/generator": range(1, steps + 1), "samples": range(10, steps + 1, 10)}.items():
        assert [row["train/step"] for row in server.rows if name in row] == list(expected), name + synced.err


@pytest.fixture
def tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    """An open offline run."""
    monkeypatch.setenv("NETRC", os.devnull)
    accelerator = launcher.start_accelerator(None, 1, 60.0)
    config = Config(wandb=WandbConfig(mode="offline"))
    tracker = make_tracker(config, accelerator, RunFolder(tmp_path), lambda line: None)
    tracker.start({"train": {"seed": 1}}, resume_ids={}, logged_through=0)
    assert tracker.mode == "offline"
    return tracker


def test_a_picture_is_sent_with_the_content_when_it_was_logged(tracker: Tracker, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    Image.new("L", (8, 8)).save(picture)
    content = picture.read_bytes()
    tracker.log_picture(7, "samples", picture, "epoch 1")
    picture.write_bytes(b"something else")
    tracker.alert(7, "title", "text")
    tracker.finish(exit_code=0)
    (sent,) = tmp_path.glob("wandb/offline-run-*/files/media/images/*.png")
    assert sent.read_bytes() == content
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    (alert,) = [record.alert for record in wandb_file.records(file) if record.HasField("alert")]
    assert (alert.title, alert.text, alert.level) == ("title", "text", "WARN")
    assert services(os.getpid()) == []
