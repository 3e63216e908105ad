"""Images from a trained run: load its generator, draw from it, write a grid or an array."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from gan_dist.config import Config, InputError, Weights, from_dict, validate
from gan_dist.data.pixels import quantize
from gan_dist.files import BadFile, first_line, parse_json, parse_json_object, read_file, replacing
from gan_dist.memory import available_memory
from gan_dist.models import ImageShape, build_generator
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.pictures import save_picture
from gan_dist.seeding import sample_latents
from gan_dist.tensors import check_tensors, read_tensors

CHUNK = 500  # images generated at a time, to bound the memory; as many as in an evaluation, so the bits are the same
MAX_GENERATOR_BYTES = 4 * 2**30  # 1e9 weights


def load_generator(run: Path | str, weights: Weights = "average") -> nn.Module:
    """The generator of a run, on the CPU, in eval mode, with parameters that need no gradient.

    Args:
        run: the run's folder, which may still be training; or one of its .safetensors files, wherever that lies.
        weights: which of a run's generators. average: the one to use, RUN/generator.safetensors, which is the running
            average if the run keeps one. live: the trained generator itself, the same one if there is no average. best:
            the one to use as it was at the evaluation with the smallest Fréchet distance.

    Returns:
        A module that maps latents (n, latent_dim), standard normal, to images (n, C, H, W) in [-1, 1]. Its attributes
        say what it is: latent_dim, shape (C, H, W), and classes, the names of the classes that it can be asked for, or
        None.

    Raises:
        InputError: there is no such generator, or the file is damaged.
    """
    return read_generator(generator_file(Path(run), weights))[0]


def generator_file(run: Path, weights: Weights) -> Path:
    """The file that holds a run's generator.

    Args:
        run: the run's folder; or the file, which comes back as it is.
        weights: as in `load_generator`.

    Raises:
        InputError: `weights` is unknown, or is given for a file.
    """
    if weights not in get_args(Weights):
        raise InputError(f"weights={weights} is unknown; choose from {', '.join(get_args(Weights))}")
    if is_generator_file(run):
        if weights != "average":
            raise InputError(f"weights={weights} names a file in a run's folder, but {run} is a file; leave one out")
        return run
    folder = RunFolder(run)
    if weights == "best":
        return folder.best_generator
    if weights == "live" and os.path.lexists(folder.live_generator):
        return folder.live_generator
    return folder.generator


def is_generator_file(run: Path) -> bool:
    """Whether what was given in the place of a run's folder is a file of a generator."""
    return run.suffix == ".safetensors" and not os.path.isdir(run)


def read_generator(file: Path) -> tuple[nn.Module, Config, int]:
    """Read a generator's file. Nothing larger than the file is allocated before it is known to fit its description.

    Returns:
        The generator, as `load_generator` returns it; the configuration of its run; the step that it comes from.

    Raises:
        InputError: the file is not there, or is damaged.
    """
    try:
        tensors, metadata = read_tensors(read_file(file, MAX_GENERATOR_BYTES))
        config, shape, step = _description(metadata)
        generator = _build(config, shape)
        check_tensors(tensors, generator.state_dict())
    except BadFile as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            raise InputError(f"{file.parent} holds no {file.name}; {_since_when(file.name)}") from error
        raise InputError(f"{file} {error}; resume the run to write it again, or restore it") from error
    generator.to_empty(device="cpu").load_state_dict(tensors)
    for name, value in {"latent_dim": config.model.latent_dim, "shape": shape, "classes": None}.items():
        setattr(generator, name, value)
    return generator.eval().requires_grad_(False), config, step


def _since_when(name: str) -> str:
    if name == RunFolder(Path()).best_generator.name:
        return "a run has one from the checkpoint after its first evaluation on (--evaluate.every-epochs)"
    return "a run has one from its first checkpoint on"


def _description(metadata: Mapping[str, str]) -> tuple[Config, ImageShape, int]:
    """What a generator's file says of it: the configuration of its run, (C, H, W) of an image, and the step.

    Raises:
        BadFile: it says nothing, or something that no run writes.
    """
    for name in ("config", "image_shape", "step"):
        if name not in metadata:
            raise BadFile(f"does not describe a generator: its metadata lack {name!r}")
    try:
        config = from_dict(parse_json_object(metadata["config"].encode()))
        validate(config)
    # A value of another type, which a comparison refuses.
    except (InputError, BadFile, TypeError, AttributeError, OverflowError) as error:
        raise BadFile(f"has metadata whose config can't be used ({first_line(error)})") from None
    shape = parse_json(metadata["image_shape"].encode())
    step = parse_json(metadata["step"].encode())
    if not isinstance(shape, list) or len(shape) != 3 or not all(_is_whole(side) and side > 0 for side in shape):
        raise BadFile("has metadata whose image_shape is not three whole numbers above 0")
    if not _is_whole(step) or step < 0:
        raise BadFile("has metadata whose step is not a whole number")
    return config, (shape[0], shape[1], shape[2]), step


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _build(config: Config, shape: ImageShape) -> nn.Module:
    """As `build_generator`.

    Raises:
        BadFile: no such network can be built.
    """
    try:
        return build_generator(config.model, shape)
    # Sizes that torch can't count, or values of another type.
    except (InputError, KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise BadFile(f"describes a network that can't be built ({first_line(error)})") from None


def generate(generator: nn.Module, count: int, seed: int) -> Float[Tensor, "count c h w"]:
    """Draw images from a generator of `load_generator`: always the same ones for a seed.

    Returns:
        Images in [-1, 1].
    """
    return torch.cat(list(_chunks(generator, count, seed)))


def generate_pixels(generator: nn.Module, count: int, seed: int) -> UInt8[Tensor, "count c h w"]:
    """The images of `generate`, rounded to 8 bits chunk by chunk: a quarter of the memory.

    Raises:
        InputError: the memory of this machine is too small for so many.
    """
    with torch.no_grad():
        pixels = generator(torch.zeros(1, _latent_dim(generator))).numel()
    # The pixels are there twice where the chunks are put together; the latents are drawn all at once.
    needed, available = count * (2 * pixels + 4 * _latent_dim(generator)), available_memory()
    if available is not None and needed > available:
        raise InputError(
            f"count={count} can't be used: so many images take {needed / 1e9:,.1f} GB of memory, and "
            f"{available / 1e9:,.1f} GB are available; use fewer, and other ones with --seed"
        )
    return torch.cat([quantize(chunk) for chunk in _chunks(generator, count, seed)])


def save_pixels(pixels: UInt8[Tensor, "n c h w"], file: Path) -> None:
    """Write images as a grid (.png), or as an array "images" (n, C, H, W) (any other ending).

    Raises:
        InputError: the file can't be written.
    """
    try:
        with replacing(file) as beside:
            if file.suffix == ".png":
                save_picture(pixels, math.ceil(math.sqrt(len(pixels))), beside)
            else:
                np.savez_compressed(beside, images=pixels.numpy())
    except OSError as error:
        raise InputError(f"output={file} can't be written ({error.strerror}); choose another") from error


def _chunks(generator: nn.Module, count: int, seed: int) -> Iterator[Float[Tensor, "n c h w"]]:
    latents = sample_latents(count, _latent_dim(generator), seed)
    with torch.no_grad():
        for chunk in latents.split(CHUNK):
            yield generator(chunk)


def _latent_dim(generator: nn.Module) -> int:
    assert isinstance(generator.latent_dim, int)
    return generator.latent_dim
