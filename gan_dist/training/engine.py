"""build(config) makes a run, or finds it where it stopped; train(run) is the loop."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import time

import torch
from torch import nn

from gan_dist.config import Config, InputError, OptimizerConfig, TrainConfig, check_divisible
from gan_dist.data.dataset import GlobalBatches, ResidentImages, make_loader
from gan_dist.models import build_pair
from gan_dist.run.checkpoint import Checkpoints, load_optimizer_tensors
from gan_dist.run.console import Console
from gan_dist.run.folder import STOPPED_EXIT_CODE, RunFolder
from gan_dist.run.launcher import fix_kernels, launch_advice, on_main, start_accelerator
from gan_dist.run.preemption import StopAgreement, StopRequest
from gan_dist.run.samples import COUNT
from gan_dist.run.tracking import WandbTracker
from gan_dist.training import outputs
from gan_dist.training.latents import Latents, fixed_latents
from gan_dist.training.losses import LOSSES
from gan_dist.training.meter import Meter
from gan_dist.training.outputs import Run
from gan_dist.training.reduction import ExactReduction, FastReduction, Reduction, Update
from gan_dist.training.schedule import Schedule
from gan_dist.training.start import find_start
from gan_dist.training.steps import Gan, discriminator_step, generator_step

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)


def train(run: Run) -> str:
    """Train to the last step, or until somebody asks to stop.

    Returns:
        "finished" or "stopped".
    """
    run.started = time.perf_counter()
    run.logged = (run.step, run.started)
    run.console.begin(run.step, run.schedule.total_steps)
    for step, real in enumerate(run.loader, run.step + 1):  # real: (n, C, H, W) in [-1, 1], this rank's share
        stats = discriminator_step(run.gan, real, step)
        stats |= generator_step(run.gan, step)
        run.meter.add(stats)  # stays on the device
        run.step = step
        at = run.schedule.at(step, run.stopping.reached())  # the same answer on every rank
        if at.log:
            outputs.log(run)
        if at.hashes:
            outputs.log_hashes(run)
        if at.sample and run.writes:
            outputs.sample(run)
        if at.checkpoint:
            outputs.checkpoint(run)
        if at.stop:
            break
    run.stopping.close()
    return "finished" if run.step >= run.schedule.total_steps else "stopped"


def build(config: Config, folder: RunFolder, request: StopRequest) -> Run:
    """Make a run ready for its next step: the first, or the one after its newest checkpoint.

    Args:
        config: a valid configuration.
        folder: where the run is kept; locked from here on.
        request: where the process hears that it should stop.

    Raises:
        InputError: the same one on every rank.
    """
    if config.train.exact_shards is not None:
        fix_kernels()
    accelerator = start_accelerator(config.train.mixed_precision, config.train.threads)
    rank, ranks, device = accelerator.process_index, accelerator.num_processes, accelerator.device
    train_config = dataclasses.replace(config.train, mixed_precision=accelerator.mixed_precision)
    config = dataclasses.replace(config, train=train_config)
    check_divisible(config.train, ranks)
    console = Console(speaks=accelerator.is_main_process)
    for advice in launch_advice(ranks):
        console.announce(advice)

    # Rank 0 reads, and sends what it read: every rank starts from the same, and needs no file of its own.
    checkpoints = Checkpoints(folder.checkpoints, config.checkpoint.keep)
    start = on_main(accelerator, lambda: find_start(config, folder, checkpoints, console.announce))
    found = start.checkpoint
    step = found.step if found else 0
    images = start.images.images.to(device)
    schedule = Schedule(config, len(images))

    generator, discriminator = build_pair(config.model, start.images.shape, config.train.seed)
    # The optimizers are made for the parameters where they train: on the device.
    generator_optimizer = _adam(generator.to(device), config.optimizer)
    discriminator_optimizer = _adam(discriminator.to(device), config.optimizer)
    reduction = make_reduction(config.train, ranks)
    meter = Meter(config.log.every_steps, reduction.parts, accelerator.gather, ranks, device)
    if found:
        generator.load_state_dict(found.tensors["generator"])
        discriminator.load_state_dict(found.tensors["discriminator"])
        load_optimizer_tensors(generator_optimizer, found.tensors["generator_optimizer"])
        load_optimizer_tensors(discriminator_optimizer, found.tensors["discriminator_optimizer"])
        meter.load_state(found.state["metrics_window"])
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(found.state["scaler"])

    batch_size, seed, latent_dim = config.train.batch_size, config.train.seed, config.model.latent_dim
    steps = range(step, schedule.total_steps)
    loader = make_loader(ResidentImages(images), GlobalBatches(len(images), batch_size, seed, steps, device))
    generator, discriminator, generator_optimizer, discriminator_optimizer, loader = accelerator.prepare(
        generator, discriminator, generator_optimizer, discriminator_optimizer, loader
    )
    # The bare modules: what adds the gradients over the ranks is the update, once, not DDP behind each backward.
    generator, discriminator = accelerator.unwrap_model(generator), accelerator.unwrap_model(discriminator)
    share, backward = batch_size // ranks, accelerator.backward
    run = Run(
        config=config,
        accelerator=accelerator,
        gan=Gan(
            generator=generator,
            discriminator=discriminator,
            generator_update=Update(generator, generator_optimizer, reduction, share, backward),
            discriminator_update=Update(discriminator, discriminator_optimizer, reduction, share, backward),
            loss=LOSSES[config.train.loss],
            latents=Latents(seed, latent_dim, batch_size, rank, ranks, device),
        ),
        loader=loader,
        schedule=schedule,
        meter=meter,
        stopping=StopAgreement(request),
        folder=folder,
        checkpoints=checkpoints,
        wandb=WandbTracker(accelerator, config.wandb, folder, console.announce),
        console=console,
        images=start.images,
        fixed_latents=fixed_latents(seed, COUNT, latent_dim).to(device),
        step=step,
        seconds=found.state["seconds"] if found else 0.0,
    )
    if step < schedule.total_steps:
        on_main(accelerator, lambda: outputs.begin(run, found.state["wandb_id"] if found else None))
    else:
        console.announce(f"the run in {folder.path} is finished; a larger --train.epochs trains it further")
    return run


def run_to_end(config: Config) -> int:
    """Build a run, train it, and leave the process as it was.

    Returns:
        The exit code: 0 finished, 75 stopped and resumable.

    Raises:
        InputError: the user's input can't be used; nothing was written.
    """
    request, folder = StopRequest(), RunFolder(config.run.dir)
    with request.listening(), contextlib.closing(folder):
        try:
            run = build(config, folder, request)
        except InputError:  # every rank is here
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
            raise
        try:
            state = train(run)
        except BaseException as error:
            if run.writes:
                with contextlib.suppress(OSError):  # the disk may be what failed
                    outputs.end(run, "failed", f"{type(error).__name__}: {error}")
            if isinstance(error, OSError) and error.errno in DISK_ERRORS:
                raise InputError(
                    f"run.dir={folder.path} can't be written any more ({error.strerror}); mend that, "
                    "and the same command goes on from the newest checkpoint"
                ) from error
            raise
        if run.writes:
            done = f"{run.schedule.epoch(run.step):.4g} epochs done"
            outputs.end(run, state, done if state == "finished" else request.reason or "asked on another rank")
        # Every rank waits here for rank 0's pictures: a launcher that sees one worker end stops the others.
        run.accelerator.wait_for_everyone()
        run.accelerator.trackers = []  # they are finished
        run.accelerator.end_training()
    return 0 if state == "finished" else STOPPED_EXIT_CODE


def make_reduction(config: TrainConfig, ranks: int) -> Reduction:
    """How the configuration wants gradients to be added."""
    if config.exact_shards is not None:
        return ExactReduction(ranks, config.exact_shards)
    return FastReduction(ranks, config.accumulation)


def _adam(network: nn.Module, config: OptimizerConfig) -> torch.optim.Adam:
    betas = (config.beta1, config.beta2)
    return torch.optim.Adam(network.parameters(), lr=config.learning_rate, betas=betas, fused=True)
