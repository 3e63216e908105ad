"""The labels that both networks see in a step."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor

from gan_dist.data.batch import Batch, Labels
from gan_dist.gan.latents import Draws, RandomBatch


@runtime_checkable
class BatchLabels(Protocol):
    """Chooses the labels of a batch of real images and of the images that are generated beside it."""

    def real(self, batch: Batch) -> Labels | None:
        """Those of this rank's real images."""

    def fake(self, batch: Batch, purpose: str) -> Labels | None:
        """Those of this rank's generated images.

        Args:
            batch: this rank's real images.
            purpose: such as "discriminator".
        """


class NoLabels:
    """Unconditional networks."""

    def real(self, batch: Batch) -> Labels | None:
        return None

    def fake(self, batch: Batch, purpose: str) -> Labels | None:
        return None


class PairedLabels:
    """Generated images have the labels of the real images of the batch."""

    def real(self, batch: Batch) -> Labels | None:
        return batch.labels

    def fake(self, batch: Batch, purpose: str) -> Labels | None:
        return batch.labels


class DrawnLabels(RandomBatch):
    """Labels of generated images are drawn with the frequencies of the data.

    Args:
        counts: number of training images of each class.
        draws: the source of the numbers.
    """

    def __init__(self, counts: Int64[Tensor, " classes"], draws: Draws) -> None:
        super().__init__(draws)
        shares = counts.double().cumsum(0) / counts.sum()
        self._bounds = shares[:-1].float().to(draws.device)  # between the classes, in [0, 1]

    def real(self, batch: Batch) -> Labels | None:
        return batch.labels

    def fake(self, batch: Batch, purpose: str) -> Labels | None:
        drawn = self.uniform(f"{purpose}/labels")
        return torch.bucketize(drawn, self._bounds, right=True)
