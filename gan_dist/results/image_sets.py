"""The two sets of images of an evaluation: those that are judged, and the real ones they are compared with."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from jaxtyping import Int64, UInt8
from torch import Tensor, nn

from gan_dist.config import EVALUATED, Config, DataConfig, DataSource, InputError, Weights
from gan_dist.data.images import ImageSet
from gan_dist.data.pixels import quantize
from gan_dist.data.sources import load_images, pin_source
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_config, read_optional_json
from gan_dist.results.classes import choose_labels
from gan_dist.results.generator import generator_file, is_generator_file, read_generator
from gan_dist.results.sample import generate_images

Shape = tuple[int, int, int]  # (C, H, W) of an image
ARRAYS = (".npz", ".npy")


def holds_images(path: Path) -> bool:
    """Whether a path is that of images: an array, a .zip file, or a folder that is not a run. It may not exist."""
    if is_generator_file(path) or RunFolder(path).holds_a_run():
        return False
    return path.suffix.lower() in (*ARRAYS, ".zip") or (path.is_dir() and not RunFolder(path).generator.exists())


@dataclass(frozen=True)
class RealImages:
    """The real images of an evaluation."""

    config: DataConfig
    """From which the held-out images are loaded, too."""
    train: ImageSet
    """The images that are compared with."""


@dataclass(frozen=True)
class JudgedImages:
    """The images that an evaluation judges."""

    path: Path
    """Of the run, of its generator's file, or of the images."""
    pixels: UInt8[Tensor, "n c h w"]
    result: Path
    """File in which the figures are written."""
    seed: int | None = None
    """Of the latents; None if the images were given, as the next two fields."""
    generator: Path | None = None
    step: int | None = None
    labels: Int64[Tensor, " n"] | None = None
    """The classes that a conditional generator was asked for."""


@dataclass(frozen=True)
class Run:
    """A run, or the file of one of its generators."""

    path: Path
    file: Path
    """Of the generator that is used."""
    generator: nn.Module
    step: int
    config: Config

    @classmethod
    def read(cls, path: Path, weights: Weights = "average") -> Run:
        """Read the generator and the configuration.

        Args:
            path: of the run's folder; or of a .safetensors file, whose metadata have the configuration.
            weights: as in `load_generator`.

        Raises:
            InputError: they are missing or damaged.
        """
        if path.is_file() and not is_generator_file(path):
            raise _unknown(path)
        used = generator_file(path, weights)
        generator, config, step = read_generator(used)
        if not is_generator_file(path):
            config = read_config(RunFolder(path).config)  # a resume may have changed the location of the data
        return cls(path, used, generator, step, config)

    @property
    def shape(self) -> Shape:
        """Of the images that it generates."""
        channels, height, width = cast(Shape, self.generator.shape)
        return channels, height, width

    @property
    def result(self) -> Path:
        """File in which the figures are written."""
        if is_generator_file(self.path):
            return self.path.with_name(f"{self.path.stem}-evaluation.json")
        return RunFolder(self.path).evaluation

    def generate(self, count: int, seed: int) -> JudgedImages:
        """Generate the images that are judged."""
        labels = choose_labels(self.generator, count, seed)
        pixels = quantize(generate_images(self.generator, count, seed, labels))
        return JudgedImages(self.path, pixels, self.result, seed, self.file, self.step, labels)


def run_config(path: Path) -> Config:
    """The configuration of a run, which may not have a generator yet.

    Args:
        path: of the run's folder; or of a .safetensors file, whose metadata have the configuration.

    Raises:
        InputError: it is missing or damaged.
    """
    if is_generator_file(path):
        return read_generator(path)[1]
    folder = RunFolder(path)
    if not folder.holds_a_run():
        raise _unknown(path)
    return read_config(folder.config)


def _unknown(path: Path) -> InputError:
    return InputError(
        f"{path} is neither a run folder, which holds {RunFolder(path).config.name}, nor a .safetensors file, nor a "
        "folder, .zip or .npz file of images; give one of these"
    )


def real_images_of_run(
    path: Path, data: DataConfig, announce: Callable[[str], None], root: Path | None, source: DataSource | None
) -> RealImages:
    """The training images of a run.

    Args:
        path: of the run, or of a .safetensors file.
        data: of its configuration.
        announce: called with one line if they are not those that it was trained on.
        root, source: their location, if it differs from the run's.

    Raises:
        InputError: they can't be read.
    """
    folder = RunFolder(path.parent if is_generator_file(path) else path)
    trained_on = _provenance(folder.environment, announce)
    data = _located(data, trained_on.get("source"), root, source)
    train = load_images(data, announce)
    if train.provenance.sha256 != trained_on.get("sha256", train.provenance.sha256):
        announce(f"{path} was trained on other images than those of {train.provenance.file}, which are used here")
    return RealImages(data, train)


@dataclass(frozen=True)
class ImageFiles:
    """A folder or .zip file of pictures, or a .npz or .npy file of pixels."""

    path: Path
    like: DataConfig
    """Size and background of the images."""

    def judged(self, shape: Shape, of: Path, announce: Callable[[str], None]) -> JudgedImages:
        """All images as those that are judged. Folders of classes and of splits have no meaning.

        Args:
            shape: of the real images.
            of: their path, for messages.
            announce: called with one line per fact that the user may not expect.

        Raises:
            InputError: there are too few or too many, or they are of another size or can't be read.
        """
        images = self._read(shape, of, "none", announce).train
        pixels = _both_splits(images)
        if not EVALUATED.lowest <= len(pixels) <= EVALUATED.highest:
            raise InputError(f"{self.path} holds {len(pixels):,} usable images; an evaluation needs {EVALUATED}")
        absolute = Path(os.path.abspath(self.path))
        name = absolute.name if absolute.is_dir() else absolute.stem
        beside = absolute.parent if self.path.name in ("", "..") else self.path.parent  # "." has no name
        return JudgedImages(self.path, pixels, beside / f"{name}-evaluation.json")

    def real(self, shape: Shape | None, of: Path | None, announce: Callable[[str], None]) -> RealImages:
        """The images as real ones, with their classes and splits.

        Args:
            shape: of the generated images; None: as in the files.
            of: their path, for messages.
            announce: as in `judged`.

        Raises:
            InputError: they are of another size, or can't be read.
        """
        return self._read(shape, of, "auto", announce)

    def _read(
        self, shape: Shape | None, of: Path | None, labels: Literal["auto", "none"], announce: Callable[[str], None]
    ) -> RealImages:
        name = "arrays" if self.path.suffix.lower() in ARRAYS else "folder"
        config = DataConfig(name, self.path, size=self.like.size, background=self.like.background, labels=labels)
        with _named_as_arguments():
            images = load_images(config, announce)
            if shape is not None and images.shape[1:] != shape[1:]:
                raise InputError(
                    f"{self.path} has images of {_size(images.shape)}, but those of {of} are of {_size(shape)}; "
                    "pass --size N to resize them"
                )
            if shape is not None and images.shape[0] != shape[0]:
                if images.shape[0] > shape[0]:
                    announce(f"{self.path} has colours, which are ignored, because the images of {of} are grey")
                assert shape[0] in (1, 3)
                config = replace(config, channels="1" if shape[0] == 1 else "3")
                images = load_images(config, lambda line: None)
        return RealImages(config, images)


def _both_splits(images: ImageSet) -> UInt8[Tensor, "n c h w"]:
    """The training images and the held-out ones, which follow them in the prepared file."""
    if images.mapped is None or not images.spec.held_out:
        return images.images
    count = images.spec.count + images.spec.held_out
    pixels = replace(images.mapped, shape=(count, *images.shape)).open()
    if pixels is None:
        raise InputError(f"{images.mapped.path} has changed; rerun to prepare {images.provenance.file} again")
    return pixels


def _size(shape: Shape) -> str:
    return f"{shape[2]}x{shape[1]}"


@contextlib.contextmanager
def _named_as_arguments() -> Iterator[None]:
    """Readers name the flags of a training in their messages; here, the images are arguments."""
    try:
        yield
    except InputError as error:
        message = str(error).replace("data.root=", "", 1).replace("--data.size", "--size")
        message = message.replace("pass another --data.root", "use another")
        message = re.sub(r"pass --data\.root (with )?", "pass ", message)
        raise InputError(re.sub(r",? or pass --data\.labels none to ignore labels", "", message)) from error


def _provenance(environment: Path, announce: Callable[[str], None]) -> dict[str, str]:
    """ "source" and "sha256" of the run's data, as far as environment.json has them."""
    recorded, damage = read_optional_json(environment)
    if damage:
        announce(f"{environment} {damage}; the real images are not compared with the training images")
    data = recorded.get("data")
    known = data if isinstance(data, dict) else {}
    return {name: known[name] for name in ("source", "sha256") if isinstance(known.get(name), str)}


def _located(data: DataConfig, used: str | None, root: Path | None, source: DataSource | None) -> DataConfig:
    """The run's data set: at the given location, else at the source that the run used."""
    if root is not None or source is not None:
        return replace(data, root=root or data.root, source=source or "local")
    return data if used is None else pin_source(data, used)
