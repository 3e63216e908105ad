"""The two updates of a step whose number is given."""

from __future__ import annotations

from typing import TypeVar

from gan_dist.data.batch import Batch
from gan_dist.gan import steps
from gan_dist.gan.latents import RandomBatch
from gan_dist.gan.steps import Gan
from gan_dist.gan.update import Stats

Kind = TypeVar("Kind", bound=RandomBatch)


def discriminator_step(gan: Gan, batch: Batch, step: int) -> Stats:
    gan.begin(step)
    return steps.discriminator_step(gan, batch)


def generator_step(gan: Gan, batch: Batch, step: int) -> Stats:
    gan.begin(step)
    return steps.generator_step(gan, batch)


def at(step: int, numbers: Kind) -> Kind:
    """Random numbers, to be drawn in this step."""
    numbers.draws.begin(step)
    return numbers
