"""How many threads a process takes: the faster number, and in the exact mode none that changes a bit."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import STATE_FILES, run_command, train_here
from safetensors.torch import load_file

from gan_dist.distributed.openmp import limit_spinning
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json
from gan_dist.trainer import threads

Flags = Callable[..., list[str]]
QUIET = ("--wandb.mode", "disabled", "--train.steps", "3")


def test_the_exact_mode_keeps_several_threads_only_if_they_give_the_same_bits(
    flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulates a processor on which two threads round differently, by gradients that depend on their number."""
    real = threads.gradients

    def rounded(*arguments):
        for tensor in real(*arguments):
            yield tensor if torch.get_num_threads() == 1 else tensor * (1 + 2**-20)

    more = [*QUIET, "--train.exact-shards", "2", "--train.threads", "2"]
    monkeypatch.setattr(threads, "gradients", rounded)
    assert train_here(flags(tmp_path / "differ", *more)) == 0
    assert "using 1 thread: the exact mode requires it" in capsys.readouterr().out
    assert read_json(RunFolder(tmp_path / "differ").environment)["threads_per_process"] == 1
    monkeypatch.setattr(threads, "gradients", lambda *arguments: iter(()))
    assert train_here(flags(tmp_path / "agree", *more)) == 0
    assert read_json(RunFolder(tmp_path / "agree").environment)["threads_per_process"] == 2


@pytest.mark.parametrize(
    "model",
    [
        ["--train.batch-size", "12", "--train.exact-shards", "4", "--model.hidden-dim", "100"],
        ["--train.batch-size", "12", "--train.exact-shards", "4", "--model.hidden-dim", "7"],
        ["--train.batch-size", "24", "--train.exact-shards", "2", "--model.architecture", "conv", "--penalty.r1", "1"],
    ],
)
def test_the_exact_mode_does_not_depend_on_the_threads(model: list[str], flags: Flags, tmp_path: Path) -> None:
    ends = []
    for count in ("1", "2"):
        folder = tmp_path / count
        assert train_here(flags(folder, *QUIET, *model, "--train.threads", count)) == 0
        ends.append(
            {name: load_file(folder / "checkpoints" / "step-00000003" / f"{name}.safetensors") for name in STATE_FILES}
        )
    for name in STATE_FILES:
        assert all(torch.equal(ends[0][name][key], ends[1][name][key]) for key in ends[0][name]), name


@pytest.mark.parametrize(("seconds_on_two", "taken"), [(0.004, 1), (0.0005, 2)])
def test_the_faster_number_of_threads_is_taken_where_it_is_open(
    seconds_on_two: float, taken: int, flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    def paced(*arguments):
        time.sleep(0.002 if torch.get_num_threads() == 1 else seconds_on_two)
        yield from ()

    monkeypatch.setattr(threads, "gradients", paced)
    monkeypatch.setattr("gan_dist.distributed.launcher.usable_cores", lambda: 2)
    assert train_here(flags(tmp_path / "run", *QUIET, "--train.threads", "None")) == 0
    assert read_json(RunFolder(tmp_path / "run").environment)["threads_per_process"] == taken
    assert ("using 1 thread: 2 threads currently take" in capsys.readouterr().out) == (taken == 1)
    assert train_here(flags(tmp_path / "asked", *QUIET, "--train.threads", "2")) == 0
    assert read_json(RunFolder(tmp_path / "asked").environment)["threads_per_process"] == 2


def test_choosing_moves_nothing(flags: Flags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, chosen in (("chosen", threads.choose_threads), ("not", lambda *arguments: None)):
        monkeypatch.setattr("gan_dist.trainer.build.choose_threads", chosen)
        monkeypatch.setattr("gan_dist.distributed.launcher.usable_cores", lambda: 2)
        words = flags(tmp_path / name, *QUIET, "--train.exact-shards", "2", "--train.threads", "None")
        assert train_here(words) == 0
    a, b = (load_file(tmp_path / name / "generator.safetensors") for name in ("chosen", "not"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_threads_do_not_spin_unless_the_user_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.delenv("GOMP_SPINCOUNT")
    limit_spinning()
    assert os.environ["GOMP_SPINCOUNT"] == "20000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "5")
    limit_spinning()
    assert os.environ["GOMP_SPINCOUNT"] == "5"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    limit_spinning()
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.setenv("GOMP_SPINCOUNT", "20000")


@pytest.mark.parametrize("start", ["from gan_dist import train; train.main", "from gan_dist import cli; cli.main"])
def test_every_command_limits_the_spinning_before_torch_is_loaded(start: str) -> None:
    program = (
        "import os, sys\nos.environ.pop('GOMP_SPINCOUNT', None)\n"
        f"{start}(['--nonsense'])\n"
        "print('torch' in sys.modules, os.environ.get('GOMP_SPINCOUNT'))"
    )
    assert run_command("python", "-c", program).out.splitlines()[-1] == "False 20000"
