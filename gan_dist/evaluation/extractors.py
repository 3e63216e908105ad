"""Feature extractors: the networks whose features and classes the figures are computed from.

A new one is a function and a line in EXTRACTORS.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from gan_dist.config import DataConfig, InputError
from gan_dist.data.cache import cache_file, write_cached
from gan_dist.data.images import ImageSet
from gan_dist.data.readers.reader import NoHeldOut
from gan_dist.data.sources import load_held_out, load_images
from gan_dist.evaluation.classifier_file import (
    FORMAT,
    TrainedClassifier,
    classifier_bytes,
    load_classifier,
    shipped_classifier,
)
from gan_dist.evaluation.classifier_training import task_of, train_classifier


class Extractor(Protocol):
    """Finds or trains the network for a data set.

    Raises InputError if there is none, or if it would have to be trained and `may_train` is False.
    """

    def __call__(
        self, config: DataConfig, train: ImageSet, announce: Callable[[str], None], may_train: bool
    ) -> TrainedClassifier: ...


def shipped(config: DataConfig, train: ImageSet, announce: Callable[[str], None], may_train: bool) -> TrainedClassifier:
    """The classifier of MNIST's digits that ships with the package."""
    return shipped_classifier()


def trained_once(
    config: DataConfig, train: ImageSet, announce: Callable[[str], None], may_train: bool
) -> TrainedClassifier:
    """A classifier of the data set's classes, else of rotations (Gidaris et al. 2018, arXiv:1803.07728), which is
    trained once on this machine and cached.
    """
    key = train.provenance.sha256
    if train.labels is not None:
        key = hashlib.sha256(key.encode() + train.labels.numpy().tobytes()).hexdigest()
    file = cache_file(f"classifier-{key[:16]}-v{FORMAT}.safetensors")
    # A file of the same pixels may be of another task: with labels, or without.
    found = _load(file)
    if found is not None and (found.task, found.shape) == (task_of(train), tuple(train.images.shape[1:])):
        return found
    if not may_train:
        raise InputError(
            f"there is no classifier of {train.spec.name} yet; gan-dist data, with the flags of the run, or "
            "gan-dist evaluate RUN trains one, once"
        )
    try:
        held_out = load_held_out(config, announce)
    except NoHeldOut:
        held_out = None
    trained = train_classifier(train, held_out, announce)
    write_cached(file, classifier_bytes(trained), announce)
    return trained


# Value of DataSpec.features -> how images of such a data set are judged.
EXTRACTORS: dict[str, Extractor] = {
    "digits": shipped,
    "classifier": trained_once,
    "unlabelled": trained_once,
}


def classifier_for(
    config: DataConfig, announce: Callable[[str], None], may_train: bool = True, train: ImageSet | None = None
) -> TrainedClassifier:
    """The classifier that judges images of a data set, as its description says.

    Args:
        config: the data set.
        announce: called with one line before training, which takes minutes.
        may_train: False raises an error instead of training.
        train: the training images, if they are loaded already.

    Raises:
        InputError: the data can't be used, or `may_train` is False and there is no classifier yet.
    """
    train = load_images(config, announce) if train is None else train
    return EXTRACTORS[train.spec.features](config, train, announce, may_train)


def _load(file: Path) -> TrainedClassifier | None:
    """A classifier of the cache; None if it is missing or damaged."""
    try:
        return load_classifier(file)
    except InputError:
        return None
