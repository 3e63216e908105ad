"""Which classes a conditional generator is asked for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from gan_dist.config import InputError
from gan_dist.config.suggestions import nearest
from gan_dist.data.readers.names import quoted
from gan_dist.seeding import sample_labels

MAX_SHOWN = 20  # classes in a message


def choose_labels(
    generator: nn.Module, count: int, seed: int, asked: Sequence[str] | None = None, field: str = "labels"
) -> Int64[Tensor, " count"] | None:
    """The labels of images that are generated.

    Args:
        generator: from `load_generator`.
        count: number of images.
        seed: random seed of the labels.
        asked: names or numbers of classes, which get equal shares of the images, in this order. None: the labels are
            drawn with the frequencies of the training images.
        field: name of the argument, for messages.

    Returns:
        None if the generator is unconditional.

    Raises:
        InputError: a class is unknown, there are more classes than images, or the generator is unconditional.
    """
    names, counts = generator.classes, generator.class_counts
    if names is None:
        if asked is not None:
            raise InputError(f"{field}={','.join(asked)} is for conditional runs, and this one is not; omit it")
        return None
    assert isinstance(names, tuple)
    assert isinstance(counts, Tensor)
    if asked is None:
        return sample_labels(count, counts, seed)
    if len(asked) > count:
        raise InputError(f"{field} has {len(asked)} classes, more than count={count}; use a higher count")
    chosen = torch.tensor([find_class(name, names, field) for name in asked])
    return chosen[torch.arange(count) * len(chosen) // count]


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
