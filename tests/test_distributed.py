"""Real runs through the launcher: two gloo processes against one, what they leave behind, what they say."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import observe as observation
import pytest
import torch
import wandb_file
from conftest import (
    IMAGES,
    INJECT,
    REPOSITORY,
    TRAIN,
    Ended,
    environment,
    figures,
    free_port,
    launcher,
    picture_size,
    reset_accelerate,
    run_command,
    train_here,
    workers,
)
from many import Group
from safetensors.torch import load_file

from gan_dist.config import check_processes, validate
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json_lines
from gan_dist.results.diff import compare_hashes
from gan_dist.trainer.meter import METRICS
from gan_dist.trainer.preflight_checks import preflight_config, scratch_images, timeout_for

STEPS = 20  # two epochs of 10


@pytest.fixture(scope="module")
def two(flags: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Ended]:
    """A run of two epochs on two processes."""
    folder = tmp_path_factory.mktemp("two") / "run"
    ended = run_command(*launcher(2), TRAIN, *flags(folder, "--train.epochs", "2"))
    assert ended.code == 0, ended.err
    return RunFolder(folder), ended


@pytest.fixture(scope="module")
def one(flags: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Ended]:
    """The same run on one process, without a launcher."""
    folder = tmp_path_factory.mktemp("one") / "run"
    ended = run_command("python", TRAIN, *flags(folder, "--train.epochs", "2"))
    assert ended.code == 0, ended.err
    return RunFolder(folder), ended


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    """Two processes under the launcher, for one run after the other."""
    folder = tmp_path_factory.mktemp("group")
    with contextlib.closing(Group(launcher(2), 2, folder, environment())) as processes:
        yield processes


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    """Four of them."""
    folder = tmp_path_factory.mktemp("four")
    with contextlib.closing(Group(launcher(4), 4, folder, environment())) as processes:
        yield processes


@pytest.fixture(scope="module")
def train_on(flags: Callable[..., list[str]], group: Group, four: Group) -> Callable[..., RunFolder]:
    """Train on so many processes: those of a group, where there is one, and one in this process."""
    groups = {2: group, 4: four}

    def train(processes: int, folder: Path, *more: str) -> RunFolder:
        words = flags(folder, "--wandb.mode", "disabled", "--train.log-hashes", "1", *more)
        if processes in groups:
            groups[processes].run("gan_dist.train", words)
        elif processes == 1 and "--train.threads" not in more:
            assert train_here(words) == 0
        else:
            ended = run_command(*(launcher(processes) if processes > 1 else ["python"]), TRAIN, *words)
            assert ended.code == 0, ended.err
        return RunFolder(folder)

    return train


GRADIENTS = ("gradient/discriminator", "gradient/generator")


def lines_for_the_user(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("gan_dist:")]


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text())


@pytest.mark.processes(2)
def test_two_processes_form_one_group(two: tuple[RunFolder, Ended]) -> None:
    environment = read(two[0].environment)
    assert environment["processes"] == 2
    if not torch.accelerator.is_available():
        assert environment["distributed_type"] == "MULTI_CPU"
        assert environment["device"] == "cpu"
    assert environment["data"]["source"] == "local"
    assert len(environment["data"]["sha256"]) == 64
    assert environment["versions"]["torch"] == version("torch")
    assert read(two[0].status) | {"time": ""} == {
        "state": "finished",
        "step": STEPS,
        "reason": "2 epochs done",
        "time": "",
    }


@pytest.mark.processes(2)
def test_pictures_of_every_epoch(two: tuple[RunFolder, Ended]) -> None:
    folder = two[0]
    assert sorted(file.name for file in folder.samples.iterdir()) == ["epoch-0001.png", "epoch-0002.png", "real.png"]
    for file in folder.samples.iterdir():
        assert picture_size(file) == (8 * 30 + 2, 8 * 30 + 2)
    assert picture_size(folder.panel) == (600, 330)  # real images and the last epoch
    assert picture_size(folder.curves) == (1000, 400)


@pytest.mark.processes(2)
def test_metrics_have_a_line_a_log_point(two: tuple[RunFolder, Ended]) -> None:
    rows = read_json_lines(two[0].metrics)
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    for row in rows:
        assert set(row) == {"step", "epoch", "images_seen", "images_per_second", *METRICS, *GRADIENTS}
        assert row["images_seen"] == 20 * row["step"]
        assert row["epoch"] == row["step"] / 10
        assert row["images_per_second"] > 0
        assert 0 <= row["score/fake"] <= 1
        assert 0 <= row["score/real"] <= 1
    summary = read(two[0].summary)
    assert summary["state"] == "finished"
    assert {name: summary[name] for name in METRICS} == {name: rows[-1][name] for name in METRICS}


@pytest.mark.processes(2)
def test_two_processes_compute_what_one_does(two: tuple[RunFolder, Ended], one: tuple[RunFolder, Ended]) -> None:
    """Law 1, fast mode: equal to rounding. DDP averages what every rank made of its share of the same batch."""
    for a, b in zip(read_json_lines(two[0].metrics), read_json_lines(one[0].metrics), strict=True):
        for name in METRICS:
            assert a[name] == pytest.approx(b[name], rel=1e-5), (a["step"], name)
    generators = [load_file(folder.generator) for folder, _ in (two, one)]
    for name, tensor in generators[0].items():
        assert torch.allclose(tensor, generators[1][name], atol=1e-5)
    assert two[0].real_samples.read_bytes() == one[0].real_samples.read_bytes()


@pytest.mark.processes(2)
def test_checkpoints_of_every_epoch(two: tuple[RunFolder, Ended]) -> None:
    folders = sorted(two[0].checkpoints.iterdir())
    assert [folder.name for folder in folders] == ["step-00000010", "step-00000020"]
    last = load_file(folders[-1] / "generator.safetensors")
    assert all(torch.equal(last[name], tensor) for name, tensor in load_file(two[0].generator).items())


@pytest.mark.processes(2)
def test_rank_1_writes_and_says_nothing(two: tuple[RunFolder, Ended], one: tuple[RunFolder, Ended]) -> None:
    def files(folder: RunFolder) -> set[str]:
        return {str(file.relative_to(folder.path)) for file in folder.path.rglob("*") if "wandb" not in file.parts}

    assert files(two[0]) == files(one[0])
    assert len(list(two[0].wandb.glob("offline-run-*"))) == 1
    for _, ended in (two, one):
        lines = ended.out.splitlines()
        assert len([line for line in lines if line.startswith("epoch ")]) == 4
        assert len([line for line in lines if "wandb sync" in line]) == 1
        assert len([line for line in lines if "custom data set" in line]) == 1  # that 200 images are not MNIST's 60,000
    assert "Traceback" not in two[1].err


@pytest.mark.processes(2)
def test_the_offline_run_of_wandb_holds_it_all(two: tuple[RunFolder, Ended]) -> None:
    folder = two[0]
    (file,) = folder.wandb.glob("offline-run-*/run-*.wandb")
    rows = wandb_file.history(file)
    figures = [row for row in rows if "loss/generator" in row]
    assert [row["train/step"] for row in figures] == [5, 10, 15, 20]
    for row, line in zip(figures, read_json_lines(folder.metrics), strict=True):
        assert {name: row[name] for name in line} == line
    samples = [row for row in rows if "samples/path" in row or "samples" in row]
    assert [row["train/step"] for row in samples] == [10, 20]
    pictures = sorted(file.parent.glob("files/media/images/*.png"))
    sent = [folder.real_samples, *map(folder.epoch_samples, (1, 2)), folder.panel, folder.curves]
    assert {picture.read_bytes() for picture in pictures} == {file.read_bytes() for file in sent}
    assert wandb_file.config(file)["train"]["batch_size"] == 20
    assert wandb_file.step_metrics(file)["*"] == "train/step"


@pytest.mark.slow
@pytest.mark.processes(2)
def test_bf16_on_two_processes(flags: Callable[..., list[str]], tmp_path: Path) -> None:
    words = [*launcher(2), "--mixed_precision", "bf16", TRAIN, *flags(tmp_path / "run", "--train.steps", "10")]
    ended = run_command(*words, "--wandb.mode", "disabled")
    assert ended.code == 0, ended.err
    folder = RunFolder(tmp_path / "run")
    assert read(folder.environment)["mixed_precision"] == "bf16"
    assert read(folder.config)["train"]["mixed_precision"] == "bf16"
    assert not folder.wandb.exists()
    assert all(tensor.dtype == torch.float32 for tensor in load_file(folder.generator).values())


@pytest.mark.processes(3)
def test_an_indivisible_batch_is_refused_once(flags: Callable[..., list[str]], tmp_path: Path) -> None:
    ended = run_command(*launcher(3), TRAIN, *flags(tmp_path / "run"))
    assert ended.code != 0
    said = lines_for_the_user(ended.err)
    assert said == ["gan_dist: train.batch_size=20 is not divisible by 3 processes; use 18 or 21"]
    assert not (tmp_path / "run").exists()


@pytest.mark.processes(2)
def test_what_rank_0_finds_wrong_ends_every_rank(tmp_path: Path) -> None:
    words = ["--data.root", str(tmp_path), "--data.source", "local", "--run.dir", str(tmp_path / "run")]
    ended = run_command(*launcher(2), TRAIN, *words)
    assert ended.code != 0
    said = lines_for_the_user(ended.err)
    assert len(said) == 1
    assert "holds no mnist" in said[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.processes(1)
def test_the_config_file_starts_one_process_unedited(flags: Callable[..., list[str]], tmp_path: Path) -> None:
    config = str(REPOSITORY / "accelerate_config.yaml")
    words = [*launcher(1)[:-2], TRAIN, *flags(tmp_path / "run", "--train.steps", "5", "--wandb.mode", "disabled")]
    assert config in words
    ended = run_command(*words)
    assert ended.code == 0, ended.err
    assert read(RunFolder(tmp_path / "run").environment)["processes"] == 1


@pytest.mark.slow
@pytest.mark.processes(2)
def test_torchrun_starts_the_same_script(flags: Callable[..., list[str]], tmp_path: Path) -> None:
    words = ["python", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", TRAIN]
    ended = run_command(*words, *flags(tmp_path / "run", "--train.steps", "5", "--wandb.mode", "disabled"))
    assert ended.code == 0, ended.err
    assert read(RunFolder(tmp_path / "run").environment)["processes"] == 2


@pytest.mark.slow
@pytest.mark.processes(1)
def test_a_launch_that_silently_makes_one_process_is_noticed(flags: Callable[..., list[str]], tmp_path: Path) -> None:
    launch = ["python", "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", "2"]
    ended = run_command(*launch, TRAIN, *flags(tmp_path / "run", "--train.steps", "2", "--wandb.mode", "disabled"))
    assert ended.code == 0, ended.err
    assert "was asked for 2 processes and started one" in ended.out


@pytest.mark.gpu
def test_fp16_on_a_gpu(flags: Callable[..., list[str]], tmp_path: Path) -> None:
    words = flags(tmp_path / "run", "--train.steps", "10", "--train.mixed-precision", "fp16")
    ended = run_command("python", TRAIN, *words, "--wandb.mode", "disabled")
    assert ended.code == 0, ended.err
    assert read(RunFolder(tmp_path / "run").environment)["mixed_precision"] == "fp16"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("reduction", [[], ["--train.exact-shards", "4"], ["--train.accumulation", "2"]])
def test_captured_kernels_give_the_same_bits(
    precision: str, reduction: list[str], flags: Callable[..., list[str]], tmp_path: Path
) -> None:
    """Also after a stop, and with a rollback: the recorded kernels must not work on tensors that were replaced."""
    more = ["--train.mixed-precision", precision, *reduction, "--wandb.mode", "disabled", "--train.log-hashes", "1"]
    assert train_here(flags(tmp_path / "plain", *more, "--train.capture", "off", "--train.steps", "30")) == 0
    for steps in ("13", "30"):
        assert train_here(flags(tmp_path / "captured", *more, "--train.capture", "on", "--train.steps", steps)) == 0
    words = [*more, "--train.capture", "on", "--train.steps", "30", "--train.on-nonfinite", "rollback"]
    words += ["--checkpoint.every-steps", "5"]
    ended = run_command("python", INJECT, "nan", "discriminator", "17", "0", "1", *flags(tmp_path / "back", *words))
    assert ended.code == 0, ended.err
    for other in ("captured", "back"):
        assert_same_bits(RunFolder(tmp_path / "plain"), RunFolder(tmp_path / other), 30)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
def test_a_run_without_cuda_says_what_has_no_effect(
    flags: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = ("train.capture", "train.tf32", "train.cudnn-benchmark")
    words = ["--train.capture", "on", "--train.tf32", "--train.cudnn-benchmark", "--train.channels-last"]
    assert train_here(flags(tmp_path / "run", "--train.steps", "2", "--wandb.mode", "disabled", *words)) == 0
    out = capsys.readouterr().out
    for field in fields:
        assert f"{field.replace('-', '_')} is for CUDA and has no effect here" in out
    assert "train.channels_last has no effect: mlp has no convolutions" in out
    assert read(RunFolder(tmp_path / "run").environment)["numerics"]["channels_last"]


@pytest.mark.slow
@pytest.mark.processes(2)
def test_a_profile_tells_where_the_time_goes(train_on: Callable[..., RunFolder], tmp_path: Path) -> None:
    """A trace of steps 50 to 60, and the phases of 58 others; a profile changes nothing else."""
    more = ["--train.steps", "80", "--train.exact-shards", "2"]
    watched = train_on(2, tmp_path / "watched", *more, "--profile")
    phases = read(watched.profile / "phases.json")
    names = ["data", "discriminator step", "generator step", "communication", "outputs"]
    assert list(phases["milliseconds_per_step"]) == names
    assert all(ms > 0 for ms in phases["milliseconds_per_step"].values())
    assert phases["steps"] == 80 - 10 - 12  # warm-up of the run; of the tracer, and its steps
    seconds = phases["steps"] * sum(phases["milliseconds_per_step"].values()) / 1e3
    assert 0 < seconds < read(watched.summary)["seconds"]
    spans = Counter(event["name"] for event in read(watched.profile / "trace.json")["traceEvents"] if "dur" in event)
    assert {name: spans[name] for name in names} == dict.fromkeys(names, 11) | {"communication": 22}
    assert spans["aten::addmm"] >= 11 * 14
    plain = train_on(1, tmp_path / "plain", *more)
    assert not plain.profile.exists()
    assert_same_bits(plain, watched, 80)


# --- a process that is ill, dead or hung


@pytest.mark.processes(2)
def test_nan_on_one_rank_is_agreed_on(flags: Callable[..., list[str]], tmp_path: Path) -> None:
    """Rolled back the first time, which heals it; ended the second time, with the state before it."""
    folder, straight = (RunFolder(tmp_path / name) for name in ("run", "straight"))
    more = ["--train.exact-shards", "2", "--checkpoint.every-steps", "7", "--wandb.mode", "disabled"]
    more += ["--train.steps", "20", "--train.log-hashes", "1", "--train.on-nonfinite", "rollback"]
    ended = run_command(*launcher(2), INJECT, "nan", "generator", "13", "1", "2", *flags(folder.path, *more))
    assert ended.code != 0
    assert "generator's loss or gradient is NaN or infinite on rank 1; rolled back to step 7" in ended.out
    said = lines_for_the_user(ended.err)
    assert len(said) == 1
    assert "step 13: the generator's loss or gradient is NaN or infinite on rank 1 after 1 rollback" in said[0]
    assert read(folder.status)["step"] == 12
    assert train_here(flags(folder.path, *more)) == 0
    assert train_here(flags(straight.path, *more)) == 0
    assert_same_bits(straight, folder, 20)


@pytest.mark.slow
@pytest.mark.processes(2)
@pytest.mark.parametrize(("fault", "rank"), [("SIGKILL", 1), ("SIGSTOP", 0)])
def test_a_lost_rank_is_named(fault: str, rank: int, flags: Callable[..., list[str]], tmp_path: Path) -> None:
    more = ["--train.steps", "100", "--checkpoint.every-steps", "7", "--wandb.mode", "disabled"]
    more += ["--distributed.timeout", "6", "--wandb.timeout", "1"]
    words = [*launcher(2), str(INJECT), fault, "generator", "13", str(rank), "1", *flags(tmp_path / "run", *more)]
    log = tmp_path / "log"
    with open(log, "w") as output:
        process = subprocess.Popen(words, stdout=output, stderr=output, env=environment(), cwd=REPOSITORY)
        says = f"lost rank {rank} (dead, hung or cut off); the same command continues from the latest checkpoint"
        give_up = time.monotonic() + 60
        while not (said := lines_for_the_user(log.read_text())) and time.monotonic() < give_up:
            time.sleep(0.1)
        for worker in workers(process):
            os.kill(worker, signal.SIGKILL)  # else the launcher waits 30 s for the one that is stopped
        assert process.wait(timeout=60) != 0
    assert said == lines_for_the_user(log.read_text())
    assert len(said) == 1
    assert said[0].endswith(says)
    assert said[0].startswith("gan_dist: step 1")
    if rank == 1:
        assert says in read(RunFolder(tmp_path / "run").status)["reason"]
    assert train_here(flags(tmp_path / "run", *more, "--train.steps", "20")) == 0


HURT = REPOSITORY / "tests" / "hurt_call.py"


@contextlib.contextmanager
def two_without_a_launcher(words: list[str | Path], log: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two ranks as a cluster's scheduler starts them: rank 0 has the store where they meet. They are killed after.

    log: gets what both say on stderr.
    """
    ranks = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    with open(log, "w") as output:
        processes = [
            subprocess.Popen(
                [sys.executable, *map(str, words)],
                stdout=subprocess.DEVNULL,
                stderr=output,
                env=environment() | ranks | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                cwd=REPOSITORY,
            )
            for rank in range(2)
        ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait(timeout=60)


@pytest.mark.slow
@pytest.mark.processes(2)
@pytest.mark.parametrize("where", ["Listener", "connect", "_receive_memory"])
def test_a_rank_lost_while_shared_memory_is_opened_is_named(
    where: str, flags: Callable[..., list[str]], tmp_path: Path
) -> None:
    words = flags(tmp_path / "run", "--wandb.mode", "disabled", "--distributed.timeout", "20")
    hurt = ["1", "gan_dist.distributed.shared_memory", where, "SIGKILL"]
    with two_without_a_launcher([HURT, *hurt, *words], tmp_path / "log") as (main, other):
        assert main.wait(timeout=120) == 1
        assert other.wait(timeout=60) == -signal.SIGKILL
    log = (tmp_path / "log").read_text()
    (said,) = lines_for_the_user(log)
    assert "lost rank 1 (dead, hung or cut off)" in said
    assert "Traceback" not in log


@pytest.mark.slow
@pytest.mark.processes(2)
def test_ranks_that_get_no_shared_memory_use_gloo_and_say_it_once(
    flags: Callable[..., list[str]], tmp_path: Path
) -> None:
    words = flags(tmp_path / "run", "--wandb.mode", "disabled", "--train.steps", "5")
    ended = run_command(
        *launcher(2), HURT, "1", "gan_dist.distributed.shared_memory", "_receive_memory", "OSError", *words
    )
    assert ended.code == 0, ended.err
    assert ended.out.count("shared memory is unavailable (rank 1: hurt); the gradients are added through gloo") == 1


@pytest.mark.slow
@pytest.mark.processes(2)
def test_the_others_wait_for_rank_0_as_long_as_it_lives(flags: Callable[..., list[str]], tmp_path: Path) -> None:
    """It reads the data for an evaluation for longer than distributed.timeout."""
    words = flags(tmp_path / "run", "--wandb.mode", "disabled", "--train.steps", "10", "--distributed.timeout", "10")
    words += ["--evaluate.every-epochs", "1", "--evaluate.count", "100"]
    ended = run_command(*launcher(2), HURT, "0", "gan_dist.trainer.evaluator", "classifier_for", "sleep:12", *words)
    assert ended.code == 0, ended.out + ended.err
    assert ended.err.count("hurt: sleep:12") == 1
    assert read(RunFolder(tmp_path / "run").status)["state"] == "finished"


@pytest.mark.slow
@pytest.mark.processes(2)
@pytest.mark.parametrize(
    ("where", "fault"),
    [("find_start", "SIGKILL"), ("find_start", "SIGSTOP"), ("Peers", "SIGKILL"), ("discriminator_step", "SIGSTOP")],
)
def test_rank_0_lost_with_the_store_is_named(
    where: str, fault: str, flags: Callable[..., list[str]], tmp_path: Path
) -> None:
    """In what it does alone, before, and after."""
    words = flags(tmp_path / "run", "--wandb.mode", "disabled", "--distributed.timeout", "8")
    module = "gan_dist.trainer.build" if where == "find_start" else "gan_dist.trainer.loop"
    hurt = ["0", module, where, fault]
    with two_without_a_launcher([HURT, *hurt, *words], tmp_path / "log") as (_, other):
        assert other.wait(timeout=120) == 1
    log = (tmp_path / "log").read_text()
    (said,) = lines_for_the_user(log)
    assert "lost rank 0 (dead, hung or cut off)" in said
    assert "Traceback" not in log


@pytest.mark.processes(2)
def test_a_mistake_in_what_rank_0_does_alone_is_said_once(flags: Callable[..., list[str]], tmp_path: Path) -> None:
    words = flags(tmp_path / "run", "--wandb.mode", "disabled")
    hurt = ["0", "gan_dist.trainer.build", "find_start", "KeyError"]
    with two_without_a_launcher([HURT, *hurt, *words], tmp_path / "log") as processes:
        assert [process.wait(timeout=120) for process in processes] == [1, 1]
    log = (tmp_path / "log").read_text()
    assert log.count("Traceback") == 1
    assert log.count("KeyError: 'hurt'") == 1
    assert lines_for_the_user(log) == []


# --- the preflight


@pytest.mark.slow
@pytest.mark.processes(2)
def test_the_preflight_of_a_machine_that_is_fit(tmp_path: Path) -> None:
    ended = run_command("python", "-m", "gan_dist.cli", "check", "--processes", "2", "--folder", tmp_path / "runs")
    assert ended.code == 0, ended.out + ended.err
    assert "FAILED" not in ended.out
    for seen in ("2 process(es) on 1 host(s)", "latency", "initial weights", "640 of the 640", "hashes equal"):
        assert seen in ended.out
    assert ended.out.count("│ ok") == 6
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ranks", [1, 2, 12, 13, 16, 100, 1000])
def test_the_preflight_has_images_for_any_number_of_ranks(ranks: int) -> None:
    for shards in (ranks, None):  # with GPUs, and without
        config = preflight_config(Path("scratch"), ranks, 30.0, shards)
        validate(config)
        check_processes(config, ranks)
    epoch = len(scratch_images(ranks)) / config.train.batch_size
    assert epoch > 2  # it stops and goes on inside an epoch
    assert config.train.steps is not None
    assert config.train.steps > epoch  # and goes through several


def test_ranks_that_share_a_core_get_more_time_in_the_preflight() -> None:
    assert timeout_for(local_ranks=2, cores=2) == timeout_for(local_ranks=1, cores=8) == 30
    assert timeout_for(local_ranks=16, cores=2) == 240


@pytest.mark.slow
@pytest.mark.processes(1)
def test_the_preflight_of_a_machine_that_is_not_fit(tmp_path: Path) -> None:
    check = ["-m", "gan_dist.cli", "check"]
    launch = ["python", "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", "2"]
    ended = run_command(*launch, *check, "--folder", tmp_path)
    assert ended.code == 1
    assert "asked for 2 processes" in ended.out
    assert ended.out.count("FAILED") == 1
    ended = run_command("python", *check, "--processes", "1", "--folder", "/proc/runs")
    assert ended.code == 2
    assert ended.err.startswith("gan-dist: run.dir=/proc/runs can't be used")


# --- one trajectory


def observe(
    processes: int, output: Path, steps: int, words: list[str], group: Group | None = None
) -> list[dict[str, Any]]:
    """What every rank of a run saw and sent in its first steps; in the order of the ranks."""
    words = [str(output), str(steps), *words, "--wandb.mode", "disabled"]
    if group is not None:
        group.run("observe", words)
    elif processes == 1:
        reset_accelerate()
        assert observation.main(words) == 0
    else:
        ended = run_command(*launcher(processes), REPOSITORY / "tests" / "observe.py", *words)
        assert ended.code == 0, ended.err
    return [torch.load(output / f"rank-{rank}.pt", weights_only=True) for rank in range(processes)]


@pytest.mark.processes(4)
def test_every_number_of_processes_sees_the_same(flags: Callable[..., list[str]], four: Group, tmp_path: Path) -> None:
    """Images and latents of every step, in global order, bit for bit; every image once an epoch."""
    steps = 17  # 200 images, 12 a batch: 16.67 batches an epoch
    seen = {}
    for processes in (1, 3, 4):
        words = flags(tmp_path / f"run-{processes}", "--train.batch-size", "12")
        ranks = observe(processes, tmp_path / f"seen-{processes}", steps, words, four if processes == 4 else None)
        seen[processes] = [torch.cat([rank[what] for rank in ranks], 1) for what in ("images", "latents")]
    for processes in (3, 4):
        assert torch.equal(seen[processes][0], seen[1][0])
        assert torch.equal(seen[processes][1], seen[1][1])
    epoch = seen[1][0].flatten(0, 1)[:IMAGES].flatten(1)
    assert len(epoch.unique(dim=0)) == IMAGES


@pytest.mark.processes(2)
@pytest.mark.parametrize("through", ["shared", "gloo"])
@pytest.mark.parametrize("more", [[], ["--train.accumulation", "2"], ["--train.exact-shards", "4"]], ids=str)
def test_gradients_cross_between_the_ranks_once_an_update(
    more: list[str], through: str, flags: Callable[..., list[str]], group: Group, tmp_path: Path
) -> None:
    steps, words = 6, flags(tmp_path / "run", *more)
    if through == "gloo":
        words += ["--distributed.no-shared-memory"]
    for rank in observe(2, tmp_path / "seen", steps, words, group):
        collective = {"shared": "shared", "gloo": "gather" if "--train.exact-shards" in more else "all_reduce"}
        assert rank["calls"] == {  # behind the gradients, a number of each rank for the guard; whether to stop
            f"{network} {collective[through]} {rank['weights'][network] + 2 + more}": steps
            for network, more in (("discriminator", 0), ("generator", 1))
        }


@pytest.mark.processes(4)
@pytest.mark.parametrize("exact", [False, True], ids=["fast", "exact"])
def test_ranks_of_a_host_add_first(
    exact: bool, train_on: Callable[..., RunFolder], flags: Callable[..., list[str]], four: Group, tmp_path: Path
) -> None:
    """Four ranks as two hosts: one rank of each sends one vector an update. Gone on with on another number of hosts."""
    more = ["--train.exact-shards", "4"] if exact else []
    whole = train_on(1, tmp_path / "whole", *more, "--train.steps", "20")
    words = flags(tmp_path / "hosts", "--wandb.mode", "disabled", "--train.log-hashes", "1", *more)
    four.run("gradients_call", ["hosts", "2", "gan_dist.train", *words, "--train.steps", "13"])
    hosts = RunFolder(tmp_path / "hosts")
    assert read(hosts.environment)["gradients"] == "flat: shared memory in each of 2 hosts, gloo between them"
    assert all(row["ranks_differ"] == [] for row in read_json_lines(hosts.hashes))
    train_on(4, tmp_path / "hosts", *more, "--train.steps", "20")
    assert read(hosts.environment)["gradients"] == "flat: shared memory"
    assert_same_bits(whole, hosts, 20) if exact else assert_equal_to_rounding(whole, hosts)
    words = flags(tmp_path / "seen", "--wandb.mode", "disabled", *more)
    four.run("gradients_call", ["hosts", "2", "observe", str(tmp_path / "ranks"), "3", *words])
    for rank in range(4):
        seen = torch.load(tmp_path / "ranks" / f"rank-{rank}.pt", weights_only=True)
        sizes = {"discriminator": seen["weights"]["discriminator"] + 4, "generator": seen["weights"]["generator"] + 5}
        calls = {f"{network} host {size}": 3 for network, size in sizes.items()}
        if rank in (0, 2):  # the first of a host
            between = "gather" if exact else "all_reduce"
            calls |= {f"{network} {between} {size}": 3 for network, size in sizes.items()}
        assert seen["calls"] == calls


@pytest.mark.processes(2)
def test_ddp_gives_what_one_vector_gives(group: Group) -> None:
    """Each kind of update, its collectives, NaN and stop requests; see gradients_call.py."""
    group.run("gradients_call", ["compare"])


@pytest.mark.processes(2)
def test_a_run_with_ddp_is_equal_to_rounding(train_on: Callable[..., RunFolder], tmp_path: Path) -> None:
    more = [*RELATIVISTIC, "--train.accumulation", "2", "--train.steps", "10"]
    one = train_on(1, tmp_path / "one", *more)
    ddp = train_on(2, tmp_path / "ddp", *more, "--distributed.gradients", "ddp")
    assert_equal_to_rounding(one, ddp, 1e-3)
    assert read(ddp.environment)["gradients"] == "ddp: gloo"
    assert all(row["ranks_differ"] == [] for row in read_json_lines(ddp.hashes))


@pytest.mark.processes(2)
def test_shared_memory_and_gloo_give_the_same(train_on: Callable[..., RunFolder], tmp_path: Path) -> None:
    exact = ["--train.steps", "12", "--train.exact-shards", "4"]
    shared = train_on(2, tmp_path / "shared", *exact)
    gloo = train_on(2, tmp_path / "gloo", *exact, "--distributed.no-shared-memory")
    assert_same_bits(shared, gloo, 12)


@pytest.mark.processes(4)
def test_the_exact_mode_is_bit_for_bit_on_1_2_and_4_processes(
    train_on: Callable[..., RunFolder], tmp_path: Path
) -> None:
    """Weights, optimizers and figures; with 1 and 2 threads; and stopped on 4, gone on with on 1, ended on 2."""
    more = ["--train.exact-shards", "4"]
    whole = train_on(1, tmp_path / "1", *more, "--train.steps", "27")
    threads = train_on(1, tmp_path / "threads", *more, "--train.steps", "27", "--train.threads", "2")
    for processes, steps in ((4, "14"), (1, "19"), (2, "27")):
        pieces = train_on(processes, tmp_path / "pieces", *more, "--train.steps", steps)
    for other in (threads, pieces):
        assert_same_bits(whole, other, 27)
    assert all(row["ranks_differ"] == [] for row in read_json_lines(pieces.hashes))


@pytest.mark.processes(2)
def test_the_exact_mode_is_bit_for_bit_in_bf16(train_on: Callable[..., RunFolder], tmp_path: Path) -> None:
    more = ["--train.exact-shards", "4", "--train.mixed-precision", "bf16", "--train.steps"]
    whole = train_on(1, tmp_path / "whole", *more, "27")
    for processes, steps in ((2, "13"), (1, "27")):
        pieces = train_on(processes, tmp_path / "pieces", *more, steps)
    assert_same_bits(whole, pieces, 27)


def assert_same_bits(a: RunFolder, b: RunFolder, steps: int) -> None:
    comparison = compare_hashes(a.path, b.path)
    assert comparison.differs_at is None, comparison.describe()
    assert len(comparison.equal_steps) == steps
    assert figures(a) == figures(b)


@pytest.mark.processes(4)
def test_the_fast_mode_is_equal_to_rounding_wherever_it_goes_on(
    train_on: Callable[..., RunFolder], tmp_path: Path
) -> None:
    """Resumed 2 -> 1 and 1 -> 4 inside an epoch."""
    common = ["--train.batch-size", "12", "--log.every-steps", "2"]
    whole = train_on(1, tmp_path / "whole", *common, "--train.steps", "40")
    for processes, steps in ((2, "7"), (1, "13"), (4, "40")):
        pieces = train_on(processes, tmp_path / "pieces", *common, "--train.steps", steps)
    assert_equal_to_rounding(whole, pieces)


@pytest.mark.processes(2)
def test_accumulation_gives_the_update_of_the_whole_batch(train_on: Callable[..., RunFolder], tmp_path: Path) -> None:
    whole = train_on(1, tmp_path / "whole", "--train.steps", "20")
    parts = train_on(2, tmp_path / "parts", "--train.steps", "20", "--train.accumulation", "5")
    assert_equal_to_rounding(whole, parts)
    for name in ("generator", "discriminator"):
        optimizer = load_file(parts.checkpoints / "step-00000020" / f"{name}_optimizer.safetensors")
        assert {int(tensor) for key, tensor in optimizer.items() if key.endswith(".step")} == {20}


RELATIVISTIC = ["--train.loss", "relativistic", "--penalty.r1", "5", "--penalty.r2", "5", "--ema.half-life", "100"]
WASSERSTEIN = ["--train.loss", "wasserstein", "--penalty.gradient", "10"]


@pytest.mark.processes(2)
@pytest.mark.parametrize("loss", [RELATIVISTIC, WASSERSTEIN], ids=["relativistic", "wasserstein"])
def test_penalties_on_two_processes_are_those_of_one(
    loss: list[str], train_on: Callable[..., RunFolder], tmp_path: Path
) -> None:
    """To rounding, which grows faster here: a unit that is active for every image has a bias without a gradient where
    only differences of logits count, and Adam makes steps of what rounding leaves of it."""
    more = [*loss, "--train.steps", "10"]
    one, two = (train_on(processes, tmp_path / str(processes), *more) for processes in (1, 2))
    assert_equal_to_rounding(one, two, 1e-3)
    penalties = [name for name in figures(one)[0] if name.startswith("penalty/")]
    assert len(penalties) == len([word for word in loss if word.startswith("--penalty")])


@pytest.mark.processes(2)
def test_penalties_and_the_average_are_exact_too(train_on: Callable[..., RunFolder], tmp_path: Path) -> None:
    more = [*RELATIVISTIC, "--train.mixed-precision", "bf16", "--train.exact-shards", "4", "--train.steps"]
    whole = train_on(1, tmp_path / "whole", *more, "20")
    for processes, steps in ((2, "7"), (1, "20")):
        pieces = train_on(processes, tmp_path / "pieces", *more, steps)
    assert_same_bits(whole, pieces, 20)
    assert "average/layers.0.weight" in read_json_lines(whole.hashes)[0]["hashes"]
    average, live = load_file(whole.generator), load_file(whole.live_generator)
    assert not any(torch.equal(average[name], live[name]) for name in live)


@pytest.mark.processes(2)
def test_convolutions_are_exact_on_any_machine(train_on: Callable[..., RunFolder], tmp_path: Path) -> None:
    """Whatever the number of cores: on one thread where a convolution's gradients depend on their number."""
    more = ["--model.architecture", "conv", *RELATIVISTIC, "--train.threads", "None", "--train.batch-size", "100"]
    more += ["--train.exact-shards", "2", "--train.steps"]
    one, two = (train_on(processes, tmp_path / str(processes), *more, "8") for processes in (1, 2))
    assert_same_bits(one, two, 8)


def assert_equal_to_rounding(a: RunFolder, b: RunFolder, tolerance: float = 1e-5) -> None:
    for x, y in zip(figures(a), figures(b), strict=True):
        assert x.keys() == y.keys()
        for name in x:
            assert x[name] == pytest.approx(y[name], rel=tolerance), (x["step"], name)
