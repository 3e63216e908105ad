"""Runs on the fake device: the steps between two log points, measured, with or without a planted fault."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from accelerate import Accelerator
from fake_device import DEVICE, DeviceEvent, FakeDevice, Step, memory
from fake_ranks import fake_device, start_on_device, start_on_host
from torch import Tensor

from gan_dist.config import PRESETS, Config
from gan_dist.config.sections import TRANSFORMATION_NAMES
from gan_dist.distributed.device_wait import BoundedWait
from gan_dist.distributed.preemption import StopRequest
from gan_dist.gan import latents
from gan_dist.gan.latents import Draws, Latents
from gan_dist.outputs.folder import RunFolder
from gan_dist.seeding import seed_for
from gan_dist.trainer.build import build
from gan_dist.trainer.loop import train
from gan_dist.trainer.state import Trainer

STEPS = 3
BLOCKS = (32_768, 32_768, 32_768, 1_696)  # numbers of each draw of 100,000
SHARDS = 8
REDUCTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation": {"accumulation": 2},
    "exact": {"exact_shards": SHARDS},
}
"""Name -> fields of TrainConfig."""


@dataclass(frozen=True)
class Case:
    preset: str
    precision: str
    """no, bf16 or fp16."""
    reduction: str
    """Key of REDUCTIONS."""
    ranks: int = 1
    memory: str = "device"
    """data.memory."""
    augmented: bool = False
    """With all transformations and an adaptive probability."""

    @property
    def conditional(self) -> bool:
        """Whether the data must have labels."""
        return PRESETS[self.preset]().model.labels != "none"


@dataclass
class Measured:
    steps: list[Step]
    host_state: list[str]
    """Paths of the trainer's tensors that are not on the device."""


def make_config(case: Case, steps: int = 1, folder: Path = Path("run"), root: Path = Path("data")) -> Config:
    """A preset with small networks and batches: sizes do not change the number of operations.

    The data in root have labels. They are ignored if the preset is unconditional, as if there were none.
    """
    config = PRESETS[case.preset]()
    labels = "none" if config.model.labels == "none" else "auto"
    train = {"steps": steps, "batch_size": 4 * SHARDS, "mixed_precision": case.precision}
    changes: dict[str, dict[str, Any]] = {
        "data": {"name": "mnist", "root": root, "source": "local", "labels": labels, "memory": case.memory},
        "model": {"hidden_dim": 8, "channels": 4, "max_channels": 8, "latent_dim": 8},
        "train": train | REDUCTIONS[case.reduction],
        "evaluate": {"every_epochs": None},
        "augment": {"transforms": ",".join(TRANSFORMATION_NAMES), "probability": 0.5, "target": 0.5}
        if case.augmented
        else {},
        "wandb": {"mode": "disabled"},
        "run": {"dir": folder},
    }
    sections = {name: dataclasses.replace(getattr(config, name), **fields) for name, fields in changes.items()}
    return dataclasses.replace(config, **sections)


def measure(case: Case, folder: Path, root: Path, fault: str | None = None, resume: bool = False) -> Measured:
    """Build a trainer and train `STEPS` steps without a log point.

    Args:
        case: preset, precision, reduction and ranks.
        folder: run folder.
        root: of the data.
        fault: key of FAULTS, planted in the loop.
        resume: resume a run of 2 steps.

    Raises:
        DeviceError: a GPU would fail, or the host would wait for it.
    """
    if resume:
        with fake_device(case.ranks), trainer_of(make_config(case, 2, folder, root), _start(case)) as trainer:
            train(trainer)
    with fake_device(case.ranks) as device, trainer_of(make_config(case, 100, folder, root), _start(case)) as trainer:
        device.steps.clear()
        trainer.loader = _first_steps(trainer.loader, device)  # type: ignore[assignment]
        if fault is not None:
            plant(FAULTS[fault], trainer)
        train(trainer)
        on_host = [path for path, tensor in tensors_of(trainer) if tensor.device.type != DEVICE.type]
        return Measured(device.steps, sorted(on_host))


def final_state(case: Case, folder: Path, root: Path, on_device: bool) -> dict[str, Any]:
    """Train to the last step, with its log point, samples and checkpoint, on the device or on the CPU.

    There, the random numbers come from one generator too.

    Returns:
        Path -> values, of the networks, their optimizers and the average; and "rows", the lines of metrics.jsonl.
    """
    config = make_config(case, STEPS, folder, root)
    as_on_device = mock.patch.object(latents, "has_one_generator", return_value=True)
    with fake_device(case.ranks) if on_device else as_on_device:
        accelerator = _start(case) if on_device else start_on_host(case.precision)
        with trainer_of(config, accelerator) as trainer:
            train(trainer)
            rows = [{**row, "images_per_second": None} for row in trainer.rows]
            for row in rows:  # on a device its own sum: other last bits of a double
                row |= {name: float(f"{row[name]:.12g}") for name in row if name.startswith("gradient/")}
            state = {path: tensor.detach() for path, tensor in tensors_of(trainer) if path.startswith(("gan.", "ema."))}
            return {"rows": rows} | {path: memory(tensor).tolist() for path, tensor in state.items()}


def wait_for_lost_rank(case: Case, folder: Path, root: Path) -> str:
    """Train to a log point at which the device does not finish, because a rank is lost.

    Returns:
        What the run fails with, and what it had copied from the device by then.
    """
    config = make_config(case, STEPS, folder, root)
    with fake_device(case.ranks), trainer_of(config, _start(case)) as trainer:
        assert isinstance(trainer.wait, BoundedWait)
        trainer.wait.timeout, trainer.wait.unresponsive_ranks = 0.05, lambda: [1]
        with mock.patch.object(DeviceEvent, "reached", False), mock.patch.object(trainer.guard, "collect") as copied:
            try:
                train(trainer)
            except dist.DistError as error:
                return f"step {trainer.step}: {error}; copies: {copied.call_count}"
    return "the run ended"


def lose_rank_between_log_points(case: Case, folder: Path, root: Path) -> str:
    """Train towards a far log point on a device that does not finish, because a rank is lost.

    Returns:
        What the run fails with.
    """
    with fake_device(case.ranks), trainer_of(make_config(case, 100, folder, root), _start(case)) as trainer:
        assert isinstance(trainer.wait, BoundedWait)
        trainer.wait.timeout, trainer.wait.unresponsive_ranks = 0.05, lambda: [1]
        with mock.patch.object(DeviceEvent, "reached", False):
            try:
                train(trainer)
            except dist.DistError as error:
                return f"step {trainer.step}: {error}"
    return "the run ended"


def stop_run(case: Case, folder: Path, root: Path, at: int, late: int) -> tuple[int, list[int]]:
    """Ask a run to stop, on a device that copies its count of steps without a request to the host later.

    Args:
        case: with several ranks.
        folder, root: as in `measure`.
        at: step after which the process is asked.
        late: steps by which the host sees an older count, at most what `StopAgreement` allows.

    Returns:
        The step after which the run stopped, and the counts that the host saw.
    """
    request, seen = StopRequest(), list[int]()
    with fake_device(case.ranks), trainer_of(make_config(case, 100, folder, root), _start(case), request) as trainer:
        received = type(trainer.stopping._signal).steps_before.fget  # type: ignore[attr-defined]
        counts: deque[int] = deque(maxlen=late + 1)

        def see_late(signal: Any) -> int:
            counts.append(received(signal))
            if trainer.step == at:
                request.ask("a test")
            seen.append(counts[0])
            return counts[0]

        with mock.patch.object(type(trainer.stopping._signal), "steps_before", property(see_late)):
            train(trainer)
        return trainer.step, seen


def draw_latents(case: Case, folder: Path, root: Path) -> tuple[list[int], bool]:
    """Draw 100,000 numbers on the device.

    Returns:
        Numbers of each draw, and whether they are those of the CPU.
    """
    generator = torch.Generator().manual_seed(seed_for(7, "step", 3))
    expected = torch.cat([torch.empty(size).normal_(generator=generator) for size in BLOCKS]).view(1_000, 100)
    with fake_device(case.ranks):
        draws = Draws(7, 1_000, 1, 4, DEVICE)
        drawn_latents = Latents(draws, 100)
        draws.begin(3)
        drawn = [block.numel() for block in drawn_latents._blocks]
        return drawn, torch.equal(memory(drawn_latents("generator")), expected[250:500])


@contextlib.contextmanager
def trainer_of(config: Config, accelerator: Accelerator, request: StopRequest | None = None) -> Iterator[Trainer]:
    folder = RunFolder(config.run.dir)
    with contextlib.closing(folder), contextlib.redirect_stdout(io.StringIO()):
        trainer = build(config, folder, request or StopRequest(), accelerator)
        yield trainer
        trainer.writer.wait()


def _start(case: Case) -> Accelerator:
    return start_on_device(case.precision, case.ranks)


def _first_steps(loader: Any, device: FakeDevice) -> Iterator[Tensor]:
    """The first `STEPS` batches. A step begins when its batch is fetched."""
    device.in_loop = True
    batches = iter(loader)
    for _ in range(STEPS):
        device.steps.append(Step())
        yield next(batches)
    device.in_loop = False


OWNERS = (
    "gan_dist.",
    "torch.nn.",
    "torch.optim.",
    "torch.amp.",
    "torch.utils.data.",
    "accelerate.optimizer",
    "accelerate.data_loader",
)


def tensors_of(trainer: Trainer) -> Iterator[tuple[str, Tensor]]:
    """All tensors that the attributes of a trainer lead to, once each, with their paths."""
    seen: set[int] = set()
    pending: deque[tuple[str, Any]] = deque([("", trainer)])
    while pending:
        path, found = pending.popleft()
        if id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, Tensor):
            yield path, found
            pending.append((f"{path}.grad", found.grad))
        else:
            pending += [(f"{path}.{name}".lstrip("."), member) for name, member in _members(found)]


def _members(found: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(found, Mapping):  # an optimizer's state has tensors as keys
        yield from ((key if isinstance(key, str) else i, value) for i, (key, value) in enumerate(found.items()))
    elif isinstance(found, list | tuple | set):
        yield from enumerate(found)
    elif type(found).__module__.startswith(OWNERS):
        yield from getattr(found, "__dict__", {}).items()


Fault = Callable[[Trainer, Tensor, int], object]
"""(trainer, a matrix on the device, step): called in each step of the loop."""


def plant(fault: Fault, trainer: Trainer) -> None:
    """Add a fault to the loop, behind the update of the average."""
    update, weights = trainer.ema.update, next(trainer.ema.network.parameters()).detach()

    def faulty_update(weight: float | Tensor) -> None:
        update(weight)
        fault(trainer, weights, trainer.step + 1)

    trainer.ema.update = faulty_update  # type: ignore[method-assign]


def _move_state(trainer: Trainer, weights: Tensor, step: int) -> None:
    trainer.fixed_latents = torch.zeros(trainer.fixed_latents.shape)


FAULTS: dict[str, Fault] = {
    "host tensor": lambda trainer, weights, step: weights + torch.ones(weights.shape),
    "host scalar": lambda trainer, weights, step: weights * torch.ones(()),
    "host index": lambda trainer, weights, step: weights[torch.tensor([0])],
    "item": lambda trainer, weights, step: weights.sum().item(),
    "branch": lambda trainer, weights, step: 1 if weights.sum() > 0 else 0,
    "mask": lambda trainer, weights, step: weights[weights > 0],
    "copy to the host": lambda trainer, weights, step: weights.cpu(),
    "asynchronous copy to the host": lambda trainer, weights, step: weights.to("cpu", non_blocking=True),
    "copy into pinned memory that waits": lambda trainer, weights, step: trainer.stopping._signal._on_host.copy_(
        trainer.stopping._signal._count
    ),  # type: ignore[attr-defined]
    "copy into a host tensor": lambda trainer, weights, step: torch.zeros(weights.shape).copy_(weights),
    "synchronize": lambda trainer, weights, step: torch.accelerator.synchronize(),
    "host generator": lambda trainer, weights, step: weights.clone().normal_(generator=torch.Generator()),
    "object collective": lambda trainer, weights, step: dist.all_gather_object([None, None], step),
    "collective of a host tensor": lambda trainer, weights, step: dist.all_reduce(torch.ones(1)),
    "collective of a column": lambda trainer, weights, step: dist.all_reduce(weights[:, 0]),
    "collective": lambda trainer, weights, step: dist.all_reduce(weights.new_empty(1)),
    "collective in one step": lambda trainer, weights, step: step == 3 and dist.all_reduce(weights.new_empty(1)),
    "copy to the device": lambda trainer, weights, step: torch.ones(3).to(weights.device),
    "operation": lambda trainer, weights, step: weights + 1,
    "operation without a deterministic kernel": lambda trainer, weights, step: weights.median(1),
    "operation in one step": lambda trainer, weights, step: step == 3 and weights + 1,
    "state on the host": _move_state,
}
