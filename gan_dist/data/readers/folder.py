"""A folder or .zip file of pictures of any size and format."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from gan_dist.config import DataConfig, InputError
from gan_dist.data.preparation import Source
from gan_dist.data.readers.decoder import Job, read_file
from gan_dist.data.readers.labels import arrange
from gan_dist.data.readers.layout import Entry, Layout
from gan_dist.data.readers.listing import Listing, check_root, list_pictures, no_pictures
from gan_dist.data.readers.names import quoted
from gan_dist.data.readers.picture import BACKGROUNDS, MAX_FILE_BYTES, measure
from gan_dist.data.readers.picture_build import UNUSABLE_SHARE, PictureBuild, check_count
from gan_dist.data.readers.prepared_pictures import read_prepared
from gan_dist.data.readers.reader import MIN_COMPARED, Context, RawImages, Reader
from gan_dist.data.readers.zipped import open_zip, read_member
from gan_dist.data.spec import MAX_NAME, MAX_SIDE, Split
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
    trained = sum(entry.split == "train" for entry in layout.entries)
    check_count(f"data.root={quoted(config.root)}", trained, listing.left_out)
    source = _source(config, listing, layout, context)
    origin = (_name(config.root), "local", str(config.root))
    return read_prepared(
        source, config, split, context, origin, f"put {MIN_COMPARED} or more into train/ and test/ folders"
    )


READER = Reader(read, lambda config: check_root(config.root))


def _name(root: Path) -> str:
    """Of the data set: that of the folder or file."""
    name = quoted(root.resolve().name)[:MAX_NAME]
    return name.removesuffix(".zip") or "folder"


def _source(config: DataConfig, listing: Listing, layout: Layout, context: Context) -> Source:
    """The folder as something that can be prepared."""
    name, sized_by = f"data.root={quoted(config.root)}", ""
    width, height = config.size or 1, config.size or 1
    if config.size is None:
        sized_by, width, height = _find_size(listing, layout)
    channels = 1 if config.channels == "1" else 3
    settings = [config.size, config.channels, config.background, config.labels]
    listed = [layout.classes, layout.labelled_by, layout.held_out_by, layout.remarks, listing.left_out, layout.entries]
    images = len(layout.entries)
    job = Job(
        str(listing.root.absolute()),
        listing.is_zip,
        listing.prefix,
        listing.zip_status,
        "",
        (channels, height, width),
        config.size,
        BACKGROUNDS[config.background],
    )
    return Source(
        name,
        {"reader": "folder", "version": VERSION, "root": str(config.root.resolve()), "settings": settings},
        hashlib.sha256(json.dumps(listed).encode()).hexdigest(),
        images,
        images * (channels * width * height + 8),
        PictureBuild(name, listing.root, config, layout, listing.left_out, sized_by, job, context),
    )


def _find_size(listing: Listing, layout: Layout) -> tuple[str, int, int]:
    """Name, width and height of the first picture that can be read, whose size all must have without data.size.

    Raises:
        InputError: it is too large.
    """
    for entry in layout.entries[: 1 + len(layout.entries) // UNUSABLE_SHARE]:
        try:
            width, height = measure(_read(listing, entry))
        except BadFile:
            continue
        if max(width, height) > MAX_SIDE:
            raise InputError(
                f"{quoted(listing.root / entry.file.name)} has {width}x{height} pixels, more than {MAX_SIDE} per side; "
                "pass --data.size N to resize the pictures to NxN"
            )
        return entry.file.name, width, height
    return "", 1, 1  # too many are unusable, which the preparation explains


def _read(listing: Listing, entry: Entry) -> bytes:
    name, size, stamp = entry.file
    if not listing.is_zip:
        return read_file(str(listing.root / name), size, stamp)
    with open_zip(listing.root) as archive:
        return read_member(archive, listing.prefix + name, MAX_FILE_BYTES)
