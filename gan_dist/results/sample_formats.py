"""The formats of `gan-dist sample`: a grid, arrays, and a folder of pictures."""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from gan_dist.config import InputError, Range
from gan_dist.outputs.pictures import BACKGROUND, save_picture
from gan_dist.results.arguments import SAMPLES
from gan_dist.results.output import output_file, output_folder
from gan_dist.results.sample import Sampler, collect
from gan_dist.results.sample_processes import Finish, Result, as_array, generate_ahead

COMPRESSION = 1  # of .npz: the fastest; 6, the default of zlib, takes several times as long for a few percent
MAX_NAME = 60  # characters of a class in the name of a file
PICTURE = re.compile(r"\d{6,}(-\d+(-[\w-]+)?)?\.png")  # the names of `picture_name`


@dataclass(frozen=True)
class SampleJob:
    """What is generated, and where."""

    sampler: Sampler
    """On the CPU."""
    processes: int = 1
    devices: Sequence[torch.device] = (torch.device("cpu"),)
    rows: bool = False
    """Whether each run of equal labels begins a row of the grid."""

    def generate(self, finish: Finish[Result]) -> Iterator[Result]:
        """As `generate_ahead`. On a terminal, a bar shows the progress."""
        results = generate_ahead(self.sampler, finish, self.processes, self.devices)
        console = Console(stderr=True)
        hidden = not console.is_terminal
        yield from track(results, "images", self.sampler.chunks, console=console, transient=True, disable=hidden)


class SampleFormat(NamedTuple):
    """How images are written."""

    write: Callable[[SampleJob, Path], None]
    """(job, output). Raises InputError; then nothing was written."""
    description: str
    counts: Range
    """Numbers of images."""


def write_grid(job: SampleJob, output: Path) -> None:
    """Write a grid of all images."""
    check_channels(job.sampler.image_shape[0])
    pixels = collect(job.sampler, lambda _: map(torch.from_numpy, job.generate(as_array)))
    with output_file(output) as beside:
        save_grid(pixels, beside, job.sampler.labels(0, job.sampler.count) if job.rows else None)


def save_grid(pixels: UInt8[Tensor, "n c h w"], file: Path, rows: Int64[Tensor, " n"] | None = None) -> None:
    """Save images as a grid, which is square or has a row for each run of equal numbers in `rows`."""
    columns = math.ceil(math.sqrt(len(pixels)))
    if rows is not None:
        pixels, columns = _fill_rows(pixels, rows)
    save_picture(pixels, columns, file)


def write_arrays(job: SampleJob, output: Path) -> None:
    """Write arrays as `numpy.savez_compressed` does, part by part: "images" of uint8 (n, C, H, W) and, of a conditional
    generator, "labels" of int64 (n,)."""
    sampler = job.sampler
    pixels = job.generate(as_array)
    with output_file(output) as beside, zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED, True, COMPRESSION) as file:
        _write_array(file, "images", (sampler.count, *sampler.image_shape), np.dtype(np.uint8), pixels)
        if sampler.labels(0, 1) is not None:
            labels = (sampler.labels(*sampler.span(chunk)) for chunk in range(sampler.chunks))
            parts = (part.numpy() for part in labels if part is not None)
            _write_array(file, "labels", (sampler.count,), np.dtype(np.int64), parts)


def _write_array(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype, parts: Iterable[np.ndarray]
) -> None:
    """Write an array of a .npz file, given as consecutive parts of its first dimension."""
    # Without force_zip64, a member of unknown size can have at most 2 GB.
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(member, header)
        for part in parts:
            assert part.dtype == dtype
            member.write(np.ascontiguousarray(part).data.cast("B"))


def write_pictures(job: SampleJob, output: Path) -> None:
    """Write a folder of .png files, one an image, named by index and class."""
    check_channels(job.sampler.image_shape[0])
    with output_folder(output, lambda name: PICTURE.fullmatch(name) is not None) as folder:
        for _ in job.generate(SavePictures(folder)):
            pass


@dataclass(frozen=True)
class SavePictures:
    """Saves each image of a chunk in a folder."""

    folder: Path

    def __call__(self, sampler: Sampler, chunk: int, pixels: UInt8[Tensor, "n c h w"]) -> None:
        start, stop = sampler.span(chunk)
        labels, names = sampler.labels(start, stop), sampler.generator.classes
        for place, image in enumerate(pixels.permute(0, 2, 3, 1).contiguous().numpy()):
            label = None if labels is None else int(labels[place])
            name = picture_name(start + place, label, names)  # type: ignore[arg-type]
            Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(self.folder / name)


def picture_name(index: int, label: int | None, classes: Sequence[str] | None) -> str:
    """INDEX.png, or INDEX-LABEL-CLASS.png, without the CLASS if it is the number of the label.

    Characters of a class other than letters, digits, _ and - are replaced: a name comes from the data, and could
    otherwise be that of a file elsewhere.
    """
    if label is None or classes is None:
        return f"{index:06d}.png"
    name = re.sub(r"[^\w-]", "_", classes[label])[:MAX_NAME]
    return f"{index:06d}-{label}.png" if name == str(label) else f"{index:06d}-{label}-{name}.png"


def check_channels(channels: int) -> None:
    """Check that images can be shown.

    Raises:
        InputError: they have neither one channel nor three.
    """
    if channels not in (1, 3):
        raise InputError(f"images of {channels} channels can't be written as pictures; use an output that ends in .npz")


def _fill_rows(pixels: UInt8[Tensor, "n c h w"], labels: Int64[Tensor, " n"]) -> tuple[UInt8[Tensor, "m c h w"], int]:
    """The images with empty ones at the end of each run of equal labels, so that all are as long as the longest, and
    the length."""
    lengths = labels.unique_consecutive(return_counts=True)[1].tolist()
    columns, empty = max(lengths), torch.full_like(pixels[:1], BACKGROUND)
    rows = [torch.cat([row, empty.expand(columns - len(row), -1, -1, -1)]) for row in pixels.split(lengths)]
    return torch.cat(rows), columns


# Suffix of the output -> format.
SAMPLE_FORMATS = {
    ".png": SampleFormat(write_grid, "a grid", Range(1, 10_000, "a larger grid is unreadable; use .npz")),
    ".npz": SampleFormat(write_arrays, "arrays", SAMPLES),
    "": SampleFormat(
        write_pictures, "a folder of .png files", Range(1, 1_000_000, "a larger folder is slow; use .npz")
    ),
}
