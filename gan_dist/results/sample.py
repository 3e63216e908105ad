"""Images of a generator, as functions of the seed and their index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from gan_dist.config import InputError
from gan_dist.data.batch import Labels
from gan_dist.data.pixels import quantize
from gan_dist.evaluation.features import CHUNK
from gan_dist.memory import available_memory
from gan_dist.results.truncation import truncate
from gan_dist.seeding import sample_latents

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Sampler:
    """Generates the images of a command in chunks.

    Chunks bound the memory. They are as in an evaluation, so that the bits are the same, and each is a function of its
    number, so that several processes can generate them.
    """

    generator: nn.Module
    """From `load_generator`, on `device`."""
    count: int
    """Number of images."""
    seed: int
    """Random seed of the latents."""
    labels: Callable[[int, int], Labels | None] = lambda start, stop: None
    """(start, stop) -> the labels of these images, such as `LabelSequence`."""
    truncation: float | None = None
    """Threshold of `truncate`; None: normal latents."""
    device: torch.device = CPU

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return -(-self.count // CHUNK)

    @property
    def latent_dim(self) -> int:
        assert isinstance(self.generator.latent_dim, int)
        return self.generator.latent_dim

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return tuple(self.generator.shape)  # type: ignore[arg-type]

    def to(self, device: torch.device) -> Sampler:
        """A copy with the generator, which is moved, on another device."""
        return replace(self, generator=self.generator.to(device), device=device)

    def span(self, chunk: int) -> tuple[int, int]:
        """The indices of the images in a chunk: the first, and the one after the last."""
        return chunk * CHUNK, min((chunk + 1) * CHUNK, self.count)

    @torch.no_grad()
    def images(self, chunk: int) -> Float[Tensor, "n c h w"]:
        """The images of a chunk in [-1, 1], on the device."""
        start, stop = self.span(chunk)
        # Drawn on the CPU: other devices have other random numbers.
        latents = sample_latents(stop - start, self.latent_dim, self.seed, start=start)
        if self.truncation is not None:
            latents = truncate(latents, self.truncation)
        labels = self.labels(start, stop)
        images: Tensor = self.generator(latents.to(self.device), None if labels is None else labels.to(self.device))
        return images

    def pixels(self, chunk: int) -> UInt8[Tensor, "n c h w"]:
        """The images of a chunk, rounded to 8 bits, on the CPU."""
        return quantize(self.images(chunk)).cpu()


def generate_images(
    generator: nn.Module, count: int, seed: int, labels: Int64[Tensor, " count"] | None = None
) -> Float[Tensor, "count c h w"]:
    """Generate images in [-1, 1]. The same arguments give the same images.

    Args:
        generator: from `load_generator`.
        count: number of images.
        seed: random seed of the latents.
        labels: of a conditional generator, from `choose_labels`.
    """
    sampler = _sampler(generator, count, seed, labels)
    return torch.cat([sampler.images(chunk) for chunk in range(sampler.chunks)])


def generate_pixels(
    generator: nn.Module, count: int, seed: int, labels: Int64[Tensor, " count"] | None = None
) -> UInt8[Tensor, "count c h w"]:
    """The images of `generate_images`, rounded to 8 bits chunk by chunk, which takes a quarter of the memory.

    Raises:
        InputError: there is not enough memory.
    """
    return collect(_sampler(generator, count, seed, labels), lambda sampler: map(sampler.pixels, range(sampler.chunks)))


def collect(
    sampler: Sampler, generate: Callable[[Sampler], Iterator[UInt8[Tensor, "n c h w"]]]
) -> UInt8[Tensor, "count c h w"]:
    """All images of a sampler in one tensor.

    Args:
        sampler: generates them.
        generate: returns the pixels of its chunks.

    Raises:
        InputError: there is not enough memory.
    """
    channels, height, width = sampler.image_shape
    # Concatenating the chunks needs the pixels twice.
    needed, available = 2 * sampler.count * channels * height * width, available_memory()
    if available is not None and needed > available:
        raise InputError(
            f"count={sampler.count} is not supported: these images take {needed / 1e9:,.1f} GB of memory, and "
            f"{available / 1e9:,.1f} GB are available; use a lower count, several times with different --seed"
        )
    return torch.cat(list(generate(sampler)))


def _sampler(generator: nn.Module, count: int, seed: int, labels: Int64[Tensor, " count"] | None) -> Sampler:
    return Sampler(generator, count, seed, lambda start, stop: None if labels is None else labels[start:stop])
