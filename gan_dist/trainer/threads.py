"""Chooses the number of CPU threads: the faster one and, in the exact mode, one that does not change the bits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from statistics import median
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gan_dist.data.batch import Batch
from gan_dist.gan.steps import Gan, discriminator_loss, generator_loss, step_inputs

TRIALS = 16  # of the bitwise comparison; a few sums may agree by chance
ROUNDS = 7
ROUND_SECONDS = 0.02  # per number of threads
MAX_SECONDS = 3.0
FASTER = 0.97  # a difference below 3 % is noise


def choose_threads(
    gan: Gan, image_shape: tuple[int, int, int], share: int, exact: bool, free: bool, announce: Callable[[str], None]
) -> None:
    """Choose between torch's current number of threads and one, before the first step on a CPU.

    Both compute gradients of the run's losses on noise. The exact mode keeps several threads only if they give the same
    bits as one: kernels that split a sum among threads round differently. In half precision so few gradients differ
    that no test can exclude it, so the exact mode uses one thread there. If the user did not set the number, one thread
    is used if it is faster, as on a machine that is busy with other work.

    Args:
        gan: the networks and losses.
        image_shape: (C, H, W).
        share: images per forward pass.
        exact: whether the run is in the exact mode.
        free: whether the user left the number of threads open.
        announce: called with one line if one thread is chosen.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return

    def compute(count: int, trial: int = 0) -> list[Tensor]:
        torch.set_num_threads(count)
        noise = torch.randn(share, *image_shape, generator=torch.Generator().manual_seed(trial))
        return list(gradients(gan, noise.clamp_(-1, 1), trial))

    def same_bits() -> bool:
        return all(all(map(torch.equal, compute(1, trial), compute(threads, trial))) for trial in range(TRIALS))

    reason = ""
    if exact and next(gan.generator.parameters()).dtype != torch.float32:
        reason = "the exact mode requires it in half precision"
    elif exact and not same_bits():
        reason = f"the exact mode requires it: {threads} threads round differently on this processor"
    elif free and (ratio := relative_time(lambda: compute(1), lambda: compute(threads))) < FASTER:
        reason = f"{threads} threads currently take {1 / ratio:.1f} times as long on this machine"
    torch.set_num_threads(1 if reason else threads)
    if reason:
        announce(f"using 1 thread: {reason}")


def gradients(gan: Gan, images: Float[Tensor, "n c h w"], step: int) -> Iterator[Tensor]:
    """The gradients and statistics of one update of each network, without applying it.

    Args:
        gan: the networks.
        images: used as real images.
        step: determines the random inputs.
    """
    batch = Batch(images, torch.zeros(len(images), dtype=torch.int64))

    def shortened(inputs: Iterable[Tensor | None]) -> list[Any]:
        return [None if tensor is None else tensor[: len(images)].clone() for tensor in inputs]

    gan.begin(step)
    discriminator, generator = (shortened(step_inputs(gan, batch, of)) for of in ("discriminator", "generator"))
    drawn = shortened(gan.critic.draw())
    for network, (loss, figures) in (
        (gan.discriminator, discriminator_loss(gan, *discriminator, *drawn)),
        (gan.generator, generator_loss(gan, *generator)),
    ):
        yield from torch.autograd.grad(loss, list(network.parameters()), allow_unused=True, materialize_grads=True)
        yield from figures.values()


def relative_time(first: Callable[[], object], second: Callable[[], object]) -> float:
    """The time of `first` divided by that of `second`: the median over rounds that alternate between both."""
    ratios: list[float] = []
    give_up = time.perf_counter() + MAX_SECONDS
    first(), second()  # libraries allocate their workspaces
    while len(ratios) < ROUNDS and (len(ratios) < 2 or time.perf_counter() < give_up):
        ratios.append(_seconds(first) / _seconds(second))
    return median(ratios)


def _seconds(work: Callable[[], object]) -> float:
    """Seconds per call, measured over `ROUND_SECONDS`."""
    work()  # not counted: the number of threads changes here
    calls, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < ROUND_SECONDS or not calls:
        work()
        calls += 1
    return spent / calls
