"""The training loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import NoReturn

from torch import Tensor

from gan_dist.config import STOPPED_EXIT_CODE, Config, InputError, Stopped, TrainingFailed
from gan_dist.distributed.group_exit import abandon_group, destroy_group, leave_group
from gan_dist.distributed.main_process import on_main_process
from gan_dist.distributed.peers import Peers
from gan_dist.distributed.preemption import StopRequest
from gan_dist.gan.cuda_graph import CapturedFunction
from gan_dist.gan.steps import discriminator_step, generator_step
from gan_dist.memory import out_of_memory
from gan_dist.outputs.folder import RunFolder
from gan_dist.trainer import reporting, session
from gan_dist.trainer.build import build, start_processes
from gan_dist.trainer.checkpointing import save_checkpoint
from gan_dist.trainer.evaluation import evaluate
from gan_dist.trainer.networks import collective_timeout
from gan_dist.trainer.recovery import NonfiniteStep, check_nonfinite, recover
from gan_dist.trainer.state import Trainer


def train_step(trainer: Trainer, *inputs: Tensor) -> None:
    """The work of a step on the device.

    As a CUDA graph it is captured once and replayed in each step. So nothing here may depend on a number of the host
    that changes, such as the step, or wait for the device, and tensors are changed in place.

    Args:
        trainer: after `begin_step`.
        inputs: this rank's share of the batch, as `PendingBatch.inputs` returns it.
    """
    batch = trainer.store.finish(*inputs)
    trainer.hyperparameters.apply()
    stats = discriminator_step(trainer.gan, batch)
    trainer.profiler.end_phase("discriminator step")
    stats |= generator_step(trainer.gan, batch)
    trainer.ema.update(trainer.hyperparameters.average_weight)
    trainer.meter.add(stats)
    trainer.augment_probability.add(stats)


def begin_step(trainer: Trainer, step: int) -> None:
    """What a step needs from the host, which alone knows its number."""
    trainer.hyperparameters.set(step)
    trainer.gan.begin(step)


def make_step(trainer: Trainer) -> Callable[..., None]:
    """`train_step` of a trainer, captured as a CUDA graph if it is to be.

    Restoring a checkpoint replaces tensors of the optimizers: make a new one then.
    """
    step = partial(train_step, trainer)
    if not trainer.captured:
        return step
    return CapturedFunction(step, trainer.accelerator.device, [trainer.gan.draws.generator])


def train(trainer: Trainer) -> None:
    """Train to the last step, or until a stop is requested.

    Raises:
        NonfiniteStep: a loss or gradient was not finite.
    """
    trainer.timing.begin(trainer.step)
    total = trainer.schedule.total_steps
    trainer.console.begin(total, trainer.schedule.epoch(total), partial(reporting.progress, trainer))
    trainer.profiler.begin()
    do_step = make_step(trainer)
    for step, pending in enumerate(trainer.loader, trainer.step + 1):
        inputs = pending.inputs()  # this rank's share
        trainer.profiler.end_phase("data")
        begin_step(trainer, step)
        do_step(*inputs)  # stays on the device
        trainer.profiler.end_phase("generator step")
        trainer.step = step
        stop = trainer.stopping.reached() or step == trainer.last_step
        at = trainer.cadence.at(step, stop)  # the same on every rank
        if at.anything:
            trainer.wait()  # behind the collectives of the updates
            check_nonfinite(trainer)
        if at.log:
            reporting.log(trainer)
        if at.adapt:
            trainer.augment_probability.adapt()
        if at.hashes:
            reporting.log_hashes(trainer)
        if at.sample and trainer.is_main:
            reporting.sample(trainer)
        if at.evaluate:
            evaluate(trainer)
        if at.checkpoint or trainer.is_best:
            save_checkpoint(trainer)
        trainer.profiler.end_phase("outputs")
        if at.stop:
            break


def train_with_rollbacks(trainer: Trainer) -> str:
    """Train, and roll back and retry after a non-finite step if the configuration allows it.

    Returns:
        "finished", "stopped", or "failed": then `trainer.failure` is the reason.
    """
    while trainer.last_step is None or trainer.step < trainer.last_step:
        try:
            train(trainer)
            break
        except NonfiniteStep as nonfinite:
            recover(trainer, nonfinite.finding)
    if trainer.memory is not None:
        trainer.memory.close()
    if trainer.failure is not None:
        return "failed"
    return "finished" if trainer.step >= trainer.schedule.total_steps else "stopped"


def run_to_end(config: Config, report: session.Report | None = None) -> int:
    """Build a trainer, train, and leave the process as it was.

    Args:
        config: of the run.
        report: run folder -> a page about the run, for the trackers. Made from the finished run folder.

    Returns:
        The exit code: 0 finished, 75 stopped and resumable.

    Raises:
        InputError: the user's input is invalid; nothing was written.
        Stopped: a stop was requested before there was anything to save.
        TrainingFailed: the run cannot continue.
    """
    request, folder = StopRequest(), RunFolder(config.run.dir)
    accelerator = start_processes(config)  # until here `train.main` handles signals: there is nothing to save
    rank, ranks = accelerator.process_index, accelerator.num_processes
    with request.listening(), contextlib.closing(folder):
        with contextlib.closing(Peers(rank, ranks, collective_timeout(config))) as peers:
            trainer: Trainer | None = None
            try:
                trainer = build(config, folder, request, accelerator)
                state = train_with_rollbacks(trainer)
                # Every rank waits here for rank 0's pictures: a launcher that sees one worker end stops the others.
                reason = request.reason or "requested on another rank"
                on_main_process(accelerator, partial(session.conclude, trainer, state, reason, report))
            except (InputError, Stopped, TrainingFailed) as error:  # every rank is here
                if isinstance(error, InputError):
                    error.common = True
                peers.close()  # the store of rank 0 goes with the group
                leave_group(accelerator.device, destroy_group)
                raise
            except BaseException as error:
                try:
                    raise_failure(error, peers, trainer)
                finally:
                    abandon_group(accelerator.device)
        accelerator.trackers = []  # they are finished
        leave_group(accelerator.device, accelerator.end_training)
    if trainer.failure is not None:
        raise TrainingFailed(session.reason_of_failure(trainer))
    return 0 if state == "finished" else STOPPED_EXIT_CODE


def raise_failure(error: BaseException, peers: Peers, trainer: Trainer | None) -> NoReturn:
    """Record an unexpected error in the run folder, and raise it; a lost rank as a TrainingFailed that names it, and
    exhausted memory of a GPU as one that says what to change.

    Args:
        error: what was raised.
        peers: still open.
        trainer: None if it has not been built.
    """
    lost, shortage, step = peers.find_lost(error), out_of_memory(error), trainer.step if trainer else 0
    reason = f"{type(error).__name__}: {error}"
    if lost:
        reason = f"step {step + 1:,} {lost.message}; the same command continues from the latest checkpoint"
    elif shortage:
        what = ". ".join(str(shortage).split(". ")[:2])  # the rest is torch's advice
        reason = f"step {step + 1:,}: {what}; use a smaller --train.batch-size, or divide it with --train.accumulation"
    if trainer is not None and trainer.is_main:
        with contextlib.suppress(OSError):  # the disk may be what failed
            session.end(trainer, "failed", reason)
    if lost or shortage:
        raise TrainingFailed(reason, lost.reported_by if lost else peers.rank) from error
    raise error
