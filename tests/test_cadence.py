"""Outputs that are limited by the clock: which are left out, that all ranks agree, and that nothing else changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import assert_same_end, train_here
from torch import Tensor

from gan_dist.config import CheckpointConfig, Config, EvaluateConfig, SamplesConfig, TrainConfig
from gan_dist.config.cadence import at_most
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json_lines
from gan_dist.results.over_time import epochs_over_time
from gan_dist.results.recorded import read_runs
from gan_dist.results.report.page import make_page
from gan_dist.results.watch.state import state_of
from gan_dist.trainer.cadence import Cadence
from gan_dist.trainer.schedule import Schedule
from gan_dist.trainer.timing import Timing

CPU = torch.device("cpu")
STEPS = 60  # of 1 s; an epoch has 2, a log window 4
LIMITED = Config(
    train=TrainConfig(batch_size=50, epochs=30),
    samples=SamplesConfig(every_seconds=10.0),
    evaluate=EvaluateConfig(every_epochs=1, every_seconds=20.0),
    checkpoint=CheckpointConfig(every_seconds=15.0, keep_every=10),
)


def outputs(config: Config, seconds: Callable[[int], float], times: list[Tensor], main: bool) -> dict[str, list[int]]:
    """The steps after which a rank has each output, if rank 0's clock shows `times` at the log points."""
    step, schedule = 0, Schedule(config, 100)

    def gather(own: Tensor) -> Tensor:
        times.extend([own] if main else [])
        return torch.cat([times[step // 4 - 1], own])

    cadence = Cadence(config, schedule, lambda: seconds(step), gather, ranks=2, device=CPU)
    found: dict[str, list[int]] = {"sample": [], "evaluate": [], "checkpoint": []}
    for step in range(1, STEPS + 1):
        at = cadence.at(step, stop_requested=False)
        if step % 4 == 0:  # as in the loop: a log point comes after the decision
            cadence.read_clock()
        for name, steps in found.items():
            steps += [step] if getattr(at, name) else []
    return found


def test_outputs_are_left_out_by_the_clock_of_rank_0_on_every_rank() -> None:
    times: list[Tensor] = []
    main = outputs(LIMITED, float, times, main=True)
    assert main == {
        # The first one, and epochs 10 (step 20) and 30; between them 10 s of a clock that is read every 4 s.
        "sample": [2, 14, 20, 30, 42, 54, 60],
        "evaluate": [2, 22, 42, 60],
        "checkpoint": [2, 18, 20, 34, 40, 54, 60],  # permanent: every 10th of those due, so steps 20, 40 and 60
    }
    assert outputs(LIMITED, lambda step: 1e6 * step, times, main=False) == main  # its own clock does not count
    unlimited = dataclasses.replace(
        LIMITED, samples=SamplesConfig(), evaluate=EvaluateConfig(every_epochs=1), checkpoint=CheckpointConfig()
    )
    every = list(range(2, STEPS + 1, 2))
    times.clear()
    assert outputs(unlimited, float, times, main=True) == {"sample": every, "evaluate": every, "checkpoint": every}
    assert not times, "no collective without a limit"


def test_a_stop_saves_whatever_the_clock_says() -> None:
    cadence = Cadence(LIMITED, Schedule(LIMITED, 100), lambda: 0.0, torch.clone, 1, CPU)
    assert cadence.at(2, False).checkpoint
    assert not cadence.at(4, False).checkpoint
    assert not cadence.at(6, False).anything  # so the loop does not wait for the device there
    at = cadence.at(8, True)
    assert (at.checkpoint, at.sample, at.evaluate) == (True, False, False)


def test_evaluations_do_not_count_as_training() -> None:
    now = [100.0]
    timing = Timing(seconds=50.0, evaluating=30.0, clock=lambda: now[0])
    timing.begin(0)
    now[0] += 5
    with timing.evaluation():
        now[0] += 60
    now[0] += 2
    assert timing.training_seconds() == pytest.approx(7)
    assert [at_most(10, seconds, 2.0) for seconds in (-1.0, 0.0, 7.0, 1e9)] == [0, 0, 4, 10]
    assert at_most(10, 7.0, None) == 10


def test_a_run_with_few_outputs_is_the_same_run(flags: Callable[..., list[str]], tmp_path: Path) -> None:
    """Stopped and resumed; and what reads run folders copes with the epochs that are missing."""
    limits = [f"--{output}.every-seconds=1000" for output in ("samples", "checkpoint", "evaluate")]
    for name, more in {"limited": limits, "plain": []}.items():
        for epochs in ("3", "5") if more else ("5",):
            words = flags(tmp_path / name, "--wandb.mode", "disabled", "--train.epochs", epochs, *more)
            assert train_here(words) == 0
    limited, plain = (RunFolder(tmp_path / name) for name in ("limited", "plain"))
    assert_same_end(limited, plain, 50)
    assert plain.epochs_with_samples() == [1, 2, 3, 4, 5]
    assert limited.epochs_with_samples() == [1, 3, 4, 5]  # the first of each session, and the last epoch
    steps = sorted(int(folder.name.removeprefix("step-")) for folder in limited.checkpoints.iterdir())
    assert steps == [30, 40, 50]  # and step 10, before --checkpoint.keep removed it
    assert limited.panel.is_file()
    assert [row["step"] for row in read_json_lines(limited.metrics)] == list(range(5, 51, 5))
    runs = read_runs([limited.path])
    assert "epoch 5" in make_page(runs)
    assert state_of(runs[0], is_held=False).step == 50
    assert epochs_over_time(limited.path, 10)[1] == [1, 3, 4, 5]
