"""A folder or .zip file of pictures of any size and format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gan_dist.config import DataConfig, InputError
from gan_dist.data.preparation import Source, prepare
from gan_dist.data.prepared import Contents
from gan_dist.data.readers.folder_build import FolderBuild, check_count, find_size
from gan_dist.data.readers.labels import Layout, arrange
from gan_dist.data.readers.listing import Listing, check_root, list_pictures, no_pictures
from gan_dist.data.readers.names import quoted
from gan_dist.data.readers.reader import MIN_COMPARED, Context, NoHeldOut, Provenance, RawImages, Reader, Split
from gan_dist.data.spec import MAX_NAME, DataSpec
from gan_dist.files import BadFile

VERSION = 1  # of the pixels that are made of the same files and settings


def read(config: DataConfig, split: Split, context: Context) -> RawImages:
    """Read one split, and prepare the pictures first if they are not yet.

    Args:
        config: root, size, channels, background, labels and verify.
        split: "train" or "test".
        context: for announcements and stops.

    Raises:
        InputError: there are too few pictures, too many are unusable, their sizes differ without data.size, the labels
            do not match them, or the cache can't be written.
        NoHeldOut: fewer than MIN_COMPARED pictures are held out.
        Stopped: a stop was requested.
    """
    listing = list_pictures(config.root)
    if not listing.files and not listing.left_out:
        raise no_pictures(config.root, listing.others)
    layout = arrange(listing, config.labels == "auto")
    check_count(listing, sum(entry.split == "train" for entry in layout.entries), listing.left_out)
    source = _source(config, listing, layout, context)
    prepared = prepare(source, context.announce, context.stop_requested, split if config.verify else None)
    contents = prepared.contents
    if split == "train":
        for line in _unexpected(contents.details):
            context.announce(line)
    elif contents.held_out < MIN_COMPARED:
        raise NoHeldOut(
            f"data.root={quoted(config.root)} has {contents.held_out} held-out pictures, too few to compare; "
            f"put {MIN_COMPARED} or more into train/ and test/ folders"
        )
    count = contents.count if split == "train" else contents.held_out
    verified = "all pixels" if config.verify else "name, size and time of each file"
    name = _name(config.root)
    provenance = Provenance(name, "local", str(config.root), count, prepared.sha256[split], verified)
    spec = DataSpec(
        name,
        contents.shape,
        contents.classes,
        contents.count,
        contents.held_out,
        "unlabelled" if contents.classes is None else "classifier",
    )
    notes = tuple(describe(contents))
    try:
        pixels = prepared.pixels(split)
    except (BadFile, OSError) as error:
        raise InputError(f"{prepared.folder} {error}; rerun to prepare it again") from error
    return RawImages(pixels, prepared.labels(split), spec, provenance, notes=notes)


READER = Reader(read, lambda config: check_root(config.root))


def describe(contents: Contents) -> Iterator[str]:
    """What is known of the files of a prepared folder, one line each."""
    details = contents.details
    yield f"classes: {details['labelled_by']}"
    yield f"held out: {details['held_out_by']}"
    sizes = [f"{size} ({count:,})" for size, count in details["sizes"].items()]
    more = details["distinct_sizes"] - len(sizes)
    yield f"sizes found: {', '.join(sizes)}{f', and {more:,} more' if more else ''}"
    if details["enlarged"]:
        yield f"{details['enlarged']:,} pictures are smaller than the images and were enlarged"
    for name, reason in details["unusable"]:
        yield f"not used: {quoted(name)} {reason}"
    if details["held_out_copies"]:
        yield f"{details['held_out_copies']:,} held-out pictures have the same pixels as a training picture"


def _unexpected(details: dict[str, Any]) -> Iterator[str]:
    yield from details["remarks"]
    if unusable := details["unusable"]:
        name, reason = unusable[0]
        found = details["files"]
        yield f"{len(unusable):,} of {found:,} pictures are not used, the first {quoted(name)}: {reason}"


def _name(root: Path) -> str:
    """Of the data set: that of the folder or file."""
    name = quoted(root.resolve().name)[:MAX_NAME]
    return name.removesuffix(".zip") or "folder"


def _source(config: DataConfig, listing: Listing, layout: Layout, context: Context) -> Source:
    """The folder as something that can be prepared."""
    width, height = (config.size, config.size) if config.size else find_size(listing, layout.entries)
    channels = 1 if config.channels == "1" else 3
    settings = [config.size, config.channels, config.background, config.labels]
    listed = [layout.classes, layout.labelled_by, layout.held_out_by, layout.remarks, listing.left_out, layout.entries]
    images = len(layout.entries)
    return Source(
        f"data.root={quoted(config.root)}",
        {"reader": "folder", "version": VERSION, "root": str(config.root.resolve()), "settings": settings},
        hashlib.sha256(json.dumps(listed).encode()).hexdigest(),
        images,
        images * (channels * width * height + 8),
        FolderBuild(config, listing, layout, (channels, height, width), context),
    )
