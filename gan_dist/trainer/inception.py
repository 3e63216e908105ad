"""FID and KID during training. Rank 0 computes them while the other ranks wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from accelerate import Accelerator
from jaxtyping import UInt8
from torch import Tensor

from gan_dist.config import EvaluateConfig, InputError
from gan_dist.data.images import ImageSet
from gan_dist.distributed.main_process import on_main_process
from gan_dist.evaluation.estimates import Figures
from gan_dist.evaluation.inception_file import inception_file
from gan_dist.evaluation.inception_judge import InceptionJudge, make_judge


class Measured(NamedTuple):
    """FID and KID of one evaluation."""

    weights: str
    """Id of the weights of the network. Figures of different weights are not comparable."""
    figures: Figures


class InceptionEvaluator:
    """Computes FID and KID if evaluate.features asks for them. Real images are read at the first evaluation.

    A fault, such as a missing file, switches them off with one line. The run continues.

    Args:
        config: the section of the run.
        accelerator: of the run.
        train: the training images.
        announce: called on every rank with one line per fact that the user should know.
    """

    def __init__(
        self, config: EvaluateConfig, accelerator: Accelerator, train: ImageSet, announce: Callable[[str], None]
    ) -> None:
        self.config = config
        self.accelerator = accelerator
        self.train = train
        self.announce = announce
        self.works = inception_file(config.features) is not None
        """The same on every rank."""
        self.held_out: UInt8[Tensor, "m c h w"] | None = None
        """On rank 0, before the first call of `measure`: the held-out images, if there are any."""
        self._judge: InceptionJudge | None = None
        """On rank 0."""

    def measure(self, pixels: UInt8[Tensor, "n c h w"]) -> Measured | None:
        """Compute the figures of generated images. A collective: every rank must call it.

        Args:
            pixels: all images; those of rank 0 are used.

        Returns:
            The same on every rank. None if there are no such figures.
        """
        if not self.works:
            return None
        try:
            return on_main_process(self.accelerator, lambda: self._measure(pixels))
        except InputError as error:
            self.works = False
            self.announce(f"FID and KID are off: {error}")
            return None

    @property
    def floor(self) -> Figures:
        """FID and KID of real images, on rank 0; empty before the first evaluation."""
        return self._judge.reference.floor if self._judge else {}

    def _measure(self, pixels: Tensor) -> Measured:
        if self._judge is None:
            features, device = self.config.features, self.accelerator.device
            self._judge = make_judge(features, self.train.images, self.held_out, device, self.announce)
            self.held_out = None
            self.announce(self._judge.describe(len(pixels)))
        return Measured(self._judge.inception.id, self._judge.figures(pixels))
