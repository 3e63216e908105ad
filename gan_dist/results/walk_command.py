"""`gan-dist walk`. Imports no torch, so --help is answered at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from gan_dist.config import SEEDS, InputError, Range
from gan_dist.config.arguments import read_arguments
from gan_dist.results.arguments import (
    THRESHOLDS,
    OutputArguments,
    RunArgument,
    WeightsArgument,
    check_not_launched,
    check_one_of_labels,
)

FRAMES = Range(2, 10_000, "a longer animation is too large")
STOPS = Range(2, 1_000, "a longer animation is too large")
SIDES = Range(1, 64, "more images are too small")
SCALES = Range(1, 64, "larger pixels are not needed")
SPEEDS = Range(1, 50, "browsers do not show more")
MAX_CLASSES = 24  # that are visited if none are named
LEG_FRAMES = 20  # between two stops
FPS = 20
SECONDS = 8  # about which the epochs of a run take
MAX_EPOCHS = 160  # that are shown
OF_WALKS = ("weights", "columns", "rows", "latents", "label", "labels", "seed", "truncation")


@dataclass(frozen=True)
class WalkArguments(OutputArguments, WeightsArgument, RunArgument):
    output: Path = Path("walk.gif")
    """Animation to write: .gif, .webp or, with the extra video, .mp4."""
    over_time: bool = False
    """Show the sample grids of the run, one an epoch, instead of a walk."""
    frames: Annotated[int, FRAMES] | None = None
    """Number of frames. None: 20 for each latent or class. With --over-time the largest number of epochs that are
    shown, more of the early ones. None: 160."""
    fps: Annotated[int, SPEEDS] | None = None
    """Frames per second. None: 20; with --over-time so many that all epochs take about 8 seconds."""
    columns: Annotated[int, SIDES] = 8
    """Images beside each other, each with its own latents."""
    rows: Annotated[int, SIDES] = 4
    """Images below each other."""
    scale: Annotated[int, SCALES] | None = None
    """Factor by which the images are enlarged. None: as large as fits into a width of 600 pixels."""
    latents: Annotated[int, STOPS] | None = None
    """Number of latents that each image visits, in a walk through latents. None: 6. Of a conditional run, each image
    keeps its class: that of label, else one drawn with the frequencies of the training images."""
    label: str | None = None
    """Name or number of a class, of a conditional run: walk through latents, and show this class."""
    labels: str | None = None
    """Names or numbers of classes, separated by commas, of a conditional run: walk from class to class, each image with
    one latent. None: all classes, at most 24, unless label or latents is given."""
    seed: Annotated[int, SEEDS] = 0
    """Random seed of the latents."""
    truncation: Annotated[float, THRESHOLDS] | None = None
    """As in `gan-dist sample`."""


def walk(arguments: Sequence[str]) -> int:
    """Write an animation of a run's generator, or of its sample grids."""
    parsed = read_arguments(
        WalkArguments,
        arguments,
        prog="gan-dist walk",
        description=(
            "Write an animation that repeats: a walk through latents, or from class to class; with --over-time, the "
            "samples of the same latents after each epoch."
        ),
    )
    check_not_launched()
    from gan_dist.results.animation import check_format
    from gan_dist.results.output import check_output

    check_format(parsed.output)
    check_output(parsed.output, parsed.force)
    print(_over_time(parsed) if parsed.over_time else _walk(parsed))
    return 0


def _over_time(parsed: WalkArguments) -> str:
    for name in OF_WALKS:
        if getattr(parsed, name) != getattr(WalkArguments, name):
            raise InputError(f"{name} does not apply to over-time, which shows pictures of the run; omit it")
    from gan_dist.results.animation import check_size, find_scale, write_animation
    from gan_dist.results.over_time import caption_height, draw_over_time, epochs_over_time, readable_grids

    folder, epochs = epochs_over_time(parsed.run, parsed.frames or MAX_EPOCHS)
    grids = readable_grids(folder, epochs, print)
    fps = parsed.fps or min(FPS, max(2, len(grids) // SECONDS))
    width, height = grids[0][1].size
    scale = find_scale(width, parsed.scale)
    check_size(len(grids), scale * width, scale * height + caption_height(scale * width))
    write_animation(draw_over_time(grids, scale, 1 / fps), parsed.output, fps)
    return f"{len(grids)} epochs, {grids[0][0]} to {grids[-1][0]}, in {_described(parsed.output)}"


def _walk(parsed: WalkArguments) -> str:
    check_one_of_labels(parsed.label, parsed.labels)
    if parsed.labels is not None and parsed.latents is not None:
        raise InputError("labels and latents exclude each other: with labels, the latents do not change; omit one")
    from gan_dist.results.animation import check_size, find_scale, write_animation
    from gan_dist.results.classes import choose_labels, find_classes
    from gan_dist.results.generator import load_generator
    from gan_dist.results.sample_formats import check_channels
    from gan_dist.results.walk import draw, grid_size, walk_classes, walk_latents

    generator = load_generator(parsed.run, parsed.weights)
    shape: tuple[int, int, int] = generator.shape  # type: ignore[assignment]
    check_channels(shape[0])
    asked = None if parsed.labels is None else parsed.labels.split(",")
    names = [str(name) for name in generator.classes or ()][:MAX_CLASSES]  # type: ignore[union-attr]
    if parsed.label is parsed.labels is parsed.latents is None and len(names) > 1:
        asked = names
    classes = None if asked is None else find_classes(generator, asked, "labels")
    if classes is not None and len(classes) < 2:
        raise InputError(f"labels={parsed.labels} is one class; use --label for a walk that shows it, or name more")
    stops = len(classes) if classes is not None else parsed.latents or 6
    frames = LEG_FRAMES * stops if parsed.frames is None else parsed.frames
    if frames < stops:
        raise InputError(f"frames={frames} is too low for {stops} latents or classes; use {stops} or more")
    size = grid_size(shape, parsed.columns, parsed.rows)
    scale, cells, fps = find_scale(size[0], parsed.scale), parsed.columns * parsed.rows, parsed.fps or FPS
    check_size(frames, scale * size[0], scale * size[1])
    if classes is not None:
        pixels = walk_classes(generator, classes, cells, frames, parsed.seed, parsed.truncation)
    else:
        labels = choose_labels(generator, cells, parsed.seed, None if parsed.label is None else [parsed.label], "label")
        pixels = walk_latents(generator, labels, cells, stops, frames, parsed.seed, parsed.truncation)
    write_animation(draw(pixels, parsed.columns, scale, 1 / fps), parsed.output, fps)
    return f"{frames} frames, {frames / fps:.1f} s, in {_described(parsed.output)}"


def _described(output: Path) -> str:
    return f"{output}, {output.stat().st_size / 1e6:.2f} MB"
