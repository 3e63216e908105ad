"""The real images of a data set as the figures need them: seen once on a machine, and kept."""

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
from safetensors.torch import save
from torch import Tensor

from gan_dist.config import DataConfig, InputError
from gan_dist.data.sources import LEAST_COMPARED, ImageSet, NoHeldOut, load_labelled, settled
from gan_dist.evaluation.cache import cache_file, keep
from gan_dist.evaluation.classifier import FEATURES, TrainedClassifier
from gan_dist.evaluation.metrics import FIGURES, compute_figures, nearest_distances
from gan_dist.evaluation.observations import Estimate, Observed, Reference, observe, one_thread
from gan_dist.files import BadFile, parse_json_object, read_file
from gan_dist.tensors import check_tensors, read_tensors

VERSION = 3  # of the figures: another way to compute one is another version; a new one needs none
MAX_BYTES = 4 * 2**30  # of what is kept: 8 million images
KEPT = ("features", "held_out_features", "held_out_nearest")  # a Reference's tensors; the pixels are the data set's


def reference_for(
    config: DataConfig, train: ImageSet, classifier: TrainedClassifier, announce: Callable[[str], None]
) -> Reference:
    """The real side of the figures, on the classifier's device. The first time on a machine takes 20 seconds.

    Args:
        config: the data set; its held-out images are looked for beside the training images.
        train: those training images, as `load_images` gave them.
        classifier: of `classifier_for`.
        announce: called with one line where there are no held-out images, and where nothing can be kept.

    Raises:
        InputError: the held-out images are damaged, or there are too few training images.
    """
    try:
        held_out: ImageSet | None = load_labelled(settled(config, train.provenance.source), "test", announce)
    except NoHeldOut as reason:
        held_out = None
        announce(f"{reason}; until then real images are one half of the training images, against the other")
    least = LEAST_COMPARED if held_out else 2 * LEAST_COMPARED
    if len(train.images) < least:
        raise InputError(
            f"{train.provenance.file} holds {len(train.images)} images; an evaluation needs {least} or more"
        )
    file = _file(classifier, train, held_out)
    device = classifier.network.head.weight.device
    pixels = train.images.to(device)
    try:
        reference = _read(file, classifier, pixels, len(held_out.images) if held_out else None)
    except BadFile:  # not made yet, or damaged
        reference = build_reference(classifier, train, held_out)
        keep(file, _content(reference), announce)
    return replace(reference, held_out=held_out.images.to(device)) if held_out else reference


@one_thread()
def build_reference(classifier: TrainedClassifier, train: ImageSet, held_out: ImageSet | None) -> Reference:
    """Show all real images to the classifier and compute their figures. Reads and keeps nothing.

    On one thread: what is kept for later runs must not depend on the threads of the run that happened to make it.
    """
    seen = observe(classifier.network, train.images)
    whole = Reference(classifier.id, seen.features, seen.pixels)
    if held_out is None:
        # In turns: the images may be sorted by class.
        one, other = (Observed(seen.features[i::2], seen.logits[i::2], seen.pixels[i::2]) for i in (0, 1))
        floor = compute_figures(other, Reference(classifier.id, one.features, one.pixels))
        # Among half as many images the nearest is farther away: nothing to compare with.
        del floor["nearest/generated"]
        return replace(whole, floor=floor)
    unseen = observe(classifier.network, held_out.images)
    distances, classes = nearest_distances(unseen, whole)
    of_each = [distances[classes == label] for label in range(classifier.classes)]
    medians = torch.stack([(some if len(some) else distances).median() for some in of_each])
    whole = replace(whole, held_out_features=unseen.features, held_out_nearest=medians)
    return replace(whole, floor=compute_figures(unseen, whole))


def _file(classifier: TrainedClassifier, train: ImageSet, held_out: ImageSet | None) -> Path:
    figures = ",".join(FIGURES)  # so that a new one is computed of the real images, too
    sources = [train.provenance.sha256, held_out.provenance.sha256 if held_out else "", classifier.id]
    made_of = "/".join([*sources, str(VERSION), figures])
    return cache_file(f"reference-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.safetensors")


def _content(reference: Reference) -> bytes:
    named = {name: getattr(reference, name) for name in KEPT}
    tensors = {name: tensor.cpu() for name, tensor in named.items() if tensor is not None}
    floor = {name: asdict(estimate) for name, estimate in reference.floor.items()}
    return save(tensors, {"reference": json.dumps({"floor": floor, "sha256": _sha256(tensors, floor)})})


def _read(file: Path, classifier: TrainedClassifier, pixels: Tensor, held_out: int | None) -> Reference:
    """What was kept of the real images.

    Args:
        held_out: how many held-out images there are; None where there are none.

    Raises:
        BadFile: nothing was kept, or it is damaged, or belongs to other images.
    """
    tensors, metadata = read_tensors(read_file(file, MAX_BYTES))
    shapes: dict[str, tuple[int, ...]] = {"features": (len(pixels), FEATURES)}
    if held_out is not None:
        shapes |= {"held_out_features": (held_out, FEATURES), "held_out_nearest": (classifier.classes,)}
    check_tensors(tensors, {name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    told = parse_json_object(metadata.get("reference", "{}").encode())
    floor = told.get("floor")
    if not isinstance(floor, dict) or told.get("sha256") != _sha256(tensors, floor):
        raise BadFile("is damaged")
    estimates = {name: _estimate(fields) for name, fields in floor.items()}
    return Reference(classifier.id, pixels=pixels, floor=estimates, **tensors).to(pixels.device)


def _estimate(fields: Any) -> Estimate:
    names = [field.name for field in dataclasses.fields(Estimate)]
    if not isinstance(fields, dict) or sorted(fields) != sorted(names):
        raise BadFile("holds a figure that has other fields")
    if not all(isinstance(value, float) and math.isfinite(value) for value in fields.values()):
        raise BadFile("holds a figure that is no finite number")
    return Estimate(**fields)


def _sha256(tensors: dict[str, Tensor], floor: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(floor, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()
