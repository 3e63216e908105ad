"""Evaluates the generator during training, on all ranks together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from gan_dist.config import Config, InputError
from gan_dist.data.images import ImageSet
from gan_dist.data.pixels import normalize, quantize, stack_channels
from gan_dist.data.sources import pin_source
from gan_dist.distributed.broadcast import broadcast_tensor
from gan_dist.distributed.device_wait import Gather
from gan_dist.distributed.main_process import on_main_process
from gan_dist.evaluation.classifier_file import TrainedClassifier
from gan_dist.evaluation.estimates import subset_indices
from gan_dist.evaluation.extractors import classifier_for
from gan_dist.evaluation.features import CHUNK, ImageFeatures, Reference, extract_features, single_thread
from gan_dist.evaluation.floor import real_figures
from gan_dist.evaluation.metrics import compute_figures
from gan_dist.evaluation.reference import reference_for
from gan_dist.gan.penalties import Discriminator
from gan_dist.seeding import sample_labels, sample_latents
from gan_dist.trainer.inception import InceptionEvaluator

SCORED = 1998  # real images of each kind that the discriminator rates; divisible by three, for stacks


class Found(NamedTuple):
    """What rank 0 reads for the evaluations."""

    classifier: TrainedClassifier
    reference: Reference
    """Without pixels."""
    scored_shape: tuple[int, ...] | None
    """Of the held-out images that the discriminator rates; None if there are none."""
    scored_labels: list[int] | None
    """Their classes."""


class Evaluator:
    """Computes the figures of a generator. Real images are read at the first evaluation.

    Args:
        config: of the run.
        accelerator: of the run.
        images: the training images, the same on every rank.
        announce: called on every rank with one line per fact that the user should know.
        gather: of all ranks; the result can be copied to the host.
    """

    def __init__(
        self,
        config: Config,
        accelerator: Accelerator,
        images: ImageSet,
        announce: Callable[[str], None],
        gather: Gather,
    ) -> None:
        self.config = config
        self.accelerator = accelerator
        self.images = images
        self.announce = announce
        self._gather = gather
        self.works = True
        """False once it is known that there is no classifier or no data for an evaluation."""
        self._classifier: TrainedClassifier | None = None
        self._reference: Reference | None = None
        self._inception = InceptionEvaluator(config.evaluate, accelerator, images, announce)
        self.logits: dict[str, np.ndarray] = {}
        """D's logits at the latest evaluation, (n,): of real training images, and of generated ones."""
        self._scored: Tensor | None = None
        """On rank 0, the held-out images that the discriminator rates."""

    def measure(self, generator: nn.Module, discriminator: Discriminator) -> dict[str, Any] | None:
        """Generate images and compute all figures, distributed over the ranks. A collective: every rank must reach it.

        In the exact mode the figures are bit-identical for any number of ranks and threads.

        Args:
            generator: in fp32.
            discriminator: D in fp32.

        Returns:
            classifier, inception (id of the weights, if there are FID and KID), count, the value of each figure, and
            intervals: figure -> [low, high]. The same on every rank. None if there can be no evaluation, which is
            announced once.
        """
        with single_thread() if self.config.train.exact_shards is not None else contextlib.nullcontext():
            return self._measure(generator, discriminator)

    def _measure(self, generator: nn.Module, discriminator: Discriminator) -> dict[str, Any] | None:
        if not self._ready():
            return None
        assert self._classifier is not None
        assert self._reference is not None
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        images = self._generate(generator)
        parts = gather_object([compute_figures(images, self._reference, rank, ranks)])
        figures = {name: figure for part in parts for name, figure in part.items()}
        if inception := self._inception.measure(images.pixels):
            figures |= inception.figures
        figures = {name: figures[name] for name in sorted(figures)}
        return {
            "classifier": self._classifier.id,
            **({"inception": inception.weights} if inception else {}),
            "count": self.config.evaluate.count,
            **{name: figure.value for name, figure in figures.items()},
            **self._memorization(discriminator, images),
            "intervals": {name: [figure.low, figure.high] for name, figure in figures.items()},
        }

    @property
    def floor(self) -> dict[str, float]:
        """The figures of real images, on rank 0; empty before the first evaluation."""
        if self._reference is None:
            return {}
        return {name: figure.value for name, figure in (self._reference.floor | self._inception.floor).items()}

    def _ready(self) -> bool:
        if self.works and self._reference is None:
            try:
                found = on_main_process(self.accelerator, self._read)
            except InputError as error:  # the same on every rank; the run continues without evaluations
                self.works = False
                self.announce(f"evaluations are off: {error}")
            else:
                self._classifier, reference = found.classifier, found.reference
                if found.scored_shape is not None:
                    labels = None if found.scored_labels is None else torch.tensor(found.scored_labels)
                    scored = self._share_scored(found.scored_shape)
                    reference = replace(reference, held_out_pixels=scored, held_out_labels=labels)
                device = self.accelerator.device
                if device.type == "mps":  # has no double precision, which the figures require
                    device = torch.device("cpu")
                self._classifier.network.to(device)
                channels, (_, _, height, width) = self._classifier.shape[0], self.images.images.shape
                pixels = self.images.images.view(-1, channels, height, width)
                self._reference = replace(reference, pixels=pixels).to(device)
        return self.works

    def _read(self) -> Found:
        """What the figures need, without pixels, which are not pickled."""
        data = pin_source(self.config.data, self.images.provenance.source)
        classifier = classifier_for(data, self.announce, may_train=False, train=self.images)
        reference = reference_for(data, self.images, classifier, self.announce)
        floor = real_figures(reference, self.config.evaluate.count, self.images.stack, self.config.model.conditional)
        shape, labels = None, None
        if (pixels := reference.held_out_pixels) is not None:
            self._inception.held_out = pixels
            scored = subset_indices(len(pixels), SCORED, "scored")
            self._scored = pixels[scored]
            shape = tuple(self._scored.shape)
            labels = None if reference.held_out_labels is None else reference.held_out_labels[scored].tolist()
        reference = replace(
            reference, floor=floor, pixels=reference.pixels[:0], held_out_pixels=None, held_out_labels=None
        )
        return Found(classifier, reference, shape, labels)

    def _share_scored(self, shape: tuple[int, ...]) -> UInt8[Tensor, "m c h w"]:
        """The held-out images that the discriminator rates, from rank 0."""
        scored = self._scored if self._scored is not None else torch.empty(shape, dtype=torch.uint8)
        if self.accelerator.num_processes > 1:
            broadcast_tensor(scored, shape, torch.uint8, self.accelerator, scored)
        return scored

    def _generate(self, generator: nn.Module) -> ImageFeatures:
        """Generate this rank's share of the images and compute their features; then gather those of all ranks.

        Images are generated in chunks of CHUNK, assigned to the ranks in turn. The latents of a chunk do not depend on
        the number of ranks, and all chunks are full: a matrix product with another number of rows has other bits.
        """
        assert self._classifier is not None
        count, dim = self.config.evaluate.count, self.config.model.latent_dim
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        each = -(-count // (CHUNK * ranks))  # chunks per rank; surplus images are discarded
        total = CHUNK * each * ranks
        latents = sample_latents(total, dim, seed=0).view(each, ranks, CHUNK, dim)[:, rank]
        labels = self._labels(total)
        mine: list[Tensor | None] = [None] * each
        if labels is not None:
            mine = list(labels.view(each, ranks, CHUNK)[:, rank])
        with torch.no_grad():
            # Copied one by one: the choice of kernel may depend on the alignment of a chunk in memory.
            pixels = [quantize(generator(*map(self._to_device, inputs))) for inputs in zip(latents, mine, strict=True)]
        labelled = self._classifier.task == "classes"
        chunks = [extract_features(self._classifier.network, chunk, labelled) for chunk in pixels]
        stack = chunks[0].stack

        def gather(local: list[Tensor]) -> Tensor:
            gathered = self._gather(torch.cat(local)).unflatten(0, (ranks, each, CHUNK * stack))
            return gathered.transpose(0, 1).flatten(0, 2)[: count * stack]  # in the order of the latents

        features = gather([chunk.features for chunk in chunks])
        logits = gather([chunk.logits for chunk in chunks])
        asked = None if labels is None else labels[:count].to(features.device)
        return ImageFeatures(features, logits, gather([chunk.pixels for chunk in chunks]), stack, asked)

    def _labels(self, count: int) -> Int64[Tensor, " count"] | None:
        """The classes that the generator is asked for; None if it is unconditional."""
        counts = self.images.class_counts
        if not self.config.model.conditional or counts is None:
            return None
        return sample_labels(count, counts, seed=0)

    def _to_device(self, tensor: Tensor | None) -> Tensor | None:
        """A copy of an input of a network."""
        return None if tensor is None else tensor.to(self.accelerator.device, copy=True)

    def _memorization(self, discriminator: Discriminator, images: ImageFeatures) -> dict[str, float]:
        """Whether the discriminator memorizes the training images. Also stores its logits.

        score/train: the probability that D rates a random training image as more real than a random held-out one (the
        area under the ROC curve); score/held_out: the reverse. Both are 0.5 without memorization.
        """
        assert self._reference is not None
        pixels, labels = self.images.images, self.images.labels
        seen = subset_indices(len(pixels), SCORED, "scored", pixels.device)
        train = self._logits(discriminator, pixels[seen], None if labels is None else labels[seen])
        asked = None if images.labels is None else images.labels[:SCORED]
        generated = self._logits(discriminator, images.pixels[:SCORED], asked)
        self.logits = {"real": train.cpu().numpy(), "generated": generated.cpu().numpy()}
        if self._reference.held_out_pixels is None:
            return {}
        held_out = self._logits(discriminator, self._reference.held_out_pixels, self._reference.held_out_labels)
        ahead = (train[:, None] - held_out[None, :]).sign().mean().item()
        return {"score/train": (1 + ahead) / 2, "score/held_out": (1 - ahead) / 2}

    def _logits(
        self, discriminator: Discriminator, pixels: UInt8[Tensor, "n c h w"], labels: Int64[Tensor, " n"] | None
    ) -> Float[Tensor, " m"]:
        pixels = pixels[: len(pixels) // self.images.stack * self.images.stack]  # a remainder makes no whole stack
        chunks = stack_channels(pixels, self.images.stack).to(self.accelerator.device).split(CHUNK)
        of_chunks: Sequence[Tensor | None] = [None] * len(chunks)
        if labels is not None and self.config.model.conditional:
            of_chunks = labels.to(self.accelerator.device).split(CHUNK)
        with torch.no_grad():
            return torch.cat(
                [discriminator(normalize(chunk), known) for chunk, known in zip(chunks, of_chunks, strict=True)]
            )
