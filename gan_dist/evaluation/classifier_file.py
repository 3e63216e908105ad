"""Trained classifiers as safetensors files, among them the one that ships with the package."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import save
from torch import Tensor

from gan_dist.config import InputError
from gan_dist.data.spec import MAX_CLASSES, is_shape
from gan_dist.evaluation.classifier import DIGITS_SHAPE, Classifier
from gan_dist.files import BadFile, parse_json_object, read_file
from gan_dist.tensors import check_tensors, read_tensors

Task = Literal["classes", "rotations"]
"""classes: the labels of the data set. rotations: how an image was rotated, for data without labels."""

FORMAT = 1  # of the file; increase it with each change of the architecture or the training
MAX_BYTES = 64 * 2**20  # of a classifier's file, whose usual size is 0.4 MB


@dataclass(frozen=True)
class TrainedClassifier:
    """A trained classifier. Figures of different classifiers are not comparable."""

    network: Classifier
    """In eval mode, without gradients."""
    id: str
    """The first 12 hex digits of the sha256 of its weights."""
    accuracy: float
    """Share of correctly classified held-out images, in [0, 1]."""
    classes: int
    data_name: str
    """Name of its training data set."""
    data_sha256: str
    """sha256 of that data set's training pixels."""
    task: Task = "classes"
    """What it was trained to tell apart."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image that it classifies."""
        return self.network.shape

    @property
    def description(self) -> str:
        """For tables."""
        of = "rotations" if self.task == "rotations" else f"the classes of {self.data_name}"
        return f"classifier {self.id} of {of} ({100 * self.accuracy:.2f} % accuracy)"


def weights_id(network: Classifier) -> str:
    """The id of a classifier with these weights."""
    digest = hashlib.sha256()
    for name, weights in sorted(_weights(network).items()):
        digest.update(name.encode() + weights.numpy().tobytes())
    return digest.hexdigest()[:12]


def _weights(network: Classifier) -> dict[str, Tensor]:
    """The weights on the CPU, contiguous, whatever their memory format."""
    return {name: weights.cpu().contiguous() for name, weights in network.state_dict().items()}


def classifier_bytes(classifier: TrainedClassifier) -> bytes:
    """The content of the safetensors file that `load_classifier` reads."""
    description: dict[str, Any] = {
        "format": FORMAT,
        "id": classifier.id,
        "accuracy": classifier.accuracy,
        "classes": classifier.classes,
        "data_name": classifier.data_name,
        "data_sha256": classifier.data_sha256,
    }
    if classifier.shape != DIGITS_SHAPE or classifier.task != "classes":
        description |= {"shape": classifier.shape, "task": classifier.task}
    # One entry: safetensors writes several in a different order each time.
    return save(_weights(classifier.network), {"classifier": json.dumps(description)})


def load_classifier(file: Path) -> TrainedClassifier:
    """Read a file written by `classifier_bytes`.

    Raises:
        InputError: the file is missing, damaged, or of another format.
    """
    try:
        return _parse(read_file(file, MAX_BYTES))
    except BadFile as error:
        raise InputError(
            f"the classifier {file} can't be used: it {error}; delete it to have it trained again"
        ) from error


def shipped_classifier() -> TrainedClassifier:
    """The classifier of MNIST's digits that ships with the package.

    Raises:
        InputError: the installation is damaged.
    """
    with importlib.resources.as_file(importlib.resources.files(__package__) / "digits.safetensors") as file:
        try:
            return _parse(read_file(file, MAX_BYTES))
        except BadFile as error:
            raise InputError(f"the classifier {file} of the package {error}; reinstall gan_dist") from error


def _parse(content: bytes) -> TrainedClassifier:
    """The classifier in the content of a file.

    Raises:
        BadFile: the content is damaged, of another format, or not a classifier.
    """
    tensors, metadata = read_tensors(content)
    if "classifier" not in metadata:
        raise BadFile("does not describe a classifier")
    description = parse_json_object(metadata["classifier"].encode())
    if description.pop("format", None) != FORMAT:
        raise BadFile("is of another format")
    shape, task = description.pop("shape", list(DIGITS_SHAPE)), description.pop("task", "classes")
    if not is_shape(shape):
        raise BadFile("describes a classifier of images of an impossible shape")
    if task not in get_args(Task):
        raise BadFile("describes a classifier of an unknown task")
    types = {"id": str, "accuracy": float, "classes": int, "data_name": str, "data_sha256": str}
    if description.keys() != types.keys() or not all(type(description[name]) is types[name] for name in types):
        raise BadFile("does not describe a classifier: a field is missing or of another type")
    if not (0 <= description["accuracy"] <= 1 and 1 <= description["classes"] <= MAX_CLASSES):
        raise BadFile("describes an impossible classifier: its accuracy or number of classes is out of range")
    with torch.device("meta"):  # otherwise the layers would draw initial weights from the global generator
        network = Classifier(description["classes"], (shape[0], shape[1], shape[2]))
    check_tensors(tensors, network.state_dict())
    network = network.to_empty(device="cpu").eval().requires_grad_(False)
    network.load_state_dict(tensors)
    if weights_id(network) != description["id"]:
        raise BadFile("has weights that do not match its id")
    return TrainedClassifier(network, **description, task=task)
