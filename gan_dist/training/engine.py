"""build(config) makes a run, or finds it where it stopped; train(run) is the loop."""

from __future__ import annotations

import contextlib
import dataclasses
from functools import partial

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from jaxtyping import Float
from torch import Tensor, nn

from gan_dist.config import (
    STOPPED_EXIT_CODE,
    Config,
    InputError,
    OptimizerConfig,
    PenaltyConfig,
    Stopped,
    TrainConfig,
    TrainingFailed,
    check_processes,
    doubts,
    validate,
)
from gan_dist.data.dataset import GlobalBatches, ResidentImages, make_loader
from gan_dist.models import build_pair
from gan_dist.models.cost import check_memory
from gan_dist.models.ema import generator_to_use
from gan_dist.run.checkpoint import Checkpoints
from gan_dist.run.console import Console
from gan_dist.run.disk import Disk
from gan_dist.run.folder import RunFolder
from gan_dist.run.launcher import fix_kernels, launch_advice, on_main, start_accelerator
from gan_dist.run.peers import ROLL_CALL, Peers
from gan_dist.run.preemption import StopAgreement, StopRequest
from gan_dist.run.samples import COUNT
from gan_dist.run.sharedmemory import SharedMemory
from gan_dist.run.tracking import WandbTracker
from gan_dist.training import outputs
from gan_dist.training.agreement import check_same_folder, check_same_start
from gan_dist.training.checkup import evaluate
from gan_dist.training.guard import Guard
from gan_dist.training.latents import Latents, Places, fixed_latents
from gan_dist.training.losses import LOSSES
from gan_dist.training.meter import METRICS, Meter
from gan_dist.training.pace import Pace
from gan_dist.training.penalties import Judge, OneCentered, Plain, ZeroCentered
from gan_dist.training.profiling import Profile
from gan_dist.training.quality import Quality
from gan_dist.training.recovery import BadStep, heed, recover, restore
from gan_dist.training.reduction import ExactReduction, FastReduction, Gather, Reduction, add_whole_pairs
from gan_dist.training.saving import checkpoint
from gan_dist.training.schedule import Schedule
from gan_dist.training.start import find_start
from gan_dist.training.state import Run
from gan_dist.training.steps import Gan, discriminator_step, generator_step
from gan_dist.training.threads import settle_threads
from gan_dist.training.timing import Timing
from gan_dist.training.update import Update, flatten

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def train(run: Run) -> None:
    """Train to the last step, or until somebody asks to stop.

    Raises:
        BadStep: a loss or a gradient was not finite.
    """
    run.timing.begin(run.step)
    total = run.schedule.total_steps
    run.console.begin(total, run.schedule.epoch(total), partial(outputs.progress, run))
    run.profile.begin()
    for step, real in enumerate(run.loader, run.step + 1):  # real: (n, C, H, W) in [-1, 1], this rank's share
        run.profile.over("data")
        run.pace.keep(step)
        stats = discriminator_step(run.gan, real, step)
        run.profile.over("discriminator step")
        stats |= generator_step(run.gan, real, step)
        run.ema.update(step)
        run.profile.over("generator step")
        run.meter.add(stats)  # stays on the device
        run.step = step
        at = run.schedule.at(step, run.stopping.reached() or step == run.last_step)  # the same on every rank
        if at.anything:
            heed(run)
        if at.log:
            outputs.log(run)
        if at.hashes:
            outputs.log_hashes(run)
        if at.sample and run.writes:
            outputs.sample(run)
        if at.evaluate:
            evaluate(run)
        if at.checkpoint or run.at_its_best:
            checkpoint(run)
        run.profile.over("outputs")
        if at.stop:
            break


def train_through(run: Run) -> str:
    """Train, and go back and train again where that may help.

    Returns:
        "finished", "stopped", or "failed": then `run.failure` says why.
    """
    while run.last_step is None or run.step < run.last_step:
        try:
            train(run)
            break
        except BadStep as bad:
            recover(run, bad.finding)
    run.stopping.close()
    if run.memory is not None:
        run.memory.close()
    if run.failure is not None:
        return "failed"
    return "finished" if run.step >= run.schedule.total_steps else "stopped"


def start_processes(config: Config) -> Accelerator:
    """Join the ranks that the launcher started.

    Raises:
        InputError: the configuration can't be had on this machine.
        TrainingFailed: they did not find each other.
    """
    if config.train.exact_shards is not None:
        fix_kernels()
    return start_accelerator(config.train.mixed_precision, config.train.threads, _patience(config))


def build(config: Config, folder: RunFolder, request: StopRequest, accelerator: Accelerator) -> Run:
    """Make a run ready for its next step: the first, or the one after its newest checkpoint.

    Args:
        config: a valid configuration.
        folder: where the run is kept; locked from here on.
        request: where the process hears that it should stop.
        accelerator: of `start_processes`.

    Raises:
        InputError: the same one on every rank.
    """
    rank, ranks, device = accelerator.process_index, accelerator.num_processes, accelerator.device
    train_config = dataclasses.replace(config.train, mixed_precision=accelerator.mixed_precision)
    config = dataclasses.replace(config, train=train_config)
    if ranks > 1:
        check_same_start(config)
    validate(config)  # again: the precision may be the launcher's
    check_processes(config, ranks)
    console = Console(speaks=accelerator.is_main_process)
    for advice in launch_advice(ranks) + doubts(config):
        console.announce(advice)

    # Rank 0 reads, and sends what it read: every rank starts from the same, and needs no file of its own.
    start = on_main(accelerator, lambda: find_start(config, folder, console.announce, request))
    run_dir = config.run.dir.with_name(config.run.dir.name + start.folder_suffix)  # each host's own
    folder.use(run_dir)
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, dir=run_dir))
    if ranks > 1:
        check_same_folder(config.run.shared, folder, accelerator)
    found = start.checkpoint
    images = start.images.images.to(device)
    schedule = Schedule(config, len(images))

    on_main(accelerator, lambda: check_memory(config, start.images.shape, ranks, device))
    # Not prepared by Accelerate: what adds the gradients over the ranks is the update, once, not DDP behind each
    # backward; and what computes in half precision is the update's copy of a network, not autocast.
    generator, discriminator = (
        network.to(device) for network in build_pair(config.model, start.images.shape, config.train.seed)
    )
    captured = config.train.compile and device.type == "cuda"
    if config.train.compile and not captured:
        console.announce("train.compile is for CUDA; this run goes on without it")
    adam = config.optimizer
    # The optimizers are made for the weights where they train: moving a network may replace them.
    generator_optimizer = accelerator.prepare(_adam(generator, adam, adam.generator_factor, captured))
    discriminator_optimizer = accelerator.prepare(_adam(discriminator, adam, 1.0, captured))

    memory = None
    if ranks > 1 and device.type == "cpu" and config.distributed.shared_memory:
        rows = add_whole_pairs(torch.empty(make_reduction(config.train, ranks, None).rows, 0))
        weights = max(sum(map(torch.numel, network.parameters())) for network in (generator, discriminator))
        numbers = len(rows) * (weights + ranks)  # what an update sends: behind the gradients, the guard's numbers
        memory = SharedMemory.open(
            rank, ranks, numbers, lambda mine: gather_object([mine]), _patience(config), console.announce
        )
    profile = Profile(config.profile and rank == 0, folder.profile, device, console.announce)
    reduction = profile.watch(make_reduction(config.train, ranks, memory.gather if memory else None))
    batch_size, seed, latent_dim = config.train.batch_size, config.train.seed, config.model.latent_dim
    batches = GlobalBatches(len(images), batch_size, seed, range(schedule.total_steps), device, start.images.stack)
    loader = accelerator.prepare(make_loader(ResidentImages(images), batches))
    share, backward = batch_size // ranks, accelerator.backward
    window = min(config.log.every_steps, schedule.total_steps)
    guard = Guard(window, rank, ranks, device, scaled=accelerator.scaler is not None)
    dtype = DTYPES[accelerator.mixed_precision]
    generator_update, discriminator_update = (
        Update(network, optimizer, reduction, share, backward, guard, dtype, captured)
        for network, optimizer in ((generator, generator_optimizer), (discriminator, discriminator_optimizer))
    )
    factor = torch.ones((), device=device)
    places = Places(seed, (batch_size,), rank, ranks, device)
    judge = make_judge(config.penalty, discriminator_update, factor, places)
    gan = Gan(
        generator=generator_update.working,
        discriminator=discriminator_update.working,
        generator_update=generator_update,
        discriminator_update=discriminator_update,
        loss=LOSSES[config.train.loss],
        judge=judge,
        latents=Latents(seed, latent_dim, batch_size, rank, ranks, device, dtype),
    )
    if device.type == "cpu":
        free, exact = config.train.threads is None, reduction.exact
        settle_threads(gan, start.images.shape, share // reduction.parts, exact, free, console.announce)
    run = Run(
        config=config,
        accelerator=accelerator,
        gan=gan,
        ema=generator_to_use(config.ema, generator, batch_size),
        batches=batches,
        loader=loader,
        schedule=schedule,
        pace=Pace(schedule, generator_optimizer, discriminator_optimizer, factor),
        guard=guard,
        meter=Meter((*METRICS, *judge.figures), window, reduction.parts, accelerator.gather, ranks, device),
        stopping=StopAgreement(request, _patience(config), memory),
        memory=memory,
        quality=Quality(config, accelerator, start.images, console.announce),
        disk=Disk(on_failure=request.ask),
        folder=folder,
        checkpoints=Checkpoints(folder.checkpoints, config.checkpoint.keep, schedule.stays, start.run_id),
        wandb=WandbTracker(accelerator, config.wandb, folder, console.announce),
        console=console,
        profile=profile,
        images=start.images,
        run_id=start.run_id,
        fixed_latents=fixed_latents(seed, COUNT, latent_dim).to(device),
        timing=Timing(found.state["seconds"], found.state["evaluating_seconds"]) if found else Timing(),
    )
    if found:
        restore(run, found)
    if run.step < schedule.total_steps:
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
        Stopped: it was asked to stop before there was anything to save.
        TrainingFailed: the run can't go on, for the reason that it says.
    """
    request, folder, run = StopRequest(), RunFolder(config.run.dir), None
    accelerator = start_processes(config)  # until here `train.main` handles signals: there is nothing to save
    with request.listening(), contextlib.closing(folder):
        rank, ranks = accelerator.process_index, accelerator.num_processes
        with contextlib.closing(Peers(rank, ranks, _patience(config))) as peers:
            try:
                run = build(config, folder, request, accelerator)
                state = train_through(run)
                # Every rank waits here for rank 0's pictures: a launcher that sees one worker end stops the others.
                on_main(accelerator, lambda: outputs.conclude(run, state, request.reason or "asked on another rank"))
            except (InputError, Stopped, TrainingFailed) as error:  # every rank is here
                if isinstance(error, InputError):
                    error.common = True
                peers.close()  # the store of rank 0 goes with the group
                if torch.distributed.is_initialized():
                    torch.distributed.destroy_process_group()
                raise
            except BaseException as error:
                blame, step = peers.blame(error), run.step if run else 0
                why = f"{type(error).__name__}: {error}"
                if blame:
                    why = f"step {step + 1:,} {blame.what}; the same command goes on from the newest checkpoint"
                if run is not None and run.writes:
                    with contextlib.suppress(OSError):  # the disk may be what failed
                        outputs.end(run, "failed", why)
                if blame:
                    raise TrainingFailed(why, blame.spoken_by) from error
                raise
        accelerator.trackers = []  # they are finished
        accelerator.end_training()
    if run.failure is not None:
        raise TrainingFailed(outputs.reason_of_failure(run))
    return 0 if state == "finished" else STOPPED_EXIT_CODE


def make_reduction(config: TrainConfig, ranks: int, gather: Gather | None) -> Reduction:
    """How the configuration wants gradients to be added."""
    if config.exact_shards is not None:
        return ExactReduction(ranks, config.exact_shards, gather)
    return FastReduction(ranks, config.accumulation, gather=gather)


def make_judge(config: PenaltyConfig, update: Update, factor: Float[Tensor, ""], places: Places) -> Judge:
    """How the discriminator is asked about a batch, with the penalties that the configuration wants."""
    if config.r1 or config.r2:
        return ZeroCentered(update.in_full, config.r1, config.r2, factor)
    if config.gradient:
        return OneCentered(update.in_full, config.gradient, places)
    return Plain(update.working)


def _adam(network: nn.Module, config: OptimizerConfig, factor: float, captured: bool) -> torch.optim.Adam:
    betas = (config.beta1, config.beta2)
    weights = flatten(network)
    broadcast(weights.data)  # from rank 0: processors of another kind may draw other last bits
    rate: float | Tensor = config.learning_rate * factor
    if captured and config.final_learning_rate is not None:
        rate = torch.tensor(rate, device=weights.device)  # a graph reads what the schedule writes into it
    return torch.optim.Adam([weights], lr=rate, betas=betas, fused=True, capturable=captured)


def _patience(config: Config) -> float:
    """Seconds that a collective waits: the roll call after it shall be over within distributed.timeout."""
    return config.distributed.timeout - ROLL_CALL
