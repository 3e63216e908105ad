"""Trains a classifier on the images of a data set."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from gan_dist.config import InputError
from gan_dist.data.images import ImageSet
from gan_dist.data.pixels import normalize
from gan_dist.evaluation.classifier import Classifier
from gan_dist.evaluation.classifier_file import Task, TrainedClassifier, weights_id
from gan_dist.seeding import generator_for, seed_for

BATCH = 128
MAX_LEARNING_RATE = 3e-3
MAX_SHIFT = 2  # pixels
HELD_OUT_EVERY = 10  # for data sets without held-out images
EPOCHS = 12
# Few images are seen more often, many less often: the training takes minutes on one core.
MIN_STEPS, MAX_STEPS, MAX_EPOCHS = 1_000, 6_000, 60
TESTED = 1_000  # images classified at a time


def task_of(train: ImageSet) -> Task:
    """What a classifier of these images is trained to recognize."""
    return "rotations" if train.labels is None else "classes"


def train_classifier(
    train: ImageSet,
    held_out: ImageSet | None,
    announce: Callable[[str], None],
    seed: int = 0,
    epochs: int | None = None,
) -> TrainedClassifier:
    """Train a classifier on the CPU: of the labels, or of rotations if there are none. The arguments determine it, up
    to rounding: the number of threads changes the order of sums.

    Adam, one cycle of the learning rate (Smith & Topin 2018, arXiv:1708.07120), each batch shifted by a few pixels.

    Args:
        train: training images.
        held_out: images on which the accuracy is measured. None: every tenth image of `train`, which is then not
            trained on.
        announce: called with one line at the start; 60,000 images of 28x28 take about two minutes on one core.
        seed: random seed of the initial weights, order, shifts and dropout.
        epochs: passes over the images; None: EPOCHS, more for few images and less for many.

    Raises:
        InputError: there are too few images.
    """
    sha256, name = train.provenance.sha256, train.provenance.name
    if held_out is None and len(train.images) < HELD_OUT_EVERY:
        raise InputError(
            f"{train.provenance.file} holds {len(train.images)} images, too few to train a classifier; "
            f"use {HELD_OUT_EVERY} or more"
        )
    rows, tested = torch.arange(len(train.images)), held_out or train
    if held_out is None:
        out = rows % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
        rows, tested_rows = rows[~out], rows[out]
    else:
        tested_rows = torch.arange(len(held_out.images))
    epochs = epochs_for(len(rows)) if epochs is None else epochs
    task = task_of(train)
    _, channels, height, width = train.images.shape
    if train.labels is None:
        classes = 4 if height == width else 2
    else:
        classes = len(train.spec.classes) if train.spec.classes is not None else int(train.labels.max()) + 1
    what = f"of {name}" if task == "classes" else f"of rotations of {name}"
    announce(f"training a classifier {what} for the evaluation, on {len(rows):,} images, {epochs} epochs")
    # The initial weights and dropout draw from the global generator, whose state is restored afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "classifier"))
        network = Classifier(classes, (channels, height, width))
        _fit(network, train, rows, seed, epochs)
    network.eval().requires_grad_(False)
    accuracy = _accuracy(network, tested, tested_rows)
    return TrainedClassifier(network, weights_id(network), accuracy, classes, name, sha256, task)


def epochs_for(count: int) -> int:
    """Passes over `count` images."""
    batches = max(1, count // BATCH)
    return max(1, min(MAX_STEPS // batches, MAX_EPOCHS, max(EPOCHS, -(-MIN_STEPS // batches))))


def _fit(network: Classifier, train: ImageSet, rows: Int64[Tensor, " n"], seed: int, epochs: int) -> None:
    """Train on some rows of the images, which may be a memory-mapped file that is larger than the memory."""
    size = min(BATCH, len(rows))
    batches = len(rows) // size
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, MAX_LEARNING_RATE, epochs * batches)
    for epoch in range(epochs):
        generator = generator_for(seed, "classifier/epoch", epoch)
        order = rows[torch.randperm(len(rows), generator=generator)[: batches * size]].view(batches, size)
        shifts = torch.randint(-MAX_SHIFT, MAX_SHIFT + 1, (batches, 2), generator=generator).tolist()
        for indices, shift in zip(order, shifts, strict=True):
            images = normalize(train.images[indices]).roll(shift, dims=(2, 3))
            images, labels = _task(images, None if train.labels is None else train.labels[indices])
            loss = F.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def _task(
    images: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"] | None
) -> tuple[Float[Tensor, "n c h w"], Int64[Tensor, " n"]]:
    """The images and what is to be recognized: their labels, or by how many quarter turns each has been rotated.

    Images that are not square are rotated by half turns only.
    """
    if labels is not None:
        return images, labels
    square = images.shape[2] == images.shape[3]
    turns = torch.arange(len(images)) % (4 if square else 2)
    rotated = images.clone()
    for turn in range(1, 4 if square else 2):
        rotated[turns == turn] = images[turns == turn].rot90(turn if square else 2 * turn, (2, 3))
    return rotated, turns


def _accuracy(network: Classifier, images: ImageSet, rows: Int64[Tensor, " n"]) -> float:
    correct = 0
    for part in rows.split(TESTED):
        tested, labels = _task(normalize(images.images[part]), None if images.labels is None else images.labels[part])
        correct += int((network(tested).argmax(1) == labels).sum())
    return correct / len(rows)
