"""What a data set is: its name, the shape of its images, its classes, its counts, and how images of it are judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, TypeGuard

from gan_dist.config.tables import keys_of
from gan_dist.files import BadFile, is_whole

MAX_SIDE = 4_096  # pixels
MAX_CLASSES = 10_000
MAX_NAME = 1_000  # characters of a class's name

Split = Literal["train", "test"]
"""Training images, or held-out ones."""

EXTRACTORS = keys_of("evaluation/extractors.py", "EXTRACTORS")
Features: TypeAlias = str
"""A key of EXTRACTORS: what extracts the features of an evaluation. digits: the shipped classifier of MNIST's digits,
one channel at a time. classifier: one that is trained on the labels of the data set. unlabelled: a network that is
trained without labels."""


@dataclass(frozen=True)
class DataSpec:
    """The description of a data set, from its reader."""

    name: str
    shape: tuple[int, int, int]
    """(C, H, W) of an image as the networks see it."""
    classes: tuple[str, ...] | None
    """Name of each class, in the order of the labels; None if the images have no labels."""
    count: int
    """Number of training images."""
    held_out: int
    """Number of held-out images; 0 if there are none."""
    features: Features
    """How images are judged."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON stores it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def describe_shape(self) -> str:
        """The shape of an image in words, for tables."""
        channels, height, width = self.shape
        return f"{width}x{height}, {'grey' if channels == 1 else f'{channels} channels'}"

    @classmethod
    def from_dict(cls, values: Any) -> DataSpec:
        """The inverse of `to_dict`, for values from a file.

        Raises:
            BadFile: a value is missing, of another type, or out of range.
        """
        names = cls.__dataclass_fields__.keys()
        if not isinstance(values, Mapping) or values.keys() != names:
            raise BadFile(f"does not describe a data set by {', '.join(names)}")
        shape, classes = values["shape"], values["classes"]
        for name, ok in {
            "name": isinstance(values["name"], str) and 0 < len(values["name"]) <= MAX_NAME,
            "shape": is_shape(shape),
            "classes": classes is None or are_classes(classes),
            "count": is_whole(values["count"]) and values["count"] > 0,
            "held_out": is_whole(values["held_out"]) and values["held_out"] >= 0,
            "features": values["features"] in EXTRACTORS,
        }.items():
            if not ok:
                raise BadFile(f"describes a data set with an invalid {name}")
        return cls(**{**values, "shape": tuple(shape), "classes": None if classes is None else tuple(classes)})


def is_shape(value: Any) -> bool:
    """Whether a value from JSON is a shape (C, H, W) of images."""
    return isinstance(value, list) and len(value) == 3 and all(is_whole(n) and 0 < n <= MAX_SIDE for n in value)


def are_classes(value: Any) -> TypeGuard[list[str]]:
    """Whether a value from JSON is a list of distinct names of classes."""
    if not isinstance(value, list) or not 0 < len(value) <= MAX_CLASSES:
        return False
    return all(isinstance(name, str) and len(name) <= MAX_NAME for name in value) and len({*value}) == len(value)
