"""The forecast of a run: real steps on random images, on this machine's device. Writes nothing into the run folder."""

from __future__ import annotations

import dataclasses
import gc
import shutil
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from rich.console import Console as Terminal
from rich.table import Table

from gan_dist.config import Config, InputError
from gan_dist.config.cadence import at_most
from gan_dist.config.derived import derive, describe_derived
from gan_dist.data.images import ImageSet
from gan_dist.data.sources import load_images
from gan_dist.data.store import keeps_on_device
from gan_dist.distributed.group_exit import leave_group
from gan_dist.distributed.preemption import StopRequest
from gan_dist.gan.cuda_graph import WARM_UP as GRAPH_WARM_UP
from gan_dist.memory import free_memory
from gan_dist.models import count_classes
from gan_dist.models.cost import count_weights, training_bytes
from gan_dist.outputs.console import Console
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.pictures import COUNT, PANEL_EPOCHS
from gan_dist.trainer.build import assemble, resolve_config, start_processes
from gan_dist.trainer.checkpointing import checkpoint_bytes
from gan_dist.trainer.images import describe_images
from gan_dist.trainer.loop import begin_step, make_step
from gan_dist.trainer.schedule import Schedule
from gan_dist.trainer.start import Start

WARM_UP = 2  # steps
MIN_STEPS = 3
SECONDS = 5.0  # of steps that are timed
GROWTH = 4  # the larger batch that is measured; the difference gives the bytes of an image
SAMPLE_SHARE = 0.7  # size of a PNG to that of its pixels, of pictures


@dataclasses.dataclass(frozen=True)
class Measured:
    """What steps of one batch size take."""

    images_per_second: float
    peak: int
    """Bytes of the device that the steps need, the images of the data set not included."""
    weights: int
    checkpoint: int
    """Bytes."""


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Of a whole run in this process. Sizes in bytes."""

    rows: dict[str, str]
    """What -> value, for the table."""
    problems: tuple[str, ...]
    """Why the run does not fit; empty if it does."""


def forecast(config: Config) -> int:
    """Measure steps of a configuration and show what the run needs.

    Args:
        config: valid.

    Returns:
        The exit code: 0 if the run fits into the memory and on the disk, else 1.

    Raises:
        InputError: the data or the configuration are invalid.
    """
    terminal = Terminal()
    images = load_images(config.data, lambda line: terminal.print(line, markup=False))
    config, derived = derive(config, images.shape, len(images.images))
    accelerator = start_processes(config)
    try:
        found = make_forecast(resolve_config(config, accelerator), images, accelerator)
    finally:
        leave_group(accelerator.device, accelerator.end_training)
    table = Table("forecast", "value", title_justify="left")
    for name, value in (describe_derived(derived) | found.rows).items():
        table.add_row(name, value)
    terminal.print(table)
    for problem in found.problems:
        terminal.print(problem, markup=False)
    return int(bool(found.problems))


def make_forecast(config: Config, images: ImageSet, accelerator: Accelerator) -> Forecast:
    """The forecast of a resolved configuration. Arguments as in `measure`; `images` are the real ones.

    Raises:
        InputError: the batch size does not fit the data set.
    """
    count, device, size = len(images.images), accelerator.device, config.train.batch_size
    if size > count:
        raise InputError(
            f"train.batch_size={size} is more than the {count:,} images of the data set; use at most {count}"
        )
    free = free_memory(device)
    bound = _lower_bound(config, images)
    rows = {
        "data": f"{images.spec.name}, {count:,} images of {'x'.join(map(str, images.shape))}",
        "device": device.type,
        "memory, lower bound": _size(bound),
    }
    if free is not None and bound > free:
        return Forecast(rows, (f"the run needs at least {_size(bound)} of memory, and {_size(free)} are free",))
    baseline = _begin_memory(device)
    try:
        at = measure(config, images, accelerator, baseline)
        per_image = _bytes_of_an_image(config, images, accelerator, baseline, at.peak)
    except torch.OutOfMemoryError:
        return Forecast(rows, (f"a step with train.batch_size={size} does not fit into {_size(free or 0)} of memory",))
    problems = _memory(rows, at, per_image, config, images, free)
    _duration(rows, at, config, count)
    problems += _disk(rows, at, config, images)
    return Forecast(rows, tuple(problems))


def _lower_bound(config: Config, images: ImageSet) -> int:
    return training_bytes(config, images.shape, 1, count_classes(config.model, images.spec.classes))


def _bytes_of_an_image(config: Config, images: ImageSet, accelerator: Accelerator, baseline: int, peak: int) -> float:
    """By how much the peak of a step grows with each image of the batch: measured, and at least the lower bound."""
    size = config.train.batch_size
    larger = with_batch_size(config, GROWTH * size)
    needed, free = _lower_bound(larger, images), free_memory(accelerator.device)
    bound = (needed - _lower_bound(config, images)) / ((GROWTH - 1) * size)
    if free is not None and GROWTH * peak > free:  # the larger batch may not fit
        return max(peak / size, bound)
    found = measure(larger, images, accelerator, baseline, timed=False)
    return max((found.peak - peak) / ((GROWTH - 1) * size), bound)


def _memory(
    rows: dict[str, str], at: Measured, per_image: float, config: Config, images: ImageSet, free: int | None
) -> list[str]:
    """Rows about the memory, and what does not fit."""
    size, pixels = config.train.batch_size, images.images.nbytes
    resident = pixels if keeps_on_device(config.data.memory, pixels, free) else 0
    rows["memory, peak of a step"] = f"{_size(at.peak)}, {_size(round(per_image))} an image"
    rows["memory, images"] = _size(resident) if resident else "read from the file"
    if free is None:
        return []
    parts = config.train.exact_shards or config.train.accumulation
    largest = size + int((free - resident - at.peak) / per_image)
    largest = min(largest, len(images.images)) // parts * parts
    rows["largest batch size"] = f"{max(largest, 0):,} (free: {_size(free)})"
    if largest >= size:
        return []
    return [f"train.batch_size={size} does not fit into {_size(free)} of memory; use at most {max(largest, 0)}"]


def _duration(rows: dict[str, str], at: Measured, config: Config, count: int) -> None:
    steps = Schedule(config, count).total_steps
    hours = steps * config.train.batch_size / at.images_per_second / 3600
    rows["weights"] = f"{at.weights:,}"
    rows["images per second"] = f"{at.images_per_second:,.0f}"
    rows["steps"] = f"{steps:,}"
    rows["hours to the end"] = f"{hours:,.2f}, without evaluations"


def _disk(rows: dict[str, str], at: Measured, config: Config, images: ImageSet) -> list[str]:
    """Rows about the disk of the run folder, and what does not fit."""
    schedule = Schedule(config, len(images.images))
    saved, steps = config.checkpoint, schedule.total_steps
    seconds = steps * config.train.batch_size / at.images_per_second
    due = schedule.epochs_completed(steps) if saved.every_steps is None else steps // saved.every_steps
    # One more is written before the oldest is removed, and the one of the best evaluation is kept.
    kept = min(saved.keep, max(due, 1)) + 2 + (due // saved.keep_every if saved.keep_every else 0)
    drawn = schedule.epochs_completed(steps) // config.samples.every_epochs
    grids = min(drawn, at_most(drawn, seconds, config.samples.every_seconds) + len(PANEL_EPOCHS) + 1) + 1
    checkpoints, samples = kept * at.checkpoint, int(grids * SAMPLE_SHARE * COUNT * images.images[0].numel())
    needed, path = checkpoints + samples, RunFolder(config.run.dir).nearest_existing()
    free = shutil.disk_usage(path).free
    rows["disk, checkpoints"] = f"{_size(checkpoints)} ({kept:,} of {_size(at.checkpoint)})"
    rows["disk, samples"] = f"{_size(samples)} ({grids:,} grids)"
    rows["disk, prepared data"] = _prepared(images)
    rows["disk, free"] = f"{_size(free)} in {path.absolute()}"
    if needed <= free:
        return []
    return [f"the run needs {_size(needed)} on the disk of {path.absolute()}, and {_size(free)} are free"]


def _prepared(images: ImageSet) -> str:
    return f"{_size(images.images.nbytes)} in {images.mapped.path}" if images.mapped else "none"


def with_batch_size(config: Config, size: int) -> Config:
    """The configuration with another batch size."""
    return dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=size))


def measure(config: Config, images: ImageSet, accelerator: Accelerator, baseline: int, timed: bool = True) -> Measured:
    """Train a few steps on random images of the data's shape.

    Args:
        config: resolved.
        images: the data set, of which only the shape is used.
        accelerator: of one process.
        baseline: bytes in use before the first measurement; the peak is relative to it.
        timed: measure the speed too; otherwise the fewest steps are taken.

    Raises:
        torch.OutOfMemoryError: a step does not fit into the device's memory.
    """
    device, size = accelerator.device, config.train.batch_size
    drawn = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (size, *images.images.shape[1:]), dtype=torch.uint8, generator=drawn)
    labels = None if images.labels is None else torch.zeros(size, dtype=torch.int64)
    noise = dataclasses.replace(images, images=pixels, labels=labels, mapped=None)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, memory="device"))
    long = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=10_000, steps=None))
    start = Start(describe_images(noise), None, "")
    gc.collect()  # an earlier trainer
    _begin_memory(device)
    console = Console(enabled=False)
    trainer = assemble(long, start, noise, RunFolder(config.run.dir), StopRequest(), accelerator, console)
    do_step = make_step(trainer)
    warm_up = GRAPH_WARM_UP + 1 if trainer.captured else WARM_UP  # with the capture
    began, taken = time.perf_counter(), 0
    for step, pending in enumerate(trainer.loader, 1):
        begin_step(trainer, step)
        do_step(*pending.inputs())
        if step == warm_up:
            _wait(device)
            began = time.perf_counter()
        taken = step - warm_up
        enough = taken >= MIN_STEPS and (not timed or time.perf_counter() - began >= SECONDS)
        if enough or step == config.log.every_steps:
            break
    _wait(device)
    rate = max(taken, 1) * size / (time.perf_counter() - began)
    networks = [trainer.gan.generator_update.network, trainer.gan.discriminator_update.network]
    return Measured(rate, _peak(device) - baseline, sum(map(count_weights, networks)), checkpoint_bytes(networks))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _begin_memory(device: torch.device) -> int:
    """Bytes in use; the peak counts from here on."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    except OSError:
        return 0  # the peak then is that of the process
    return _status("VmRSS")


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def _status(name: str) -> int:
    """A size from /proc/self/status, in bytes; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def _size(size: int) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e8 else f"{size / 1e6:,.2f} MB"
