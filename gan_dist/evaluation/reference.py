"""The real images of a data set as the figures need them: seen once on a machine, and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gan_dist.config import DataConfig, InputError
from gan_dist.data.sources import LEAST_COMPARED, ImageSet, NoHeldOut, load_labelled, settled
from gan_dist.evaluation.cache import cache_file, keep
from gan_dist.evaluation.classifier import TrainedClassifier
from gan_dist.evaluation.metrics import compute_figures, nearest_distances
from gan_dist.evaluation.observed import Estimate, Observed, Reference, observe

VERSION = 2  # of the figures: another way to compute one is another version
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
        reference = _read(file, classifier, pixels)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):  # not made yet, or damaged
        reference = build_reference(classifier, train, held_out)
        keep(file, _content(reference), announce)
    return replace(reference, held_out=held_out.images.to(device)) if held_out else reference


def build_reference(classifier: TrainedClassifier, train: ImageSet, held_out: ImageSet | None) -> Reference:
    """Show all real images to the classifier and compute their figures. Reads and keeps nothing."""
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
    made_of = [train.provenance.sha256, held_out.provenance.sha256 if held_out else "", classifier.id, str(VERSION)]
    return cache_file(f"reference-{hashlib.sha256('/'.join(made_of).encode()).hexdigest()[:16]}.safetensors")


def _content(reference: Reference) -> bytes:
    named = {name: getattr(reference, name) for name in KEPT}
    tensors = {name: tensor.cpu() for name, tensor in named.items() if tensor is not None}
    floor = {name: asdict(estimate) for name, estimate in reference.floor.items()}
    return save(tensors, {"reference": json.dumps({"floor": floor, "sha256": _sha256(tensors)})})


def _read(file: Path, classifier: TrainedClassifier, pixels: Tensor) -> Reference:
    with safe_open(file, framework="pt") as stored:
        told = json.loads(stored.metadata()["reference"])
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no dictionary)
    if _sha256(tensors) != told["sha256"]:
        raise ValueError("damaged")
    floor = {name: Estimate(**estimate) for name, estimate in told["floor"].items()}
    return Reference(classifier.id, pixels=pixels, floor=floor, **tensors).to(pixels.device)


def _sha256(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()
