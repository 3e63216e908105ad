"""How good the generator is in the course of a run: all ranks measure it together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from gan_dist.config import Config, InputError
from gan_dist.data.pixels import normalize, quantize, stack_channels
from gan_dist.data.sources import ImageSet, settled
from gan_dist.distributed.launcher import on_main_process
from gan_dist.evaluation.classifier import TrainedClassifier, classifier_for
from gan_dist.evaluation.metrics import compute_figures, real_figures
from gan_dist.evaluation.observations import CHUNK, Observed, Reference, choose, observe, one_thread
from gan_dist.evaluation.reference import reference_for
from gan_dist.gan.penalties import Discriminator
from gan_dist.seeding import sample_latents

SCORED = 1998  # real images of each kind that the discriminator is asked about; whole stacks of three


class Evaluator:
    """Measures a generator. What it needs of the real images is read when it is first wanted.

    Args:
        config: of the run.
        accelerator: of the run.
        images: the training images, the same on every rank.
        announce: called on every rank with one line for whatever the user should know.
    """

    def __init__(
        self, config: Config, accelerator: Accelerator, images: ImageSet, announce: Callable[[str], None]
    ) -> None:
        self.config = config
        self.accelerator = accelerator
        self.images = images
        self.announce = announce
        self.works = True
        """Until it turns out that there is no classifier, or no data, to measure with."""
        self._classifier: TrainedClassifier | None = None
        self._reference: Reference | None = None

    def measure(self, generator: nn.Module, discriminator: Discriminator) -> dict[str, Any] | None:
        """Generate images and compute all figures, shared out over the ranks. A collective: all must reach it.

        In the exact mode the figures are the same to the last bit for any number of ranks and threads.

        Args:
            generator: the one to use, in fp32.
            discriminator: D in fp32.

        Returns:
            classifier, count, each figure's value, and intervals: figure -> [low, high]. The same on every rank. None
            if it can't be measured, which is said once.
        """
        with one_thread() if self.config.train.exact_shards is not None else contextlib.nullcontext():
            return self._measure(generator, discriminator)

    def _measure(self, generator: nn.Module, discriminator: Discriminator) -> dict[str, Any] | None:
        if not self._ready():
            return None
        assert self._classifier is not None
        assert self._reference is not None
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        observed = self._observe(generator)
        parts = gather_object([compute_figures(observed, self._reference, rank, ranks)])
        figures = {name: figure for part in parts for name, figure in part.items()}
        figures = {name: figures[name] for name in sorted(figures)}
        return {
            "classifier": self._classifier.id,
            "count": self.config.evaluate.count,
            **{name: figure.value for name, figure in figures.items()},
            **self._memory(discriminator),
            "intervals": {name: [figure.low, figure.high] for name, figure in figures.items()},
        }

    @property
    def floor(self) -> dict[str, float]:
        """The same figures of real images, as soon as something was measured."""
        return {name: figure.value for name, figure in self._reference.floor.items()} if self._reference else {}

    def _ready(self) -> bool:
        if self.works and self._reference is None:
            try:
                self._classifier, self._reference = on_main_process(self.accelerator, self._read)
            except InputError as error:  # every rank has it; a figure is no reason to lose a run
                self.works = False
                self.announce(f"the images are not evaluated: {error}")
            else:
                device = self.accelerator.device
                if device.type == "mps":  # has no double precision, without which the figures are wrong
                    device = torch.device("cpu")
                self._classifier.network.to(device)
                self._reference = self._reference.to(device)
        return self.works

    def _read(self) -> tuple[TrainedClassifier, Reference]:
        data = settled(self.config.data, self.images.provenance.source)
        classifier = classifier_for(data, self.announce, may_train=False)
        reference = reference_for(data, self.images, classifier, self.announce)
        floor = real_figures(reference, self.config.evaluate.count, self.images.stack)
        return classifier, replace(reference, floor=floor)

    def _observe(self, generator: nn.Module) -> Observed:
        """Generate this rank's share of the images and look at them; then everybody gets those of all.

        They are made in chunks of CHUNK, which the ranks take in turn. Which latents are in a chunk does not depend on
        the number of ranks, and all chunks are full: a matrix product of another number of rows has other bits.
        """
        assert self._classifier is not None
        count, dim = self.config.evaluate.count, self.config.model.latent_dim
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        each = -(-count // (CHUNK * ranks))  # chunks of a rank; what is too many is thrown away
        latents = sample_latents(CHUNK * each * ranks, dim, seed=0).view(each, ranks, CHUNK, dim)[:, rank]
        with torch.no_grad():
            # Copied one by one: kernels may be chosen by where in memory a chunk begins.
            pixels = [quantize(generator(chunk.to(self.accelerator.device, copy=True))) for chunk in latents]
        seen = [observe(self._classifier.network, chunk) for chunk in pixels]
        stack = seen[0].stack

        def everyones(mine: list[Tensor]) -> Tensor:
            gathered = self.accelerator.gather(torch.cat(mine)).unflatten(0, (ranks, each, CHUNK * stack))
            return gathered.transpose(0, 1).flatten(0, 2)[: count * stack]  # in the order of the latents

        features = everyones([chunk.features for chunk in seen])
        logits = everyones([chunk.logits for chunk in seen])
        return Observed(features, logits, everyones([chunk.pixels for chunk in seen]), stack)

    def _memory(self, discriminator: Discriminator) -> dict[str, float]:
        """Whether D knows the training images by heart.

        score/train: the probability that D takes a training image for more real than a held-out one, each drawn at
        random (the area under the ROC curve); score/held_out: the reverse. Both 0.5 if it knows only what is common.
        """
        assert self._reference is not None
        if self._reference.held_out is None:
            return {}
        train, held_out = (
            self._logits(discriminator, pixels[choose(len(pixels), SCORED, "scored", pixels.device)])
            for pixels in (self._reference.pixels, self._reference.held_out)
        )
        ahead = (train[:, None] - held_out[None, :]).sign().mean().item()
        return {"score/train": (1 + ahead) / 2, "score/held_out": (1 - ahead) / 2}

    def _logits(self, discriminator: Discriminator, pixels: UInt8[Tensor, "n c h w"]) -> Float[Tensor, " m"]:
        pixels = pixels[: len(pixels) // self.images.stack * self.images.stack]  # of few held-out images some are over
        chunks = stack_channels(pixels, self.images.stack).to(self.accelerator.device).split(CHUNK)
        with torch.no_grad():
            return torch.cat([discriminator(normalize(chunk)) for chunk in chunks])
