"""Runs on the fake device whose steps are captured as graphs, beside the same runs without graphs."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from device_runs import STEPS, Case, make_config, tensors_of, trainer_of
from fake_device import DEVICE, FakeDevice, Step, memory
from fake_graph import Recording
from fake_ranks import fake_device, start_on_device
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from gan_dist.config import Config
from gan_dist.gan import cuda_graph
from gan_dist.gan.cuda_graph import WARM_UP, CapturedFunction
from gan_dist.gan.rows import Rows
from gan_dist.trainer import augmentation, hyperparameters, loop, schedule
from gan_dist.trainer.hyperparameters import DeviceNumbers
from gan_dist.trainer.loop import train_with_rollbacks
from gan_dist.trainer.reporting import fingerprint
from gan_dist.trainer.state import Trainer

LENGTH = 13
"""Steps of a run: three of them warm up, and the tables of the numbers end in between."""
TABLE = 4
ADAPT_STEPS = 5
FILLS = "seed and offset of a generator"  # operations of torch's replay


class FakeGraph:
    """A graph of the fake device."""

    device: FakeDevice

    def __init__(self) -> None:
        self._recording: Recording | None = None
        self._generators = 0

    def warm_up(self, work: Callable[[], object]) -> None:
        work()

    def capture(self, work: Callable[[], object], generators: Iterable[torch.Generator]) -> None:
        registered = list(generators)
        self._generators = len(registered)
        self._recording = self.device.capturing = Recording(registered)
        try:
            work()
        finally:
            self.device.capturing = None
            self._recording.end()

    def replay(self) -> None:
        assert self._recording is not None
        self.device.steps[-1].operations[FILLS] += 2 * self._generators
        with _disable_current_modes(), torch.no_grad():
            for work in self._recording.work:
                work()

    def reset(self) -> None:
        self._recording = None


@dataclass(frozen=True)
class Run:
    case: Case
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Section of the configuration -> field -> value."""
    stop: int | None = None
    """Stop after this step, and resume."""
    nonfinite: int | None = None
    """The loss of this step is NaN at first, and the run rolls back."""

    def config(self, folder: Path, root: Path, steps: int, captured: bool) -> Config:
        config = make_config(self.case, steps, folder, root)
        changes = copy.deepcopy(self.changes)
        for section, name, value in (
            ("train", "capture", "on" if captured else "off"),
            ("log", "every_steps", 4),
            ("checkpoint", "every_steps", 5),
            ("train", "on_nonfinite", "rollback"),
        ):
            changes.setdefault(section, {}).setdefault(name, value)
        sections = {name: dataclasses.replace(getattr(config, name), **fields) for name, fields in changes.items()}
        return dataclasses.replace(config, **sections)


def final_state(run: Run, folder: Path, root: Path, captured: bool, fault: str | None = None) -> dict[str, Any]:
    """Train to the last step.

    Returns:
        Path -> hash, of all tensors of the networks, their optimizers and the average; and "rows", the lines of
        metrics.jsonl.
    """
    for steps in (*([] if run.stop is None else [run.stop]), LENGTH):
        with started(run, folder, root, steps, captured, fault) as (trainer, _):
            assert train_with_rollbacks(trainer) == "finished"
            assert len(trainer.rollbacks) == (run.nonfinite is not None)
            rows = [{**row, "images_per_second": None} for row in trainer.rows]
            state = {path: tensor.detach() for path, tensor in tensors_of(trainer) if path.startswith(("gan.", "ema."))}
            values = {path: memory(tensor).clone() for path, tensor in state.items() if "draws" not in path}
    return {"rows": rows} | {path: fingerprint(each.float()) for path, each in values.items() if is_state(path)}


def is_state(path: str) -> bool:
    """Whether a tensor is part of the state of a run, not what a step leaves behind, or a rate: it may be a number."""
    networks = path.startswith(("gan.generator.", "gan.discriminator.", "ema.")) or "network" in path
    return networks or ("optimizer" in path and not path.endswith(".lr"))


def replayed_steps(run: Run, folder: Path, root: Path) -> list[Step]:
    """Train `STEPS` steps that are replayed. Returns what the device did in them, outside of the graph."""
    rare = {"log": {"every_steps": 100}, "checkpoint": {"every_steps": 100}, "samples": {"every_epochs": 50}}
    run = dataclasses.replace(run, changes=run.changes | rare)
    with started(run, folder, root, 100, captured=True) as (trainer, device):
        trainer.loader = _watched(trainer.loader, device)
        loop.train(trainer)
        return device.steps[-STEPS:]


def _watched(batches: Iterable[Any], device: FakeDevice) -> Iterator[Any]:
    iterator = iter(batches)
    for number in range(WARM_UP + 1 + STEPS):
        device.in_loop = number > WARM_UP
        device.steps.append(Step())
        yield next(iterator)
    device.in_loop = False


@contextlib.contextmanager
def started(
    run: Run, folder: Path, root: Path, steps: int, captured: bool, fault: str | None = None
) -> Iterator[tuple[Trainer, FakeDevice]]:
    """A trainer on the fake device."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(hyperparameters, "TABLE", TABLE))
        for module in (schedule, augmentation):
            stack.enter_context(mock.patch.object(module, "ADAPT_STEPS", ADAPT_STEPS))
        device = stack.enter_context(fake_device(run.case.ranks))
        stack.enter_context(mock.patch.object(FakeGraph, "device", device, create=True))
        stack.enter_context(mock.patch.dict(cuda_graph.GRAPHS, {DEVICE.type: FakeGraph}))
        config = run.config(folder, root, steps, captured)
        trainer = stack.enter_context(trainer_of(config, start_on_device(run.case.precision, run.case.ranks)))
        assert trainer.captured == captured
        if run.nonfinite is not None:
            _make_nonfinite(trainer, run.nonfinite, stack)
        if fault is not None:
            FAULTS[fault](trainer, stack)
        yield trainer, device


def _make_nonfinite(trainer: Trainer, step: int, stack: contextlib.ExitStack) -> None:
    """Multiply the discriminator's loss by a tensor that is NaN once."""
    factor, begin, due = torch.ones((), device=DEVICE), loop.begin_step, [step]
    loss = trainer.gan.loss.discriminator

    def begin_step(trainer: Trainer, number: int) -> None:
        begin(trainer, number)
        factor.fill_(torch.nan if due == [number] else 1.0)
        if due == [number]:
            due.clear()

    faulty = dataclasses.replace(trainer.gan.loss, discriminator=lambda *logits: loss(*logits) * factor)
    trainer.gan = dataclasses.replace(trainer.gan, loss=faulty)
    stack.enter_context(mock.patch.object(loop, "begin_step", begin_step))


Fault = Callable[[Trainer, contextlib.ExitStack], object]
"""Changes a trainer, or for as long as the stack is open the package."""


def in_the_step(work: Callable[[Trainer, Tensor], object]) -> Fault:
    """A fault in the captured work: called with the trainer and a matrix of weights of the average."""

    def plant(trainer: Trainer, stack: contextlib.ExitStack) -> None:
        update, weights = trainer.ema.update, next(trainer.ema.network.parameters()).detach()

        def faulty_update(weight: float | Tensor) -> None:
            update(weight)
            work(trainer, weights)

        trainer.ema.update = faulty_update  # type: ignore[method-assign]

    return plant


def _replace_tensor(trainer: Trainer, weights: Tensor) -> None:
    """A count that is a new tensor in each step."""
    count = getattr(trainer, "count", None)
    trainer.count = weights.new_ones(()) if count is None else count + 1  # type: ignore[attr-defined]
    weights.add_(trainer.count)  # type: ignore[attr-defined]


def _forget_to_clear(trainer: Trainer, stack: contextlib.ExitStack) -> None:
    stack.enter_context(mock.patch.object(Rows, "clear"))


def _never_copy_inputs(trainer: Trainer, stack: contextlib.ExitStack) -> None:
    call = CapturedFunction.__call__

    def replay_only(captured: CapturedFunction, *inputs: Tensor) -> None:
        call(captured, *(captured._inputs or inputs))

    stack.enter_context(mock.patch.object(CapturedFunction, "__call__", replay_only))


def _register_no_generator(trainer: Trainer, stack: contextlib.ExitStack) -> None:
    def without(step: Callable[..., object], device: torch.device, generators: Any) -> CapturedFunction:
        return CapturedFunction(step, device)

    stack.enter_context(mock.patch.object(loop, "CapturedFunction", without))


def _seed_once(trainer: Trainer, stack: contextlib.ExitStack) -> None:
    begin = trainer.gan.draws.begin
    trainer.gan.draws.begin = lambda step: step <= WARM_UP + 1 and begin(step)  # type: ignore


def _never_advance(trainer: Trainer, stack: contextlib.ExitStack) -> None:
    def apply(numbers: DeviceNumbers) -> None:
        row = numbers._row.clone()
        original(numbers)
        numbers._row.copy_(row)

    original = DeviceNumbers.apply
    stack.enter_context(mock.patch.object(DeviceNumbers, "apply", apply))


def _keep_graphs(trainer: Trainer, stack: contextlib.ExitStack) -> None:
    stack.enter_context(mock.patch.object(loop, "make_step", functools.cache(loop.make_step)))
    trainer.__class__.__hash__ = object.__hash__  # type: ignore[method-assign]


FAULTS: dict[str, Fault] = {
    "number of the step": in_the_step(lambda trainer, weights: weights.add_(trainer.step)),
    "rate of the host": in_the_step(
        lambda trainer, weights: weights.add_(trainer.schedule.learning_rate(trainer.step + 1))
    ),
    "item": in_the_step(lambda trainer, weights: weights.add_(weights.sum().item())),
    "branch": in_the_step(lambda trainer, weights: weights.add_(1) if weights.sum() > 0 else None),
    "nonzero": in_the_step(lambda trainer, weights: weights.nonzero()),
    "mask": in_the_step(lambda trainer, weights: weights[weights > 0]),
    "copy to the host": in_the_step(lambda trainer, weights: weights.cpu()),
    "copy from the host": in_the_step(lambda trainer, weights: weights.add_(torch.ones(()).to(DEVICE))),
    "synchronize": in_the_step(lambda trainer, weights: torch.accelerator.synchronize()),
    "replaced tensor": in_the_step(_replace_tensor),
    "rows that are not cleared": _forget_to_clear,
    "inputs that are not copied": _never_copy_inputs,
    "generator that is not registered": _register_no_generator,
    "generator that is seeded once": _seed_once,
    "row that is not advanced": _never_advance,
    "graph that is kept after a restore": _keep_graphs,
}
