"""Builds a trainer: a run that is ready for its next step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor

from gan_dist.config import Config, check_processes, validate, warnings
from gan_dist.config.derived import derive
from gan_dist.data.images import ImageSet
from gan_dist.data.loader import Loader, make_loader
from gan_dist.data.order import GlobalBatches
from gan_dist.data.store import Store, make_store
from gan_dist.distributed.agreement import check_same_folder, check_same_start
from gan_dist.distributed.device_wait import gather_in_time, make_run_ahead, make_wait
from gan_dist.distributed.devices import find_devices
from gan_dist.distributed.environment import read_environment
from gan_dist.distributed.launch_command import launch_warnings
from gan_dist.distributed.launcher import start_accelerator
from gan_dist.distributed.machine import fix_kernels
from gan_dist.distributed.main_process import on_main_process
from gan_dist.distributed.numerics import fix_cublas, set_numerics
from gan_dist.distributed.preemption import StopRequest
from gan_dist.distributed.stop_agreement import StopAgreement
from gan_dist.gan.guard import NonfiniteGuard
from gan_dist.gan.latents import fixed_latents as draw_fixed_latents
from gan_dist.gan.stop_signal import LocalStopSignal, ReducedStopSignal
from gan_dist.models import count_classes
from gan_dist.models.average import GeneratorAverage, make_average
from gan_dist.outputs.checkpoint import Checkpoints
from gan_dist.outputs.checkpoint_format import Checkpoint
from gan_dist.outputs.console import Console
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.pictures import COLUMNS, COUNT, MAX_ROWS
from gan_dist.outputs.trackers import make_tracker
from gan_dist.outputs.writer import Writer
from gan_dist.trainer import session
from gan_dist.trainer.augmentation import initial_probability, make_probability
from gan_dist.trainer.cadence import Cadence
from gan_dist.trainer.evaluator import Evaluator
from gan_dist.trainer.gradients import describe_gradient_sync, make_reduction, open_cpu_exchange
from gan_dist.trainer.hyperparameters import DeviceNumbers, HostNumbers, Hyperparameters
from gan_dist.trainer.images import share_images
from gan_dist.trainer.meter import METRICS, Meter
from gan_dist.trainer.networks import Networks, build_gan, build_networks, collective_timeout
from gan_dist.trainer.profiling import Profiler
from gan_dist.trainer.recovery import restore
from gan_dist.trainer.schedule import Schedule
from gan_dist.trainer.start import Start, find_start
from gan_dist.trainer.state import Trainer
from gan_dist.trainer.threads import choose_threads
from gan_dist.trainer.timing import Timing


def start_processes(config: Config) -> Accelerator:
    """Join the ranks that the launcher started.

    Raises:
        InputError: the configuration is not supported on this machine.
        TrainingFailed: the ranks did not find each other.
    """
    exact = config.train.exact_shards is not None
    if exact:
        fix_kernels()
        fix_cublas()
    train = config.train
    accelerator = start_accelerator(train.mixed_precision, train.threads, collective_timeout(config))
    set_numerics(accelerator.device, train.tf32, deterministic=exact, benchmark=train.cudnn_benchmark)
    return accelerator


def build(config: Config, folder: RunFolder, request: StopRequest, accelerator: Accelerator) -> Trainer:
    """Make a run ready for its next step: the first one, or the one after its latest checkpoint.

    Args:
        config: a valid configuration.
        folder: the run folder; locked from here on.
        request: tells whether this process should stop.
        accelerator: of `start_processes`.

    Raises:
        InputError: the same one on every rank.
    """
    config = resolve_config(config, accelerator)
    console = Console(enabled=accelerator.is_main_process)
    for line in launch_warnings(accelerator.num_processes):
        console.announce(line)
    read: list[ImageSet] = []  # on rank 0

    def find() -> Start:
        start, images = find_start(config, folder, console.announce, request)
        read.append(images)
        return start

    # Rank 0 reads the files and broadcasts what they say, so that all ranks start from the same state.
    start = on_main_process(accelerator, find)
    config, derived = derive(config, start.images.spec.shape, start.images.spec.count)
    validate(config)
    check_processes(config, accelerator.num_processes)
    for line in warnings(config):
        console.announce(line)
    config = resolve_folder(config, folder, start, accelerator)
    images, access = share_images(next(iter(read), None), start.images, config.data, accelerator, console.announce)
    trainer = assemble(config, start, images, folder, request, accelerator, console)
    trainer.images_access, trainer.derived, trainer.devices = access, derived, find_devices(accelerator)
    begin(trainer, start)
    return trainer


def assemble(
    config: Config,
    start: Start,
    images: ImageSet,
    folder: RunFolder,
    request: StopRequest,
    accelerator: Accelerator,
    console: Console,
) -> Trainer:
    """The trainer of a run, in its initial state."""
    rank, ranks, device = accelerator.process_index, accelerator.num_processes, accelerator.device
    schedule = Schedule(config, len(images.images))

    networks = build_networks(config, start, accelerator, console.announce)
    timeout = collective_timeout(config)
    exchange = open_cpu_exchange(
        config, networks.gradient_sync, networks.max_weights, accelerator, timeout, console.announce
    )
    profiler = Profiler(config.profile and rank == 0, folder.profile, device, console.announce)
    reduction = profiler.timed(make_reduction(config.train, ranks, exchange))
    window = min(config.log.every_steps, schedule.total_steps)
    guard = NonfiniteGuard(window, rank, ranks, device, scaled=accelerator.scaler is not None)
    penalty_factor = torch.ones((), device=device)
    probability = initial_probability(config.augment, device)
    stop = ReducedStopSignal(device) if ranks > 1 else LocalStopSignal()
    wait = make_wait(device, ranks, timeout)
    gather = gather_in_time(accelerator.gather, wait)
    gan = build_gan(config, networks, reduction, guard, stop, penalty_factor, probability, images, accelerator)
    if device.type == "cpu":
        share = config.train.batch_size // ranks // reduction.parts
        choose_threads(gan, images.shape, share, reduction.exact, config.train.threads is None, console.announce)
    batches, store, loader = build_loader(config, images, schedule, accelerator)
    ema = make_average(config.ema, networks.generator, gan.generator_update.weights, config.train.batch_size)
    fixed_latents, fixed_labels = fixed_inputs(config, images, device)
    found = start.checkpoint
    timing = Timing(found.state["seconds"], found.state["evaluating_seconds"]) if found else Timing()
    return Trainer(
        config=config,
        accelerator=accelerator,
        gan=gan,
        ema=ema,
        batches=batches,
        store=store,
        loader=loader,
        captured=networks.captured,
        schedule=schedule,
        cadence=Cadence(config, schedule, timing.training_seconds, gather, ranks, device),
        hyperparameters=make_hyperparameters(schedule, networks, penalty_factor, ema, device),
        augment_probability=make_probability(
            config.augment, config.train.batch_size, probability, reduction.parts, gather, ranks
        ),
        guard=guard,
        meter=Meter(
            (*METRICS, *gan.critic.figures, *gan.augmentation.figures),
            window,
            reduction.parts,
            gather,
            ranks,
            device,
        ),
        wait=wait,
        stopping=StopAgreement(request, stop, make_run_ahead(wait)),
        memory=exchange.memory if exchange else None,
        gradients=describe_gradient_sync(networks.gradient_sync, exchange, accelerator),
        evaluator=Evaluator(config, accelerator, images, console.announce, gather),
        writer=Writer(on_failure=request.ask),
        folder=folder,
        checkpoints=Checkpoints(folder.checkpoints, config.checkpoint.keep, schedule.is_permanent, start.run_id),
        tracker=make_tracker(config, accelerator, folder, console.announce),
        console=console,
        profiler=profiler,
        images=images,
        run_id=start.run_id,
        fixed_latents=fixed_latents,
        fixed_labels=fixed_labels,
        timing=timing,
    )


def resolve_config(config: Config, accelerator: Accelerator) -> Config:
    """The configuration with the precision that the launcher may have set, checked against the other ranks.

    Raises:
        InputError: the ranks were started with different configurations, or it is not valid for them.
    """
    train = dataclasses.replace(config.train, mixed_precision=accelerator.mixed_precision)
    config = dataclasses.replace(config, train=train)
    if accelerator.num_processes > 1:
        check_same_start(config)
    validate(config)
    check_processes(config, accelerator.num_processes)
    return config


def resolve_folder(config: Config, folder: RunFolder, start: Start, accelerator: Accelerator) -> Config:
    """The configuration with the folder that the run is kept in, which all hosts see.

    Raises:
        InputError: they do not.
    """
    run_dir = config.run.dir.with_name(config.run.dir.name + start.folder_suffix)  # each host has its own run.dir
    folder.use(run_dir)
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, dir=run_dir))
    if accelerator.num_processes > 1:
        check_same_folder(config.run.shared, folder, accelerator)
    return config


def make_hyperparameters(
    schedule: Schedule, networks: Networks, factor: Tensor, ema: GeneratorAverage, device: torch.device
) -> Hyperparameters:
    """The numbers of each step: on the device if steps are captured. Arguments as in `StepNumbers`."""
    numbers = schedule, networks.generator_optimizer, networks.discriminator_optimizer, factor, ema
    return DeviceNumbers(*numbers, device) if networks.captured else HostNumbers(*numbers)


def build_loader(
    config: Config, images: ImageSet, schedule: Schedule, accelerator: Accelerator
) -> tuple[GlobalBatches, Store, Loader]:
    """The order of the images, where they are, and the loader that yields this rank's share of each batch."""
    device, mirrored = accelerator.device, config.data.mirror
    sharing = read_environment().local_ranks if device.type == "cpu" else 1
    store = make_store(config.data.memory, images, device, sharing, mirrored)
    steps, train = range(schedule.total_steps), config.train
    batches = GlobalBatches(len(store), train.batch_size, train.seed, steps, store.index_device, images.stack, mirrored)
    return batches, store, make_loader(store, batches, accelerator.prepare)


def fixed_inputs(config: Config, images: ImageSet, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """The latents and labels of the sample grids. With labels, a row is a class, and all rows have the same latents."""
    latents = draw_fixed_latents(config.train.seed, COUNT, config.model.latent_dim).to(device)
    classes = count_classes(config.model, images.spec.classes)
    if not classes:
        return latents, None
    rows = torch.arange(min(classes, MAX_ROWS), device=device)
    return latents[:COLUMNS].repeat(len(rows), 1), rows.repeat_interleave(COLUMNS)


def tracker_ids(found: Checkpoint | None) -> Mapping[str, str]:
    """What identifies the run in each tracker, as a checkpoint says; earlier versions had W&B only."""
    if found is None:
        return {}
    earlier = found.state.get("wandb_id")
    return found.state.get("tracker_ids", {"wandb": earlier} if earlier else {})


def begin(trainer: Trainer, start: Start) -> None:
    """Load the checkpoint that a run resumes from, and open its outputs."""
    found = start.checkpoint
    if found:
        restore(trainer, found)
    if trainer.step < trainer.schedule.total_steps:
        on_main_process(trainer.accelerator, lambda: session.begin(trainer, tracker_ids(found)))
    else:
        trainer.console.announce(
            f"the run in {trainer.folder.path} is finished; a larger --train.epochs trains it further"
        )
