"""Which classes a conditional generator is asked for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from gan_dist.config import InputError
from gan_dist.config.suggestions import nearest
from gan_dist.data.batch import Labels
from gan_dist.data.readers.names import quoted
from gan_dist.seeding import sample_labels

MAX_SHOWN = 20  # classes in a message


@dataclass(frozen=True)
class LabelSequence:
    """The labels of images that are generated, each a function of its index, so that no more than a part is stored."""

    count: int
    """Number of images."""
    seed: int
    """Random seed of the labels."""
    class_counts: Int64[Tensor, " classes"] | None
    """Number of training images of each class; None: unconditional."""
    asked: Int64[Tensor, " asked"] | None = None
    """Classes that get equal shares of the images, in this order. None: drawn with the frequencies of the training
    images."""

    def __call__(self, start: int, stop: int) -> Labels | None:
        """Those of the images from `start` to `stop`, exclusively; None if the generator is unconditional."""
        if self.class_counts is None:
            return None
        if self.asked is None:
            return sample_labels(stop - start, self.class_counts, self.seed, start=start)
        return self.asked[torch.arange(start, stop) * len(self.asked) // self.count]


def label_sequence(
    generator: nn.Module, count: int, seed: int, asked: Sequence[str] | None = None, field: str = "labels"
) -> LabelSequence:
    """Choose the labels of images that are generated.

    Args:
        generator: from `load_generator`.
        count: number of images.
        seed: random seed of the labels.
        asked: names or numbers of classes, which get equal shares of the images, in this order. None: the labels are
            drawn with the frequencies of the training images.
        field: name of the argument, for messages.

    Raises:
        InputError: a class is unknown, there are more classes than images, or the generator is unconditional.
    """
    chosen = None if asked is None else find_classes(generator, asked, field)
    if chosen is not None and len(chosen) > count:
        raise InputError(f"{field} has {len(chosen)} classes, more than count={count}; use a higher count")
    counts = generator.class_counts
    assert counts is None or isinstance(counts, Tensor)
    return LabelSequence(count, seed, counts, chosen)


def choose_labels(
    generator: nn.Module, count: int, seed: int, asked: Sequence[str] | None = None, field: str = "labels"
) -> Labels | None:
    """All labels of `label_sequence`, for the same arguments; None if the generator is unconditional."""
    return label_sequence(generator, count, seed, asked, field)(0, count)


def find_classes(generator: nn.Module, asked: Sequence[str], field: str) -> Int64[Tensor, " asked"]:
    """The numbers of classes.

    Raises:
        InputError: a class is unknown, or the generator is unconditional.
    """
    names = generator.classes
    if names is None:
        raise InputError(f"{field}={','.join(asked)} is for conditional runs, and this one is not; omit it")
    assert isinstance(names, tuple)
    return torch.tensor([find_class(name, names, field) for name in asked])


def find_class(asked: str, names: Sequence[str], field: str) -> int:
    """The number of a class, from its name or its number. Names have precedence.

    Raises:
        InputError: there is no such class; the message has the nearest names.
    """
    if asked in names:
        return names.index(asked)
    numbered = any(map(str.isdigit, names))  # then a number is a name
    if asked.isascii() and asked.isdigit() and int(asked[:9]) < len(names) and not numbered:
        return int(asked[:9])
    near = difflib.get_close_matches(asked, names, n=MAX_SHOWN, cutoff=0.0) if len(names) > MAX_SHOWN else names
    more = "" if numbered else f", or a number from 0 to {len(names) - 1}"
    more = f", … ({len(names)} classes){more}" if len(names) > MAX_SHOWN else more
    raise InputError(f"{field}={quoted(asked)} is not a class of this run; {nearest(asked, near)}{more}")
