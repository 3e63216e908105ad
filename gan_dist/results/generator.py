"""The generators of a run: finding their files, and loading them safely."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from gan_dist.config import Config, InputError, Weights, from_dict, validate
from gan_dist.config.hub import model_address
from gan_dist.data.spec import DataSpec
from gan_dist.files import BadFile, first_line, is_whole, parse_json, parse_json_object, read_file
from gan_dist.models import ImageShape, build_generator
from gan_dist.outputs.folder import RunFolder
from gan_dist.results.hub import download_generator
from gan_dist.tensors import check_tensors, read_tensors

MAX_BYTES = 4 * 2**30  # of a generator's file: 1e9 weights


def load_generator(run: Path | str, weights: Weights = "average") -> nn.Module:
    """Load the generator of a run, on the CPU, in eval mode, with parameters that require no gradient.

    Args:
        run: the run's folder, which may still be training; one of its .safetensors files, in any folder; or
            hf://USER/NAME, a model of `gan-dist export --format hub`, also with @REVISION.
        weights: which of the run's generators. average: the one to use, RUN/generator.safetensors, which is the
            exponential moving average if the run keeps one. live: the trained generator, the same one if there is no
            average. best: as average, at the evaluation with the smallest Fréchet distance.

    Returns:
        A module that maps standard normal latents (n, latent_dim), and labels (n,) of int64 if it has classes, to
        images (n, C, H, W) in [-1, 1]. Its attributes are latent_dim; shape, (C, H, W); classes, the names of its
        classes; and class_counts, the number of training images of each class. Both are None if the run is
        unconditional.

    Raises:
        InputError: there is no such generator, or its file is damaged.
    """
    return read_generator(generator_file(Path(run), weights))[0]


def generator_file(run: Path, weights: Weights) -> Path:
    """The file of a run's generator.

    Args:
        run: the run's folder; a .safetensors file, which is returned unchanged; or hf://USER/NAME, which is downloaded.
        weights: as in `load_generator`.

    Raises:
        InputError: `weights` is unknown, or is combined with a file; or a download failed.
    """
    if weights not in get_args(Weights):
        raise InputError(f"weights={weights} is unknown; choose from {', '.join(get_args(Weights))}")
    address = model_address(str(run))
    if is_generator_file(run) or address is not None:
        if weights != "average":
            raise InputError(f"weights={weights} selects a file in a run folder, and {run} is a file; omit one of them")
        return run if address is None else download_generator(*address, MAX_BYTES)
    folder = RunFolder(run)
    if weights == "best":
        return folder.best_generator
    if weights == "live" and os.path.lexists(folder.live_generator):
        return folder.live_generator
    return folder.generator


def is_generator_file(run: Path) -> bool:
    """Whether a path is a generator's file instead of a run folder."""
    return run.suffix == ".safetensors" and not os.path.isdir(run)


def read_generator(file: Path) -> tuple[nn.Module, Config, int]:
    """Read a generator's file. Its tensors are compared with its description before any network is allocated.

    Returns:
        The generator, as in `load_generator`; the configuration of its run; its step.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        tensors, metadata = read_tensors(read_file(file, MAX_BYTES))
        config, shape, step = _description(metadata)
        classes, counts = _classes(config, metadata)
        generator = _build(config, shape, len(classes or ()))
        check_tensors(tensors, generator.state_dict())
        _check_finite(tensors)
    except BadFile as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            raise InputError(f"{file.parent} holds no {file.name}; {_first_written(file)}") from error
        raise InputError(f"{file} {error}; resume the run to write it again, or restore it") from error
    generator.to_empty(device="cpu").load_state_dict(tensors)
    described = {"latent_dim": config.model.latent_dim, "shape": shape, "classes": classes, "class_counts": counts}
    for name, value in described.items():
        setattr(generator, name, value)
    return generator.eval().requires_grad_(False), config, step


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Check that a network with these weights can generate images: NaN would become black pixels.

    Raises:
        BadFile: with the name of the first tensor that has NaN or infinity.
    """
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise BadFile(f"holds {name} with numbers that are not finite")


def _first_written(file: Path) -> str:
    """When a generator's file that is missing is written, and whether its folder is that of a run."""
    folder = RunFolder(file.parent)
    elsewhere = "" if folder.holds_a_run() else ", and this is not the folder of a run; give one"
    if file.name == folder.best_generator.name:
        return f"it is written with the first checkpoint after an evaluation (--evaluate.every-epochs){elsewhere}"
    return f"it is written with the first checkpoint{elsewhere}"


def _description(metadata: Mapping[str, str]) -> tuple[Config, ImageShape, int]:
    """The metadata of a generator's file: the configuration of its run, (C, H, W) of an image, and the step.

    Raises:
        BadFile: a value is missing or invalid.
    """
    # Earlier versions stored the shape of an image instead of the description of the data set.
    described = "image_shape" if "data" not in metadata and "image_shape" in metadata else "data"
    for name in ("config", described, "step"):
        if name not in metadata:
            raise BadFile(f"does not describe a generator: its metadata lack {name!r}")
    try:
        config = from_dict(parse_json_object(metadata["config"].encode()))
        validate(config)
    # Some are from comparisons with a value of another type.
    except (InputError, BadFile, TypeError, AttributeError, OverflowError) as error:
        raise BadFile(f"has an invalid config in its metadata ({first_line(error)})") from None
    shape = parse_json(metadata[described].encode())
    if described == "data":
        shape = list(DataSpec.from_dict(shape).shape)
    step = parse_json(metadata["step"].encode())
    if not isinstance(shape, list) or len(shape) != 3 or not all(is_whole(side) and side > 0 for side in shape):
        raise BadFile("has metadata whose image_shape is not three positive whole numbers")
    if not is_whole(step) or step < 0:
        raise BadFile("has metadata whose step is not a whole number")
    return config, (shape[0], shape[1], shape[2]), step


def _classes(
    config: Config, metadata: Mapping[str, str]
) -> tuple[tuple[str, ...] | None, Int64[Tensor, " classes"] | None]:
    """The names of the classes of a generator and the number of training images of each; None if it has none.

    Raises:
        BadFile: they are missing or invalid.
    """
    if not config.model.conditional:
        return None, None
    for name in ("data", "class_counts"):
        if name not in metadata:
            raise BadFile(f"does not describe a conditional generator: its metadata lack {name!r}")
    names = DataSpec.from_dict(parse_json(metadata["data"].encode())).classes
    counts = parse_json(metadata["class_counts"].encode())
    if names is None or not isinstance(counts, list) or len(counts) != len(names):
        raise BadFile("has metadata whose class_counts are not one number for each class")
    if not all(is_whole(count) and 0 < count < 2**31 for count in counts):
        raise BadFile("has metadata whose class_counts are not positive whole numbers")
    return names, torch.tensor(counts)


def _build(config: Config, shape: ImageShape, classes: int) -> nn.Module:
    """As `build_generator`.

    Raises:
        BadFile: the network can't be built.
    """
    try:
        return build_generator(config.model, shape, classes)
    # Sizes that overflow in torch, or values of another type.
    except (InputError, KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise BadFile(f"describes a network that can't be built ({first_line(error)})") from None
