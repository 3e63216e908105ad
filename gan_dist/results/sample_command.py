"""`gan-dist sample`. Imports no torch, so --help is answered at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from gan_dist.config import SEEDS, InputError
from gan_dist.config.arguments import read_arguments
from gan_dist.results.arguments import (
    PROCESSES,
    SAMPLES,
    THRESHOLDS,
    OutputArguments,
    RunArgument,
    WeightsArgument,
    check_not_launched,
    check_one_of_labels,
    check_processes,
)


@dataclass(frozen=True)
class SampleArguments(OutputArguments, WeightsArgument, RunArgument):
    output: Path = Path("samples.png")
    """What to write. NAME.png: a grid of at most 10,000 images. NAME.npz: an array "images" of uint8 (n, C, H, W) and,
    of a conditional run, "labels" of int64 (n,). A name without a suffix: a folder with one .png file an image."""
    count: Annotated[int, SAMPLES] = 64
    """Number of images."""
    label: str | None = None
    """Name or number of the class of all images, of a conditional run."""
    labels: str | None = None
    """Names or numbers of classes, separated by commas. Each gets an equal share of the images, and a row of the grid.
    None: as label, else drawn with the frequencies of the training images."""
    seed: Annotated[int, SEEDS] = 0
    """Random seed of the latents."""
    truncation: Annotated[float, THRESHOLDS] | None = None
    """Draw latents from the normal distribution truncated to plus and minus this threshold: the lower, the less varied
    the images, and the more of them look good. None: not truncated."""
    device: str = "auto"
    """Where the generator runs: cpu; a kind of accelerator, such as cuda, whose devices the processes use in turn; or
    one of them, such as cuda:1. auto: the accelerator if there is one, else cpu."""
    processes: Annotated[int, PROCESSES] = 1
    """Number of processes that generate. On a CPU each uses one core, and the images are the same for any number."""


def sample(arguments: Sequence[str]) -> int:
    """Generate images with a run's generator."""
    parsed = read_arguments(
        SampleArguments,
        arguments,
        prog="gan-dist sample",
        description="Generate images with a run's generator.",
    )
    check_one_of_labels(parsed.label, parsed.labels)
    check_not_launched(", and pass --processes N")
    check_processes(parsed.processes)
    from gan_dist.results.classes import label_sequence
    from gan_dist.results.generator import load_generator
    from gan_dist.results.output import check_output
    from gan_dist.results.sample import Sampler
    from gan_dist.results.sample_formats import SAMPLE_FORMATS, SampleJob
    from gan_dist.results.sample_processes import find_devices

    if parsed.output.suffix not in SAMPLE_FORMATS:
        named = [f"{suffix} ({known.description})" for suffix, known in SAMPLE_FORMATS.items() if suffix]
        folder = SAMPLE_FORMATS[""].description
        raise InputError(f"output={parsed.output} must end in {' or '.join(named)}, or have no suffix ({folder})")
    chosen = SAMPLE_FORMATS[parsed.output.suffix]
    chosen.counts.check("count", parsed.count)
    check_output(parsed.output, parsed.force, folder=not parsed.output.suffix)
    devices = find_devices(parsed.device)
    field, asked = "labels", None if parsed.labels is None else parsed.labels.split(",")
    if parsed.label is not None:
        field, asked = "label", [parsed.label]
    generator = load_generator(parsed.run, parsed.weights)
    labels = label_sequence(generator, parsed.count, parsed.seed, asked, field)
    sampler = Sampler(generator, parsed.count, parsed.seed, labels, parsed.truncation)
    chosen.write(SampleJob(sampler, parsed.processes, devices, rows=parsed.labels is not None), parsed.output)
    print(f"{parsed.count:,} images in {parsed.output}")
    return 0
