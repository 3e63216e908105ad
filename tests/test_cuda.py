"""What only CUDA needs, with stand-ins for graphs, events and GPUs: none of these tests needs a GPU."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator

from gan_dist.config import Config, InputError, RunConfig, TrainingFailed
from gan_dist.distributed import group_exit
from gan_dist.gan.cuda_graph import CapturedFunction
from gan_dist.gan.guard import NonfiniteUpdate
from gan_dist.trainer import loop, session
from gan_dist.trainer.state import Trainer

CUDA = torch.device("cuda", 0)


class Recorder:
    """Records the order in which a run releases what it holds."""

    def __init__(self) -> None:
        self.order: list[str] = []

    def record(self, name: str) -> Any:
        return lambda *arguments: self.order.append(name)


class Graph:
    """A captured graph. Its memory is released by `reset`, not by the garbage collection of this object."""

    def __init__(self, recorder: Recorder) -> None:
        self.reset = recorder.record("graph")


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """A process group and a GPU that record their end."""
    recorder = Recorder()
    monkeypatch.setattr(torch.accelerator, "synchronize", recorder.record("synchronize"))
    monkeypatch.setattr(group_exit, "gc", SimpleNamespace(collect=recorder.record("collect")))
    group = SimpleNamespace(is_initialized=lambda: True, destroy_process_group=recorder.record("destroy"))
    monkeypatch.setattr(group_exit, "dist", group)
    monkeypatch.setattr(group_exit.distributed_c10d, "_abort_process_group", recorder.record("abort"))
    return recorder


def raised(error: BaseException) -> Any:
    def raise_it(*arguments: Any) -> None:
        raise error

    return raise_it


CLEAN, FAILED = ["graph", "synchronize", "collect", "destroy"], ["graph", "abort", "collect"]
ENDS = {
    "finished": (lambda trainer: "finished", CLEAN),
    "stopped": (lambda trainer: "stopped", CLEAN),
    "NaN": (lambda trainer: setattr(trainer, "failure", NonfiniteUpdate(3, "generator", (0,))) or "failed", CLEAN),
    "no intact checkpoint": (raised(InputError("all checkpoints are damaged")), CLEAN),
    "full disk": (raised(TrainingFailed("the disk is full")), CLEAN),
    "bug": (raised(ValueError("a bug")), FAILED),
    "interrupt": (raised(KeyboardInterrupt()), FAILED),
    "lost rank": (raised(dist.DistBackendError("no answer")), FAILED),
}


@pytest.mark.parametrize("end", ENDS)
def test_graphs_and_the_device_are_released_before_the_group(
    end: str, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    train, expected = ENDS[end]
    accelerator = Accelerator(cpu=True)
    monkeypatch.setattr(Accelerator, "device", CUDA)
    monkeypatch.setattr(accelerator, "end_training", recorder.record("destroy"))
    trainer = object.__new__(Trainer)
    monkeypatch.setattr(Trainer, "is_main", False)
    trainer.failure, trainer.rollbacks, trainer.step = None, [], 0
    captured = CapturedFunction(len)

    def build(*arguments: Any) -> Any:
        captured._graph = Graph(recorder)  # type: ignore[assignment]
        return trainer

    monkeypatch.setattr(loop, "start_processes", lambda config: accelerator)
    monkeypatch.setattr(loop, "build", build)
    monkeypatch.setattr(loop, "train_with_rollbacks", train)
    monkeypatch.setattr(session, "conclude", lambda *arguments: None)
    config = Config(run=RunConfig(dir=tmp_path / "run"))
    if expected == CLEAN and end in ("finished", "stopped"):
        assert loop.run_to_end(config) == {"finished": 0, "stopped": 75}[end]
    else:
        with pytest.raises((InputError, TrainingFailed, ValueError, KeyboardInterrupt)):
            loop.run_to_end(config)
    assert recorder.order == expected
    assert captured._graph is None


def test_a_group_that_cannot_be_aborted_does_not_delay_the_report(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = threading.Event()
    monkeypatch.setattr(group_exit, "ABORT_SECONDS", 0.05)
    monkeypatch.setattr(group_exit.distributed_c10d, "_abort_process_group", stuck.wait)
    group_exit.abandon_group(CUDA)
    assert recorder.order == ["collect"]
    stuck.set()
