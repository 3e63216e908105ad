"""The probability of the augmentation: constant, or steered by how well the discriminator tells the images apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from gan_dist.config import AugmentConfig
from gan_dist.config.rules import SAFE_PROBABILITY
from gan_dist.gan.augmentation import OVERFITTING
from gan_dist.gan.update import Stats
from gan_dist.trainer.meter import Meter
from gan_dist.trainer.schedule import ADAPT_STEPS

PROBABILITY = "augment/probability"


@runtime_checkable
class AugmentProbability(Protocol):
    """Sets the probability of the augmentation."""

    @property
    def figures(self) -> dict[str, float]:
        """What a line of metrics.jsonl says about it."""

    def add(self, stats: Stats) -> None:
        """Add one step of this rank. Stays on the device."""

    def adapt(self) -> None:
        """Change the probability, the same on every rank. A collective, due after the steps of `At.adapt`."""

    def state(self) -> dict[str, Any] | None:
        """What a checkpoint stores; None: nothing. A collective."""

    def load_state(self, state: dict[str, Any] | None) -> None:
        """Restore `state`; None: the initial state."""


class ConstantProbability:
    """A probability that never changes.

    Args:
        config: of the augmentation.
    """

    def __init__(self, config: AugmentConfig) -> None:
        self.figures = {PROBABILITY: config.probability} if config.on else {}

    def add(self, stats: Stats) -> None:
        pass

    def adapt(self) -> None:
        pass

    def state(self) -> dict[str, Any] | None:
        return None

    def load_state(self, state: dict[str, Any] | None) -> None:
        pass


class AdaptiveProbability:
    """Adaptive discriminator augmentation (Karras et al. 2020, arXiv:2006.06676, section 3).

    Every ADAPT_STEPS steps, the probability rises by ADAPT_STEPS * batch_size / rise_images if the mean of
    augment/overfitting over these steps and all ranks is above the target, and falls by as much if it is below. It
    stays between 0 and SAFE_PROBABILITY. The steps do not depend on the log and the evaluations, whose intervals a
    resumed run may change.

    Args:
        config: of the augmentation, with a target.
        batch_size: global batch size.
        tensor: the probability that the steps read; changed in place, so that a CUDA graph reads the new value.
        parts, gather, ranks: as in `Meter`.
    """

    def __init__(
        self,
        config: AugmentConfig,
        batch_size: int,
        tensor: Float[Tensor, ""],
        parts: int,
        gather: Callable[[Tensor], Tensor],
        ranks: int,
    ) -> None:
        assert config.target is not None
        self.target = config.target
        self.initial = config.probability
        self.change = ADAPT_STEPS * batch_size / config.rise_images
        self.tensor = tensor
        self._probability = config.probability
        self._meter = Meter((OVERFITTING,), ADAPT_STEPS, parts, gather, ranks, tensor.device)

    @property
    def figures(self) -> dict[str, float]:
        return {PROBABILITY: self._probability}

    def add(self, stats: Stats) -> None:
        self._meter.add(stats)

    def adapt(self) -> None:
        mean = self._meter.means()[OVERFITTING]
        self._meter.close_window()
        if mean is None or mean == self.target:  # no step was finite
            return
        change = self.change if mean > self.target else -self.change
        self._set(min(max(self._probability + change, 0.0), SAFE_PROBABILITY))

    def state(self) -> dict[str, Any] | None:
        return {"probability": self._probability, "window": self._meter.state()}

    def load_state(self, state: dict[str, Any] | None) -> None:
        self._set(self.initial if state is None else state["probability"])
        self._meter.load_state([] if state is None else state["window"])

    def _set(self, probability: float) -> None:
        self._probability = probability
        self.tensor.fill_(probability)


def make_probability(
    config: AugmentConfig,
    batch_size: int,
    tensor: Float[Tensor, ""],
    parts: int,
    gather: Callable[[Tensor], Tensor],
    ranks: int,
) -> AugmentProbability:
    """The probability of a configuration. Arguments as in `AdaptiveProbability`."""
    if config.target is None:
        return ConstantProbability(config)
    return AdaptiveProbability(config, batch_size, tensor, parts, gather, ranks)


def initial_probability(config: AugmentConfig, device: torch.device) -> Float[Tensor, ""]:
    """The tensor that the steps read."""
    return torch.full((), config.probability, device=device)
