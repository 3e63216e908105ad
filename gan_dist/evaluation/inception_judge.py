"""Computes FID and KID of generated images; the features of the real ones are computed once per machine, and cached."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from jaxtyping import UInt8
from numpy.linalg import LinAlgError
from safetensors.torch import save
from torch import Tensor

from gan_dist.config import InputError
from gan_dist.data.cache import cache_file, write_cached
from gan_dist.evaluation.estimates import Estimate, Figures
from gan_dist.evaluation.fingerprint import code_fingerprint
from gan_dist.evaluation.floor import spread
from gan_dist.evaluation.inception import (
    FEATURES,
    SIDE,
    InceptionReference,
    build_inception_reference,
    inception_features,
    inception_figures,
)
from gan_dist.evaluation.inception_network import Inception, load_inception
from gan_dist.files import BadFile, first_line, read_file
from gan_dist.tensors import check_tensors, read_tensors

MAX_BYTES = 2**30  # of a cached file: 60,000 images have half of it
FIGURES = ("inception/fid", "inception/kid")
FLOOR = "floor"  # tensor of a cached file: value, low and high of each figure


@dataclass(frozen=True)
class InceptionJudge:
    """Compares images with the real images of a data set."""

    inception: Inception
    reference: InceptionReference
    held_out: int
    """Number of held-out images in the floor; 0 if one half of the training images is compared with the other."""
    sides: tuple[int, int]
    """Height and width of the images."""

    def figures(self, pixels: UInt8[Tensor, "n c h w"]) -> Figures:
        """FID and KID of generated images.

        Raises:
            InputError: they can't be computed, for lack of memory or because features are not finite.
        """
        with _errors():
            return inception_figures(inception_features(self.inception.network, pixels), self.reference)

    def describe(self, count: int) -> str:
        """What a figure of `count` generated images depends on, in one line."""
        real, height, width = len(self.reference.features), *self.sides
        floor = f"{self.held_out:,} held-out images" if self.held_out else "one half of these against the other"
        kind = "published" if self.inception.published else "not the published ones, so not as in papers"
        return (
            f"FID and KID: {count:,} generated images, {real:,} training images (real images: {floor}), resized from "
            f"{width}x{height} to {SIDE}x{SIDE} by torch-fidelity, bilinear as in TensorFlow 1; weights "
            f"{self.inception.id} ({kind})"
        )


def make_judge(
    features: Path,
    train: UInt8[Tensor, "n c h w"],
    held_out: UInt8[Tensor, "m c h w"] | None,
    device: torch.device,
    announce: Callable[[str], None],
) -> InceptionJudge:
    """Load the network and the features of real images.

    Args:
        features: evaluate.features, inception:FILE.
        train: the training images. At most MAX_REFERENCE of them, evenly spaced, are compared with.
        held_out: the held-out images, of which the same holds; None if there are none.
        device: of the network. MPS is replaced by the CPU.
        announce: called with one line before features are computed that are not in the cache.

    Raises:
        InputError: the package, the weights or the memory are missing.
    """
    with _errors():
        inception = load_inception(features)
        inception.network.to("cpu" if device.type == "mps" else device)
        train, held_out = spread(train), None if held_out is None else spread(held_out)
        file = _file(inception, train, held_out)
        try:
            reference = _read(file, len(train))
        except BadFile:  # missing or damaged
            count = len(train) + (0 if held_out is None else len(held_out))
            announce(f"extracting the Inception features of {count:,} real images, once")
            reference = build_inception_reference(inception.network, train, held_out)
            write_cached(file, _content(reference), announce)
    return InceptionJudge(
        inception, reference, 0 if held_out is None else len(held_out), (train.shape[2], train.shape[3])
    )


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Turn what the machine or the weights may cause into an InputError."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, LinAlgError, ImportError) as error:
        raise InputError(f"FID and KID can't be computed ({first_line(error)}); omit --evaluate.features") from error


def _file(inception: Inception, train: Tensor, held_out: Tensor | None) -> Path:
    """The cached file, whose name depends on the images, the weights and the code."""
    digest = hashlib.sha256(f"{inception.sha256} {version('torch-fidelity')}".encode())
    digest.update(code_fingerprint([build_inception_reference]).encode())
    for images in (train, held_out):
        if images is not None:
            digest.update(f"{tuple(images.shape)}".encode())
            digest.update(images.contiguous().numpy().data)
    return cache_file(f"inception-{digest.hexdigest()[:16]}.safetensors")


def _content(reference: InceptionReference) -> bytes:
    figures = [reference.floor[name] for name in FIGURES]
    floor = torch.tensor([[figure.value, figure.low, figure.high] for figure in figures], dtype=torch.float64)
    tensors = {"features": reference.features, "mean": reference.mean, "covariance": reference.covariance, FLOOR: floor}
    return save(tensors, {"sha256": _sha256(tensors)})


def _read(file: Path, count: int) -> InceptionReference:
    """Read a cached file of `count` images.

    Raises:
        BadFile: it is missing or damaged.
    """
    tensors, metadata = read_tensors(read_file(file, MAX_BYTES))
    shapes = {
        "features": ((count, FEATURES), torch.float32),
        "mean": ((FEATURES,), torch.float32),
        "covariance": ((FEATURES, FEATURES), torch.float64),
        FLOOR: ((len(FIGURES), 3), torch.float64),
    }
    check_tensors(
        tensors, {name: torch.empty(shape, dtype=kind, device="meta") for name, (shape, kind) in shapes.items()}
    )
    if metadata.get("sha256") != _sha256(tensors) or not tensors[FLOOR].isfinite().all():
        raise BadFile("is damaged")
    floor = {name: Estimate(*row) for name, row in zip(FIGURES, tensors.pop(FLOOR).tolist(), strict=True)}
    return InceptionReference(floor=floor, **tensors)


def _sha256(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()
