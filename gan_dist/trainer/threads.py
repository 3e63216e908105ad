"""How many CPU threads a process computes with: as many as are faster, and in the exact mode only if the bits agree."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median

import torch
from jaxtyping import Float
from torch import Tensor

from gan_dist.gan.steps import Gan, discriminator_loss, generator_loss

TRIALS = 16  # of whether the bits agree: by chance those of a few sums do
ROUNDS = 7
ROUND_SECONDS = 0.02  # of computing on each number of threads
MAX_SECONDS = 3.0
FASTER = 0.97  # a difference below 3 % is noise


def choose_threads(
    gan: Gan, image_shape: tuple[int, int, int], share: int, exact: bool, free: bool, announce: Callable[[str], None]
) -> None:
    """Choose between torch's present number of threads and one, before the first step on a CPU.

    Both compute the gradients of the run's own losses, on noise. In the exact mode several threads are kept only if
    they give the same bits as one: kernels that split a sum among the threads round differently. In half precision
    that shows in so few gradients that no test can rule it out, so one thread is taken. Where the user left the number
    open, one thread is taken if it is faster, as on a machine that is busy with other work.

    Args:
        gan: of the run.
        image_shape: (C, H, W).
        share: images that go through the networks at once.
        exact: the run is in the exact mode.
        free: the user did not give a number of threads.
        announce: called with one line if one thread is taken.
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
        reason = "the exact mode needs it in half precision"
    elif exact and not same_bits():
        reason = f"the exact mode needs it: {threads} threads round otherwise on this processor"
    elif free and (ratio := relative_time(lambda: compute(1), lambda: compute(threads))) < FASTER:
        reason = f"{threads} threads take {1 / ratio:.1f} times as long on this machine as it is now"
    torch.set_num_threads(1 if reason else threads)
    if reason:
        announce(f"computing on 1 thread, since {reason}")


def gradients(gan: Gan, images: Float[Tensor, "n c h w"], step: int) -> Iterator[Tensor]:
    """The gradients and figures of one update of each network. Nothing moves.

    Args:
        gan: the networks.
        images: in the place of real ones.
        step: whose latents are used.
    """
    latents = [gan.latents(step, purpose)[: len(images)].clone() for purpose in ("discriminator", "generator")]
    drawn = [numbers[: len(images)].clone() for numbers in gan.critic.draw(step)]
    for network, (loss, figures) in (
        (gan.discriminator, discriminator_loss(gan, images, latents[0], *drawn)),
        (gan.generator, generator_loss(gan, images, latents[1])),
    ):
        yield from torch.autograd.grad(loss, list(network.parameters()), allow_unused=True, materialize_grads=True)
        yield from figures.values()


def relative_time(first: Callable[[], object], second: Callable[[], object]) -> float:
    """The time of `first` over that of `second`: the median of rounds in which both are measured in turn."""
    ratios: list[float] = []
    give_up = time.perf_counter() + MAX_SECONDS
    first(), second()  # libraries make their workspaces
    while len(ratios) < ROUNDS and (len(ratios) < 2 or time.perf_counter() < give_up):
        ratios.append(_seconds(first) / _seconds(second))
    return median(ratios)


def _seconds(work: Callable[[], object]) -> float:
    """Of one call, measured over `ROUND_SECONDS`."""
    work()  # not counted: the number of threads has changed
    calls, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < ROUND_SECONDS or not calls:
        work()
        calls += 1
    return spent / calls
