"""Data sets of the Hugging Face hub, and local copies of them: --data.name hf:USER/SET."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from gan_dist.config import DataConfig, InputError
from gan_dist.config.hub import hub_id
from gan_dist.data.preparation import Source
from gan_dist.data.prepared import SPLITS
from gan_dist.data.readers.decoder import Job
from gan_dist.data.readers.huggingface_find import check, find, find_copy
from gan_dist.data.readers.huggingface_rows import HubData
from gan_dist.data.readers.layout import IGNORE, Entry, Layout, Value, hold_out, number_classes, printable
from gan_dist.data.readers.listing import File
from gan_dist.data.readers.picture import BACKGROUNDS
from gan_dist.data.readers.picture_build import PictureBuild, check_count
from gan_dist.data.readers.prepared_pictures import read_prepared
from gan_dist.data.readers.reader import MIN_COMPARED, Context, RawImages, Reader
from gan_dist.data.spec import MAX_NAME, MAX_SIDE, Split

VERSION = 1  # of the pixels that are made of the same rows and settings


def read(config: DataConfig, split: Split, context: Context) -> RawImages:
    """Read one split, and download and prepare the pictures first if necessary.

    Args:
        config: name, root, source, size, channels, background, labels, verify and download_timeout.
        split: "train" or "test".
        context: for announcements and stops.

    Raises:
        InputError: the data set can't be loaded, has no pictures, too many are unusable, their sizes differ without
            data.size, its labels can't be used, or the cache can't be written.
        NoHeldOut: fewer than MIN_COMPARED pictures are held out.
        Stopped: a stop was requested.
    """
    name = _id(config)
    check(config, name)
    copy = None if config.source == "download" else find_copy(config, name)
    data = find(config, name, copy, context)
    layout = arrange(data, f"data.name={config.name}", config.labels == "auto")
    check_count(f"data.name={config.name}", sum(entry.split == "train" for entry in layout.entries), ())
    source = _source(config, copy, data, layout, context)
    origin = (name, "download", name) if copy is None else (name, "local", str(copy))
    return read_prepared(
        source, config, split, context, origin, f"use a data set with a test split of {MIN_COMPARED} or more"
    )


READER = Reader(read, lambda config: check(config, _id(config)))


def _id(config: DataConfig) -> str:
    name = hub_id(config.name)
    assert name is not None, "another reader's name"
    return name


def arrange(data: HubData, shown: str, use_labels: bool) -> Layout:
    """Find the held-out pictures and the classes.

    Held-out pictures are those of the second split. If there is none, one in HELD_OUT_SHARE is held out by the hash of
    the name of the split and the row.

    Args:
        data: the data set.
        shown: the data set, in messages.
        use_labels: False: no classes.

    Raises:
        InputError: the labels can't be used.
    """
    files: list[File] = []
    splits: list[Split] = []
    for rows, part in zip(data.splits, SPLITS, strict=False):
        size = sum(file.size for file in rows.files) // max(rows.count, 1)  # on average
        files += [File(f"{rows.name}/{row:07d}", size, row) for row in range(rows.count)]
        splits += [part] * rows.count
    values, labelled_by = _values(data, shown, [file.name for file in files]) if use_labels else (None, "ignored")
    if len(data.splits) > 1:
        held_out_by = f"the split {data.splits[1].name}"
    else:
        splits, held_out_by = hold_out([file.name for file in files], values, "row's number")
    if values is not None and len({*values}) < 2:
        labelled_by, values = "all pictures are of one class", None
    classes, labels = None, [-1] * len(files)
    if values is not None:
        classes, labels = number_classes(shown, splits, values)
        if data.names is not None:
            classes = _named(shown, [data.names[int(number)] for number in classes])
    entries = [Entry(*entry) for entry in zip(files, splits, labels, strict=True)]
    entries.sort(key=lambda entry: entry.split == "test")  # stable
    return Layout(entries, classes, labelled_by, held_out_by)


def _values(data: HubData, shown: str, rows: list[str]) -> tuple[list[Value] | None, str]:
    """The class of each row, and where it is from; None if there are no classes."""
    if data.label_problem is not None:
        raise InputError(f"{shown} {data.label_problem}, or {IGNORE}")
    if data.label is None:
        return None, "no column of classes"
    found = [label for split in data.splits for label in split.labels or ()]
    without = [row for row, label in zip(rows, found, strict=True) if label in (None, -1)]
    if len(without) == len(rows):
        return None, f"the column {data.label} has no labels"
    if without:
        raise InputError(
            f"{shown} has no label for {len(without):,} of {len(rows):,} pictures, the first {without[0]}; {IGNORE}"
        )
    values = [printable(label) if isinstance(label, str) else label for label in found if label is not None]
    if data.names is not None and not all(isinstance(each, int) and 0 <= each < len(data.names) for each in values):
        raise InputError(f"{shown} has labels that are none of its {len(data.names):,} classes; {IGNORE}")
    if len({type(value) for value in values}) > 1:
        raise InputError(f"{shown} has both numbers and names as labels; {IGNORE}")
    return values, f"the column {data.label}"


def _named(shown: str, names: list[str]) -> tuple[str, ...]:
    """Names of classes that can be stored."""
    classes = tuple(map(printable, names))
    if len({*classes}) < len(classes) or max(map(len, classes)) > MAX_NAME:
        raise InputError(f"{shown} has classes with the same name, or with more than {MAX_NAME:,} characters; {IGNORE}")
    return classes


def _source(config: DataConfig, copy: Path | None, data: HubData, layout: Layout, context: Context) -> Source:
    """The data set as something that can be prepared."""
    name = f"data.name={config.name}"
    sized_by, width, height = "", config.size or 1, config.size or 1
    if config.size is None and data.measured is not None:
        row, width, height = data.measured
        sized_by = f"{data.splits[0].name}/{row:07d}"
        if max(width, height) > MAX_SIDE:
            raise InputError(
                f"{name} has a picture of {width}x{height} pixels, more than {MAX_SIDE} per side; "
                "pass --data.size N to resize the pictures to NxN"
            )
    channels = 1 if config.channels == "1" else 3
    settings = [config.size, config.channels, config.background, config.labels]
    where = None if copy is None else str(copy.resolve())
    listed = [layout.classes, layout.labelled_by, layout.held_out_by, layout.entries]
    tables = {rows.name: rows.files for rows in data.splits}
    images = len(layout.entries)
    job = Job(
        root=config.name,
        is_zip=False,
        prefix="",
        zip_status=None,
        output="",
        shape=(channels, height, width),
        size=config.size,
        background=BACKGROUNDS[config.background],
        tables=tables,
        column=data.column,
    )
    return Source(
        name,
        {"reader": "huggingface", "version": VERSION, "name": config.name, "root": where, "settings": settings},
        hashlib.sha256(json.dumps([listed, tables, data.column]).encode()).hexdigest(),
        images,
        images * (channels * width * height + 8),
        PictureBuild(name, Path(config.name), config, layout, (), sized_by, job, context),
    )
