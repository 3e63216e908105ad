"""The classifier of a data set: the shipped one, or one that is trained once and cached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F

from gan_dist.config import DataConfig, InputError
from gan_dist.data.images import LabelledImages, NoHeldOut
from gan_dist.data.pixels import normalize
from gan_dist.data.readers.location import CLASSES
from gan_dist.data.sources import load_labelled
from gan_dist.evaluation.cache import cache_file, write_cached
from gan_dist.evaluation.classifier import Classifier
from gan_dist.evaluation.classifier_file import (
    FORMAT,
    TrainedClassifier,
    classifier_bytes,
    load_classifier,
    shipped_classifier,
    weights_id,
)
from gan_dist.seeding import generator_for, seed_for

SHIPPED_FOR = ("mnist", "qmnist")  # QMNIST's digits are MNIST's, cropped again
BATCH = 128
MAX_LEARNING_RATE = 3e-3
MAX_SHIFT = 2  # pixels
HELD_OUT_EVERY = 10  # for data sets without held-out images


def classifier_for(config: DataConfig, announce: Callable[[str], None], may_train: bool = True) -> TrainedClassifier:
    """The classifier of a data set: the shipped one, else one that is trained once on this machine and cached.

    Args:
        config: the data set, with its labels unless a classifier for it ships with the package.
        announce: called with one line before training, which takes minutes.
        may_train: False raises an error instead of training.

    Raises:
        InputError: the data can't be used, or `may_train` is False and there is no classifier yet.
    """
    if config.name in SHIPPED_FOR:
        return shipped_classifier()
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
    write_cached(file, classifier_bytes(trained), announce)
    return trained


def train_classifier(
    train: LabelledImages,
    held_out: LabelledImages | None,
    announce: Callable[[str], None],
    seed: int = 0,
    epochs: int = 12,
) -> TrainedClassifier:
    """Train a classifier on the CPU. The arguments determine it, up to rounding: the number of threads changes the
    order of sums.

    Adam, one cycle of the learning rate (Smith & Topin 2018, arXiv:1708.07120), each batch shifted by a few pixels.

    Args:
        train: training images.
        held_out: images on which the accuracy is measured. None: every tenth image of `train`, which is then not
            trained on.
        announce: called with one line at the start; 60,000 images take about two minutes on one core.
        seed: random seed of the initial weights, order, shifts and dropout.
        epochs: passes over the images.

    Raises:
        InputError: there are too few images.
    """
    sha256 = train.provenance.sha256
    if held_out is None and len(train.images) < HELD_OUT_EVERY:
        raise InputError(
            f"{train.provenance.file} holds {len(train.images)} images, too few to train a classifier; "
            f"use {HELD_OUT_EVERY} or more"
        )
    if held_out is None:
        out = torch.arange(len(train.images)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
        held_out = replace(train, images=train.images[out], labels=train.labels[out])
        train = replace(train, images=train.images[~out], labels=train.labels[~out])
    name = train.provenance.name
    announce(f"training a classifier of {name} for the evaluation, on {len(train.images):,} images, {epochs} epochs")
    # The initial weights and dropout draw from the global generator, whose state is restored afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "classifier"))
        network = Classifier(CLASSES)
        _fit(network, train, seed, epochs)
    network.eval().requires_grad_(False)
    correct = sum(
        int((network(normalize(images)).argmax(1) == labels).sum())
        for images, labels in zip(held_out.images.split(1000), held_out.labels.split(1000), strict=True)
    )
    return TrainedClassifier(network, weights_id(network), correct / len(held_out.images), CLASSES, name, sha256)


def _fit(network: Classifier, train: LabelledImages, seed: int, epochs: int) -> None:
    size = min(BATCH, len(train.images))
    batches = len(train.images) // size
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, MAX_LEARNING_RATE, epochs * batches)
    for epoch in range(epochs):
        generator = generator_for(seed, "classifier/epoch", epoch)
        order = torch.randperm(len(train.images), generator=generator)[: batches * size].view(batches, size)
        shifts = torch.randint(-MAX_SHIFT, MAX_SHIFT + 1, (batches, 2), generator=generator).tolist()
        for indices, shift in zip(order, shifts, strict=True):
            images = normalize(train.images[indices]).roll(shift, dims=(2, 3))
            loss = F.cross_entropy(network(images), train.labels[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
