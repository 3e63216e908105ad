"""The frames of a walk: images of latents, or of classes, that change gradually and return to where they began."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.func import functional_call

from gan_dist.data.batch import Labels
from gan_dist.data.pixels import quantize
from gan_dist.models.labels import LatentsWithClass
from gan_dist.outputs.pictures import GAP, draw_grid
from gan_dist.results.animation import Frame, enlarge
from gan_dist.results.truncation import truncate
from gan_dist.seeding import sample_latents

HOLD = 0.4  # part of a leg of a walk through classes in which the class does not change


@dataclass(frozen=True)
class Place:
    """Where a walk is: between two of its stops."""

    before: int
    after: int
    part: float
    """0 at the stop before, below 1."""

    @property
    def eased(self) -> float:
        """`part`, with a speed of 0 at both stops."""
        return self.part * self.part * (3 - 2 * self.part)


def places(stops: int, frames: int) -> Iterator[Place]:
    """A walk through all stops and back to the first: where it is at each frame, in equal steps.

    The frame after the last would be the first again.
    """
    for frame in range(frames):
        stop, rest = divmod(frame * stops, frames)
        yield Place(stop, (stop + 1) % stops, rest / frames)


def walk_latents(
    generator: nn.Module,
    labels: Labels | None,
    cells: int,
    stops: int,
    frames: int,
    seed: int,
    truncation: float | None,
) -> Iterator[UInt8[Tensor, "cells c h w"]]:
    """Walk through random latents, each cell through its own.

    Args:
        generator: from `load_generator`.
        labels: the class of each cell; None if the generator is unconditional.
        cells: number of images in a frame. Those of the first frame are the first images of `gan-dist sample`.
        stops: number of latents of each cell.
        frames: number of frames.
        seed: random seed of the latents.
        truncation: threshold of `truncate`; None: normal latents.
    """
    latents = sample_latents(stops * cells, _latent_dim(generator), seed).view(stops, cells, -1)
    for place in places(stops, frames):
        # Truncated after the interpolation, which is that of normal latents.
        between = spherical(latents[place.before], latents[place.after], place.eased)
        yield _pixels(generator, between, truncation, labels)


def walk_classes(
    generator: nn.Module, classes: Int64[Tensor, " stops"], cells: int, frames: int, seed: int, truncation: float | None
) -> Iterator[UInt8[Tensor, "cells c h w"]]:
    """Walk through classes, each cell with a latent of its own that does not change. For the other arguments, see
    `walk_latents`.

    Between two classes their embeddings are interpolated. A generator without `LatentsWithClass`, which has no such
    embeddings, changes from one to the next.

    Args:
        classes: their numbers, in order.
    """
    latents = sample_latents(cells, _latent_dim(generator), seed)
    mixed = embedding_name(generator)
    for place in places(len(classes), frames):
        part = max(0.0, (place.part - HOLD) / (1 - HOLD))
        between = Place(int(classes[place.before]), int(classes[place.after]), part)
        if mixed is None:
            yield _pixels(generator, latents, truncation, torch.full((cells,), _nearest(between)))
        else:
            yield _pixels(_mixing(generator, mixed, between), latents, truncation, torch.arange(cells))


def spherical(a: Float[Tensor, "n latent"], b: Float[Tensor, "n latent"], part: float) -> Float[Tensor, "n latent"]:
    """Interpolate along great circles (Shoemake 1985; for latents White 2016, arXiv:1609.04468). Interpolated linearly,
    normal latents would be shorter half-way than any that the generator was trained with."""
    cosine = (a * b).sum(1, keepdim=True) / (a.norm(dim=1, keepdim=True) * b.norm(dim=1, keepdim=True))
    angle = cosine.clamp(-1, 1).acos()
    sine = angle.sin()
    on_circle = (((1 - part) * angle).sin() * a + (part * angle).sin() * b) / sine
    return torch.where(sine < 1e-4, torch.lerp(a, b, part), on_circle)  # one direction, or opposite ones


def embedding_name(generator: nn.Module) -> str | None:
    """The name of the parameter with the embeddings of the classes; None if there is no such one."""
    for name, module in generator.named_modules():
        if isinstance(module, LatentsWithClass) and module.embedding is not None:
            return f"{name}.embedding.weight"
    return None


def draw(pixels: Iterator[UInt8[Tensor, "cells c h w"]], columns: int, scale: int, seconds: float) -> Iterator[Frame]:
    """The frames of a walk as pictures: each a grid, enlarged."""
    for images in pixels:
        picture = draw_grid(images, columns)
        yield Frame(enlarge(picture.convert("L") if images.shape[1] == 1 else picture, scale), seconds)


def _pixels(
    generator: Callable[[Tensor, Labels | None], Tensor],
    latents: Tensor,
    truncation: float | None,
    labels: Labels | None,
) -> UInt8[Tensor, "cells c h w"]:
    with torch.no_grad():
        return quantize(generator(latents if truncation is None else truncate(latents, truncation), labels))


def _nearest(place: Place) -> int:
    return place.before if place.part < 0.5 else place.after


def _mixing(generator: nn.Module, name: str, place: Place) -> Callable[[Tensor, Labels | None], Tensor]:
    """The generator with the same mix of two classes as the embedding of every label that it is called with."""
    weight = generator.get_parameter(name)
    mixed = torch.lerp(weight[place.before], weight[place.after], place.eased)
    return lambda latents, labels: functional_call(generator, {name: mixed.expand(len(latents), -1)}, (latents, labels))


def _latent_dim(generator: nn.Module) -> int:
    assert isinstance(generator.latent_dim, int)
    return generator.latent_dim


def grid_size(image_shape: tuple[int, int, int], columns: int, rows: int) -> tuple[int, int]:
    """Width and height of a frame before it is enlarged."""
    _, height, width = image_shape
    return columns * (width + GAP) + GAP, rows * (height + GAP) + GAP
