"""The classifier that looks at images for the figures: the one that ships, or one trained for another data set."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor, nn

from gan_dist.config import DataConfig, InputError
from gan_dist.data.pixels import normalize
from gan_dist.data.sources import CLASSES, LabelledImages, NoHeldOut, load_labelled
from gan_dist.evaluation.cache import cache_file, keep
from gan_dist.files import BadFile, parse_json_object, read_file
from gan_dist.seeding import generator_for, seed_for
from gan_dist.tensors import check_tensors, read_tensors

FORMAT = 1  # of the file; another architecture or training is another format
SHIPPED_FOR = ("mnist", "qmnist")  # qmnist's digits are mnist's, cut out again
FEATURES = 128  # numbers that the last hidden layer makes of an image
BATCH = 128
MAX_LEARNING_RATE = 3e-3
MAX_SHIFT = 2  # pixels
MAX_CLASSES = 10_000
MAX_BYTES = 64 * 2**20  # of a classifier's file, which has 0.4 MB
HELD_OUT_EVERY = 10  # where a data set has no held-out images


class Classifier(nn.Module):
    """A small convolutional network: images (n, 1, 28, 28) in [-1, 1] to logits (n, classes)."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),  # (n, 16, 14, 14)
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),  # (n, 32, 7, 7)
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),  # (n, 64, 3, 3)
            *(nn.Flatten(), nn.Linear(64 * 3 * 3, FEATURES), nn.ReLU()),
        )
        self.head = nn.Linear(FEATURES, classes)
        self.to(memory_format=torch.channels_last)  # on a CPU almost twice as fast

    def features(self, images: Float[Tensor, "n 1 28 28"]) -> Float[Tensor, "n 128"]:
        """What the last hidden layer makes of the images, none below 0; `head` maps it to the logits."""
        return self.body(images)

    def forward(self, images: Float[Tensor, "n 1 28 28"]) -> Float[Tensor, "n classes"]:
        return self.head(F.dropout(self.features(images), 0.5, self.training))


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier that is done: figures that were made with different ones can't be compared."""

    network: Classifier
    """In eval mode, without gradients."""
    id: str
    """The first 12 hex digits of the sha256 of its weights."""
    accuracy: float
    """Share of held-out images that it gets right, in [0, 1]."""
    classes: int
    data_name: str
    """The data set that it was trained on."""
    data_sha256: str
    """Of that data set's training pixels."""


def train_classifier(
    train: LabelledImages,
    held_out: LabelledImages | None,
    announce: Callable[[str], None],
    seed: int = 0,
    epochs: int = 12,
) -> TrainedClassifier:
    """Train a classifier on the CPU, a function of its arguments (to rounding: the threads change the order of sums).

    Adam, one cycle of the learning rate (Smith & Topin 2018, arXiv:1708.07120), each batch shifted by a few pixels.

    Args:
        train: images to train on.
        held_out: images to measure the accuracy on; None takes every tenth of `train` away for that.
        announce: called with one line when it begins; 60,000 images take about two minutes on one core.
        seed: other first weights, order, shifts and dropout for another.
        epochs: passes over the images.
    """
    sha256 = train.provenance.sha256
    if held_out is None and len(train.images) < HELD_OUT_EVERY:
        raise InputError(
            f"{train.provenance.file} holds {len(train.images)} images, too few to train a classifier on; "
            f"it takes {HELD_OUT_EVERY} or more"
        )
    if held_out is None:
        out = torch.arange(len(train.images)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
        held_out = replace(train, images=train.images[out], labels=train.labels[out])
        train = replace(train, images=train.images[~out], labels=train.labels[~out])
    name = train.provenance.name
    announce(f"training a classifier of {name} for the evaluation, on {len(train.images):,} images, {epochs} epochs")
    # The first weights and dropout draw from the global generator; it is borrowed and given back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "classifier"))
        network = Classifier()
        _fit(network, train, seed, epochs)
    network.eval().requires_grad_(False)
    right = sum(
        int((network(normalize(images)).argmax(1) == labels).sum())
        for images, labels in zip(held_out.images.split(1000), held_out.labels.split(1000), strict=True)
    )
    return TrainedClassifier(network, _id(network), right / len(held_out.images), CLASSES, name, sha256)


def _fit(network: Classifier, train: LabelledImages, seed: int, epochs: int) -> None:
    size = min(BATCH, len(train.images))
    batches = len(train.images) // size
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, MAX_LEARNING_RATE, epochs * batches)
    for epoch in range(epochs):
        drawn = generator_for(seed, "classifier/epoch", epoch)
        order = torch.randperm(len(train.images), generator=drawn)[: batches * size].view(batches, size)
        shifts = torch.randint(-MAX_SHIFT, MAX_SHIFT + 1, (batches, 2), generator=drawn).tolist()
        for chosen, shift in zip(order, shifts, strict=True):
            images = normalize(train.images[chosen]).roll(shift, dims=(2, 3))
            loss = F.cross_entropy(network(images), train.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def _id(network: Classifier) -> str:
    digest = hashlib.sha256()
    for name, weights in sorted(_weights(network).items()):
        digest.update(name.encode() + weights.numpy().tobytes())
    return digest.hexdigest()[:12]


def _weights(network: Classifier) -> dict[str, Tensor]:
    """The weights on the CPU, packed, whatever their memory format."""
    return {name: weights.cpu().contiguous() for name, weights in network.state_dict().items()}


def classifier_bytes(classifier: TrainedClassifier) -> bytes:
    """The content of the safetensors file that `load_classifier` reads."""
    told = {
        "format": FORMAT,
        "id": classifier.id,
        "accuracy": classifier.accuracy,
        "classes": classifier.classes,
        "data_name": classifier.data_name,
        "data_sha256": classifier.data_sha256,
    }
    # One entry: several would be written in another order each time.
    return save(_weights(classifier.network), {"classifier": json.dumps(told)})


def load_classifier(file: Path) -> TrainedClassifier:
    """Read what `classifier_bytes` made.

    Raises:
        InputError: the file is not there, is damaged, or of another format.
    """
    try:
        return _parse(read_file(file, MAX_BYTES))
    except BadFile as error:
        raise InputError(f"the classifier {file} can't be used: it {error}; delete it, it is made again") from error


def shipped() -> TrainedClassifier:
    """The classifier of MNIST's digits that is part of the package.

    Raises:
        InputError: the installation is damaged.
    """
    with importlib.resources.as_file(importlib.resources.files(__package__) / "digits.safetensors") as file:
        try:
            return _parse(read_file(file, MAX_BYTES))
        except BadFile as error:
            raise InputError(f"the classifier {file} of the package {error}; install gan_dist again") from error


def _parse(content: bytes) -> TrainedClassifier:
    """The classifier in a file.

    Raises:
        BadFile: there is none, or a damaged one, or one of another format.
    """
    tensors, metadata = read_tensors(content)
    if "classifier" not in metadata:
        raise BadFile("does not describe a classifier")
    told = parse_json_object(metadata["classifier"].encode())
    if told.pop("format", None) != FORMAT:
        raise BadFile("is of another format")
    kinds = {"id": str, "accuracy": float, "classes": int, "data_name": str, "data_sha256": str}
    if told.keys() != kinds.keys() or not all(type(told[name]) is kind for name, kind in kinds.items()):
        raise BadFile("does not describe a classifier: a field is missing, or of another type")
    if not (0 <= told["accuracy"] <= 1 and 1 <= told["classes"] <= MAX_CLASSES):
        raise BadFile("describes a classifier that can't be: its accuracy or number of classes is out of range")
    with torch.device("meta"):  # else the layers would draw first weights from the global generator
        network = Classifier(told["classes"])
    check_tensors(tensors, network.state_dict())
    network = network.to_empty(device="cpu").eval().requires_grad_(False)
    network.load_state_dict(tensors)
    if _id(network) != told["id"]:
        raise BadFile("does not hold the weights that were written")
    return TrainedClassifier(network, **told)


def classifier_for(config: DataConfig, announce: Callable[[str], None], may_train: bool = True) -> TrainedClassifier:
    """The classifier of a data set: the shipped one, else one that is trained once on this machine and kept.

    Args:
        config: the data set, with its labels where none ships for it.
        announce: called with one line before training, which takes minutes.
        may_train: False refuses where that would be needed.

    Raises:
        InputError: the data can't be used, or there is no classifier for it yet.
    """
    if config.name in SHIPPED_FOR:
        return shipped()
    train = load_labelled(config, "train", announce)
    file = cache_file(f"classifier-{train.provenance.sha256[:16]}-v{FORMAT}.safetensors")
    try:
        return load_classifier(file)
    except InputError:
        if not may_train:
            raise InputError(
                f"there is no classifier for data.name={config.name} yet; gan-dist evaluate RUN trains one, once"
            ) from None
    try:
        held_out = load_labelled(config, "test", announce)
    except NoHeldOut:
        held_out = None
    trained = train_classifier(train, held_out, announce)
    keep(file, classifier_bytes(trained), announce)
    return trained
