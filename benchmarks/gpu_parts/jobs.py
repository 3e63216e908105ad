"""What the worker processes do: train, measure, compare, calibrate. Every rank calls the same functions."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gan_dist.config import Config, InputError, from_dict
from gan_dist.distributed.group_exit import destroy_group, leave_group
from gan_dist.distributed.main_process import on_main_process
from gan_dist.distributed.preemption import StopRequest
from gan_dist.gan.cuda_graph import discard_graphs
from gan_dist.memory import out_of_memory
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json_lines
from gan_dist.trainer import session
from gan_dist.trainer.build import build, start_processes
from gan_dist.trainer.loop import train_with_rollbacks
from gan_dist.trainer.state import Trainer
from gpu_parts import calibration, loops
from gpu_parts.clock import StepClock, peak_memory, reset_peak_memory, this_device

Result = dict[str, Any]


def prepare() -> None:
    """Leave out the pictures at the end of a run, which would take most of its time. For a process of jobs only."""
    session.draw_curves = session.draw_panel = lambda folder: None


def run_job(kind: str, arguments: dict[str, Any]) -> tuple[Result | None, str, bool, bool]:
    """Call a function of JOBS.

    Returns:
        Its result; why there is none; whether that is no fault; and whether this process must end.
    """
    try:
        return JOBS[kind](**arguments), "", True, False
    except InputError as error:  # the same one on every rank
        outcome = None, str(error), True, False
    except Exception as error:
        traceback.print_exc()
        if (memory := out_of_memory(error)) is not None:
            # The device may be unusable if something else failed as well, and other ranks may wait for this one.
            last = memory is not error or int(os.environ.get("WORLD_SIZE", "1")) > 1
            outcome = None, f"needs more memory than the device has: {memory}"[:200], True, last
        else:
            first = (str(error).strip().splitlines() or [""])[0]
            outcome = None, f"{type(error).__name__}: {first}", False, True
    _release()
    return outcome


def start(config: Config) -> Accelerator:
    """Accelerate in the precision of a configuration, in the process group of the earlier jobs."""
    AcceleratorState._reset_state()
    GradientState._reset_state()
    return start_processes(config)


def leave() -> None:
    """Leave the process group, in the order that NCCL needs."""
    _release()
    leave_group(this_device(), destroy_group)


def _release() -> None:
    discard_graphs()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def built(config: Config, accelerator: Accelerator) -> Iterator[Trainer]:
    """A trainer whose memory is free afterwards."""
    folder = RunFolder(config.run.dir)
    printed = io.StringIO()
    try:
        with contextlib.closing(folder), contextlib.redirect_stdout(printed):
            trainer = build(config, folder, StopRequest(), accelerator)
            yield trainer
            trainer.writer.wait()
    except Exception:
        print(printed.getvalue(), file=sys.stderr)
        raise
    finally:
        accelerator.free_memory()  # it keeps the networks of every run
    del trainer
    _release()


def train(
    config: dict[str, Any], same_draws: bool = False, perturb_at: int | None = None, scale: float | None = None
) -> Result:
    """Train a run, or continue it, to its last step.

    Args:
        config: of the run.
        same_draws: random numbers of a step that are the same on every kind of device.
        perturb_at: a planted fault: one weight changes before this step.
        scale: the initial scale of fp16's gradients, which grows after 10 steps without an overflow.

    Returns:
        "rows" of metrics.jsonl; "scale" at the end.
    """
    resolved = from_dict(config)
    accelerator = start(resolved)
    if scale is not None and accelerator.scaler is not None:
        state = accelerator.scaler.state_dict() | {"scale": scale, "growth_interval": 10}
        accelerator.scaler.load_state_dict(state)
    with built(resolved, accelerator) as trainer, SameDraws() if same_draws else contextlib.nullcontext():
        if perturb_at is not None:
            trainer.loader = _perturbed(trainer, trainer.loader, perturb_at)  # type: ignore[assignment]
        state = train_with_rollbacks(trainer)
        on_main_process(accelerator, partial(session.conclude, trainer, state, "the next session"))
        if trainer.failure is not None:
            raise RuntimeError(trainer.failure.describe())
    scaler = accelerator.scaler
    return {
        "rows": read_json_lines(RunFolder(resolved.run.dir).metrics),
        "scale": None if scaler is None else scaler.get_scale(),
    }


def _perturbed(trainer: Trainer, loader: Iterable[Any], at_step: int) -> Iterator[Any]:
    weights = trainer.gan.generator_update.weights
    for step, batch in enumerate(loader, 1):
        if step == at_step:
            weights[:1].mul_(1 + 2**-20)
        yield batch


class SameDraws(TorchFunctionMode):
    """Draws the numbers of a step from one generator of the CPU, one draw after the other.

    Then a run on a GPU and one on the CPU differ by their rounding only, as long as a draw of the run is one call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_) and (kwargs or {}).get("generator") is not None:
            numbers = torch.empty(args[0].shape)
            (numbers.normal_ if func is Tensor.normal_ else numbers.uniform_)(generator=self.generator)
            return args[0].copy_(numbers)
        return func(*args, **(kwargs or {}))


def measure(config: dict[str, Any], seconds: float, profiled: int = 3) -> Result:
    """Images per second of the training loop, and what its device does in a step.

    Args:
        config: of a run that is longer than the measurement.
        seconds: duration of the measurement after the warm-up.
        profiled: steps under torch's profiler, after the measurement.

    Returns:
        The figures of `StepClock`, and the peak memory.
    """
    resolved = from_dict(config)
    accelerator = start(resolved)
    reset_peak_memory(accelerator.device)
    with built(resolved, accelerator) as trainer:
        clock = StepClock(accelerator, seconds, profiled)
        trainer.loader = clock.timed(trainer.loader)  # type: ignore[assignment]
        train_with_rollbacks(trainer)  # until the clock has no more batches
        return clock.figures(resolved.train.batch_size) | {"memory MB": peak_memory(accelerator.device)}


def loop(name: str, config: dict[str, Any], shape: list[int], seconds: float) -> Result:
    """The same figures of a loop as people write them: notebook or example (loops.py), on images of this shape."""
    resolved = from_dict(config)
    accelerator = start(resolved)
    reset_peak_memory(accelerator.device)
    channels, height, width = shape
    step = loops.LOOPS[name](resolved, (channels, height, width), accelerator)
    clock = StepClock(accelerator, seconds, 3)
    for _ in clock.timed(iter(int, 1)):
        step()
    accelerator.free_memory()
    _release()
    return clock.figures(resolved.train.batch_size) | {"memory MB": peak_memory(accelerator.device)}


def random_numbers(seed: int, block: int, draws: int) -> Result:
    """Random numbers of the device.

    Returns:
        "uniform", "normal": blocks that were drawn one after the other, each kind after a seed of its own; and the
        first 16 hexadecimal digits of the SHA-256 of the normal ones.
    """
    device = this_device()
    generator = torch.Generator(device)
    found: dict[str, Tensor] = {}
    for kind in ("uniform", "normal"):
        generator.manual_seed(seed)
        numbers = torch.empty(draws, block, device=device)
        for row in numbers:
            getattr(row, f"{kind}_")(generator=generator)
        found[kind] = numbers.cpu()
    digest = hashlib.sha256(found["normal"].numpy().tobytes()).hexdigest()[:16]
    return {name: numbers.flatten().tolist() for name, numbers in found.items()} | {"sha256": digest}


JOBS: dict[str, Callable[..., Result]] = {
    "train": train,
    "measure": measure,
    "loop": loop,
    "random numbers": random_numbers,
    "machine": calibration.describe,
    "calibrate": calibration.calibrate,
    "all-reduce": calibration.all_reduces,
}
