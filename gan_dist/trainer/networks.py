"""Builds what a step works with: networks, optimizers, reduction, penalties and updates."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from jaxtyping import Float, Int64
from torch import Tensor, nn

from gan_dist.config import AugmentConfig, Config, OptimizerConfig, PenaltyConfig
from gan_dist.data.images import ImageSet
from gan_dist.distributed.main_process import on_main_process
from gan_dist.distributed.peers import PING_SECONDS
from gan_dist.gan.augmentation import NO_AUGMENTATION, Augmentation, RandomAugmentation
from gan_dist.gan.cuda_graph import GRAPHS
from gan_dist.gan.first_order import Directions, FirstOrderPenalty
from gan_dist.gan.guard import NonfiniteGuard
from gan_dist.gan.labels import BatchLabels, DrawnLabels, NoLabels, PairedLabels
from gan_dist.gan.latents import Draws, InterpolationWeights, Latents
from gan_dist.gan.losses import LOSSES
from gan_dist.gan.overlapped_update import OverlappedUpdate
from gan_dist.gan.penalties import Critic, NoPenalty, OneCenteredPenalty, ZeroCenteredPenalty
from gan_dist.gan.reduction import Reduction
from gan_dist.gan.slices import count_slices, multiprocessors_of, slices_of
from gan_dist.gan.steps import Gan
from gan_dist.gan.stop_signal import StopSignal
from gan_dist.gan.update import Update, flatten
from gan_dist.models import ImageShape, build_pair, count_classes
from gan_dist.models.cost import check_memory, count_weights
from gan_dist.models.memory_format import use_channels_last
from gan_dist.trainer.gradients import GradientSync, choose_gradient_sync, wrap_in_ddp
from gan_dist.trainer.start import Start

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Announce = Callable[[str], None]


class Networks(NamedTuple):
    """Both networks, on the device, and their optimizers."""

    generator: nn.Module
    discriminator: nn.Module
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    captured: bool
    """Whether steps are captured as CUDA graphs."""
    gradient_sync: GradientSync
    """How the gradients cross the ranks."""

    @property
    def max_weights(self) -> int:
        """Number of weights of the larger network."""
        return max(map(count_weights, (self.generator, self.discriminator)))


def build_networks(config: Config, start: Start, accelerator: Accelerator, announce: Announce) -> Networks:
    """Build both networks and their optimizers, if the memory suffices.

    Accelerate does not prepare the networks themselves. Without DistributedDataParallel, it would only move them to the
    device, and in mixed precision add autocast, but the passes use the update's copy of a network in half precision.
    With it, `OverlappedUpdate` has its own module prepared.

    Raises:
        InputError: the networks do not fit into the memory, or need classes that the data lack.
    """
    device, spec, ranks = accelerator.device, start.images.spec, accelerator.num_processes
    classes = count_classes(config.model, spec.classes)
    on_main_process(accelerator, lambda: check_memory(config, spec.shape, ranks, device, classes))
    for field in ("tf32", "cudnn_benchmark"):
        if getattr(config.train, field) and device.type != "cuda":
            announce(f"train.{field} is for CUDA and has no effect here")
    pair = build_pair(config.model, spec.shape, config.train.seed, classes)
    gradient_sync = choose_gradient_sync(config, max(map(count_weights, pair)), accelerator)
    captured = gradient_sync == "flat" and is_captured(config, device, announce)
    generator, discriminator = (network.to(device) for network in pair)
    if config.train.channels_last and not use_channels_last(generator, discriminator):
        announce(f"train.channels_last has no effect: {config.model.architecture} has no convolutions")
    # The optimizers come after the move, which may replace parameters.
    generator_optimizer = make_optimizer(generator, config.optimizer, config.optimizer.generator_factor, captured)
    discriminator_optimizer = make_optimizer(discriminator, config.optimizer, 1.0, captured)
    return Networks(
        generator,
        discriminator,
        accelerator.prepare(generator_optimizer),
        accelerator.prepare(discriminator_optimizer),
        captured,
        gradient_sync,
    )


def is_captured(config: Config, device: torch.device, announce: Announce) -> bool:
    """Whether steps are captured as CUDA graphs."""
    chosen, available = config.train.capture, device.type in GRAPHS
    if chosen == "on" and not available:
        announce("train.capture is for CUDA and has no effect here")
    if chosen == "auto" and available and config.profile:  # the phases of a graph can't be timed
        announce("steps are not captured as CUDA graphs, because profile times their phases")
        return False
    return chosen != "off" and available


def make_optimizer(network: nn.Module, config: OptimizerConfig, factor: float, captured: bool) -> torch.optim.Adam:
    """Adam over all weights of a network as one vector, with rank 0's values.

    Args:
        network: on its device; its parameters become views of the vector.
        config: of the optimizer.
        factor: multiplies the learning rate.
        captured: the step is going to be captured in a CUDA graph.
    """
    weights = flatten(network)
    broadcast(weights.data)  # processors of different kinds may draw different last bits
    first = config.learning_rate * factor
    rate: float | Tensor = first
    if captured and config.final_learning_rate is not None:
        rate = torch.full((), first, device=weights.device)  # a graph reads what the schedule writes into it
    # Only a graph starts the optimizer without Python, which takes microseconds for each parameter.
    slices = count_slices(len(weights), multiprocessors_of(weights.device)) if captured else 1
    parameters = slices_of(weights, slices)
    return torch.optim.Adam(parameters, lr=rate, betas=(config.beta1, config.beta2), fused=True, capturable=captured)


def build_gan(
    config: Config,
    networks: Networks,
    reduction: Reduction,
    guard: NonfiniteGuard,
    stop: StopSignal,
    penalty_factor: Float[Tensor, ""],
    probability: Float[Tensor, ""],
    images: ImageSet,
    accelerator: Accelerator,
) -> Gan:
    """The two updates and what they need.

    Args:
        config: of the run.
        networks: with their optimizers.
        reduction: adds the gradients.
        guard: rejects updates that are not finite.
        stop: travels with the gradients of the last update of a step.
        penalty_factor: multiplies both gammas; changed in place between steps.
        probability: of the augmentation; changed in place between steps.
        images: the training images, of which the shape and the classes are used.
        accelerator: of the ranks.
    """
    rank, ranks, device = accelerator.process_index, accelerator.num_processes, accelerator.device
    batch_size, dtype = config.train.batch_size, DTYPES[accelerator.mixed_precision]
    make_update: Callable[..., Update] = Update
    if networks.gradient_sync == "ddp":
        make_update = partial(OverlappedUpdate, wrap=lambda module: wrap_in_ddp(module, accelerator))
    generator_update, discriminator_update = (
        make_update(
            *(network, optimizer, reduction, batch_size // ranks, accelerator.backward, guard, dtype),
            stop=carried,
        )
        for network, optimizer, carried in (
            (networks.generator, networks.generator_optimizer, stop),
            (networks.discriminator, networks.discriminator_optimizer, None),
        )
    )
    draws = Draws(config.train.seed, batch_size, rank, ranks, device)
    augmentation = make_augmentation(config.augment, probability, draws)
    return Gan(
        generator=generator_update.forward_network,
        discriminator=discriminator_update.forward_network,
        generator_update=generator_update,
        discriminator_update=discriminator_update,
        loss=LOSSES[config.train.loss],
        critic=make_critic(config.penalty, discriminator_update, penalty_factor, draws, images.shape, augmentation),
        draws=draws,
        latents=Latents(draws, config.model.latent_dim, dtype),
        labels=make_labels(config, images.class_counts, draws),
        augmentation=augmentation,
    )


def make_labels(config: Config, class_counts: Int64[Tensor, " classes"] | None, draws: Draws) -> BatchLabels:
    """How the labels that the networks see are chosen.

    Args:
        config: of the run.
        class_counts: number of training images of each class; None if the data have no classes.
        draws: the source of random labels.
    """
    if not config.model.conditional:
        return NoLabels()
    if config.train.fake_labels == "paired":
        return PairedLabels()
    assert class_counts is not None
    return DrawnLabels(class_counts, draws)


def make_augmentation(config: AugmentConfig, probability: Float[Tensor, ""], draws: Draws) -> Augmentation:
    """How the images that the discriminator sees are augmented. Arguments as in `build_gan` and `make_labels`."""
    if not config.on:
        return NO_AUGMENTATION
    return RandomAugmentation(config.names, probability, config.target is not None, draws)


def make_critic(
    config: PenaltyConfig,
    update: Update,
    factor: Float[Tensor, ""],
    draws: Draws,
    image_shape: ImageShape,
    augmentation: Augmentation = NO_AUGMENTATION,
) -> Critic:
    """How the discriminator evaluates a batch, with the penalties of the configuration.

    Args:
        config: of the penalties.
        update: of the discriminator.
        factor: multiplies both gammas; changed in place between steps.
        draws: makes the random inputs of penalties.
        image_shape: (C, H, W).
        augmentation: of the images that the discriminator sees.
    """
    critic, gammas = update.full_precision, (config.r1, config.r2)
    if any(gammas) and config.order == "first":
        return FirstOrderPenalty(critic, *gammas, factor, draws.make(Directions, 2, *image_shape), augmentation)
    if any(gammas):
        return ZeroCenteredPenalty(critic, *gammas, factor, augmentation)
    if config.gradient:
        return OneCenteredPenalty(critic, config.gradient, draws.make(InterpolationWeights), augmentation)
    return NoPenalty(update.forward_network, augmentation)


def collective_timeout(config: Config) -> float:
    """Seconds that a collective waits: the ping that follows must end within distributed.timeout."""
    return config.distributed.timeout - PING_SECONDS
