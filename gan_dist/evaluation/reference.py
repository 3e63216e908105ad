"""The real images of a data set as the figures need them: computed once per machine, and cached."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from safetensors.torch import save
from torch import Tensor

from gan_dist.config import DataConfig, InputError
from gan_dist.data.cache import cache_file, write_cached
from gan_dist.data.images import ImageSet
from gan_dist.data.readers.reader import MIN_COMPARED, NoHeldOut
from gan_dist.data.sources import load_held_out, pin_source
from gan_dist.evaluation.classifier import FEATURES
from gan_dist.evaluation.classifier_file import TrainedClassifier
from gan_dist.evaluation.estimates import Estimate
from gan_dist.evaluation.features import MAX_REFERENCE, Reference
from gan_dist.evaluation.fingerprint import code_fingerprint
from gan_dist.evaluation.floor import build_reference, spread
from gan_dist.evaluation.metrics import FIGURES
from gan_dist.files import BadFile, parse_json_object, read_file
from gan_dist.tensors import check_tensors, read_tensors

MAX_BYTES = 4 * 2**30  # of a cached file: 8 million images
# Tensors of a Reference; the pixels are read from the data set.
CACHED = ("features", "held_out_features", "held_out_distances")


def reference_for(
    config: DataConfig, train: ImageSet, classifier: TrainedClassifier, announce: Callable[[str], None]
) -> Reference:
    """The real images that the figures compare with, on the classifier's device. The first call on a machine takes 20
    seconds.

    Args:
        config: the data set, whose held-out images are in the same folder as the training images.
        train: the training images, from `load_images`.
        classifier: from `classifier_for`.
        announce: called with one line if there are no held-out images, and if the cache is not writable.

    Raises:
        InputError: the held-out images are damaged, they are not those of the same data set as the training images, or
            there are too few training images.
    """
    try:
        held_out: ImageSet | None = load_held_out(pin_source(config, train.provenance.source), announce)
    except NoHeldOut as reason:
        held_out = None
        announce(f"{reason}; until then, one half of the training images is compared with the other")
    if held_out is not None and held_out.spec != train.spec:
        raise InputError(
            f"{train.provenance.file} has changed since its training images were read; start again to use what is "
            "there now, or restore it"
        )
    least = MIN_COMPARED if held_out else 2 * MIN_COMPARED
    if len(train.images) < least:
        raise InputError(
            f"{train.provenance.file} holds {len(train.images)} images; an evaluation needs {least} or more"
        )
    file = _file(classifier, train, held_out)
    held_out_pixels = held_out.images if held_out else None
    try:
        reference = _read(file, classifier, train.images, len(held_out.images) if held_out else None)
    except BadFile:  # missing or damaged
        reference = build_reference(
            classifier.network,
            classifier.id,
            train.images,
            held_out_pixels,
            classifier.task == "classes",
            _labels(train),
            _labels(held_out),
        )
        write_cached(file, _content(reference), announce)
    labels = _labels(train)
    return replace(
        reference,
        held_out_pixels=held_out_pixels,
        held_out_labels=_labels(held_out),
        labels=None if labels is None else spread(labels).to(reference.features.device),
    )


def _labels(images: ImageSet | None) -> Int64[Tensor, " n"] | None:
    """The classes of images; None if they have none, as stacked images."""
    return None if images is None or images.spec.classes is None else images.labels


def _file(classifier: TrainedClassifier, train: ImageSet, held_out: ImageSet | None) -> Path:
    """The cached file, whose name depends on the images, the classifier and the code of the figures."""
    both = [train, held_out] if held_out else [train]
    images = [f"{split.provenance.sha256} {split.labels_sha256}" for split in both]
    parts = [*images, classifier.id, *FIGURES, code_fingerprint([*FIGURES.values(), build_reference])]
    return cache_file(f"reference-{hashlib.sha256('/'.join(parts).encode()).hexdigest()[:16]}.safetensors")


def _content(reference: Reference) -> bytes:
    named = {name: getattr(reference, name) for name in CACHED}
    tensors = {name: tensor.cpu() for name, tensor in named.items() if tensor is not None}
    floor = {name: asdict(estimate) for name, estimate in reference.floor.items()}
    return save(tensors, {"reference": json.dumps({"floor": floor, "sha256": _sha256(tensors, floor)})})


def _read(file: Path, classifier: TrainedClassifier, pixels: Tensor, held_out: int | None) -> Reference:
    """Read a cached file.

    Args:
        held_out: the number of held-out images; None if there are none.

    Raises:
        BadFile: the file is missing, damaged, or belongs to other images.
    """
    tensors, metadata = read_tensors(read_file(file, MAX_BYTES))
    classes = classifier.classes if classifier.task == "classes" else 1
    shapes: dict[str, tuple[int, ...]] = {"features": (min(len(pixels), MAX_REFERENCE), FEATURES)}
    if held_out is not None:
        shapes |= {"held_out_features": (min(held_out, MAX_REFERENCE), FEATURES), "held_out_distances": (classes,)}
    check_tensors(tensors, {name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    description = parse_json_object(metadata.get("reference", "{}").encode())
    floor = description.get("floor")
    if not isinstance(floor, dict) or description.get("sha256") != _sha256(tensors, floor):
        raise BadFile("is damaged")
    estimates = {name: _estimate(fields) for name, fields in floor.items()}
    device = classifier.network.head.weight.device
    return Reference(classifier.id, pixels=pixels, floor=estimates, **tensors).to(device)


def _estimate(fields: Any) -> Estimate:
    names = [field.name for field in dataclasses.fields(Estimate)]
    if not isinstance(fields, dict) or sorted(fields) != sorted(names):
        raise BadFile("holds a figure with other fields")
    if not all(isinstance(value, float) and math.isfinite(value) for value in fields.values()):
        raise BadFile("holds a figure that is not a finite number")
    return Estimate(**fields)


def _sha256(tensors: dict[str, Tensor], floor: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(floor, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()
