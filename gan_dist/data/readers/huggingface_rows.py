"""What is known of a Hugging Face data set: the files of its rows, and their labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gan_dist.data.readers.arrow import ArrowFile
from gan_dist.files import BadFile, is_whole


@dataclass(frozen=True)
class Rows:
    """A split."""

    name: str
    files: list[ArrowFile]
    count: int
    labels: list[str | int | None] | None
    """Of each row, as the data set has them; None if there is no column of classes."""


@dataclass(frozen=True)
class HubData:
    """A data set that was found."""

    column: str
    """Of the pictures."""
    label: str | None
    """Column of the classes."""
    names: list[str] | None
    """Of the classes, if the labels are their indices."""
    label_problem: str | None
    """Why there is no column of classes although there could be."""
    measured: tuple[int, int, int] | None
    """Row, width and height of the first picture of the training split that can be read."""
    splits: list[Rows]
    """The training split, and the held-out one if there is one."""


def parse(values: Any) -> HubData:
    """Check the description of a data set, from `huggingface_load` or the cache.

    Raises:
        BadFile: a value is missing, of another type, or out of range.
    """
    if not isinstance(values, Mapping) or values.keys() != HubData.__dataclass_fields__.keys():
        raise BadFile("is described by other values than expected")
    splits, measured, names = values["splits"], values["measured"], values["names"]
    for name, ok in {
        "column": isinstance(values["column"], str),
        "label": isinstance(values["label"], str | None),
        "label_problem": isinstance(values["label_problem"], str | None),
        "names": names is None or (isinstance(names, list) and all(isinstance(each, str) for each in names)),
        "measured": measured is None or _are_sizes(measured, 3),
        "splits": isinstance(splits, list) and len(splits) in (1, 2) and all(map(_is_split, splits)),
    }.items():
        if not ok:
            raise BadFile(f"is described with an invalid {name}")
    rows = [Rows(**{**split, "files": [ArrowFile(*file) for file in split["files"]]}) for split in splits]
    labelled = {split.labels is not None for split in rows}
    if len({split.name for split in rows}) < len(rows) or labelled != {values["label"] is not None}:
        raise BadFile("is described with invalid splits")
    return HubData(**{**values, "measured": None if measured is None else tuple(measured), "splits": rows})


def _is_split(value: Any) -> bool:
    if not isinstance(value, Mapping) or value.keys() != Rows.__dataclass_fields__.keys():
        return False
    files, labels, count = value["files"], value["labels"], value["count"]
    if not isinstance(value["name"], str) or not re.fullmatch(r"[\w.-]{1,100}", value["name"]):
        return False
    if not is_whole(count) or count < 0 or not isinstance(files, list):
        return False
    if not all(
        isinstance(file, list) and file and isinstance(file[0], str) and _are_sizes(file[1:], 2) for file in files
    ):
        return False
    return labels is None or (
        isinstance(labels, list)
        and len(labels) == count
        and all(label is None or isinstance(label, str) or is_whole(label) for label in labels)
    )


def _is_file(value: Any) -> bool:
    return isinstance(value, list) and value != [] and isinstance(value[0], str) and _are_sizes(value[1:], 2)


def _are_sizes(values: Any, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(is_whole(each) and each >= 0 for each in values)
