"""Reads one split of a data set of encoded pictures, which are prepared first if they are not yet."""

from __future__ import annotations

from collections.abc import Iterator

from gan_dist.config import DataConfig, InputError
from gan_dist.data.preparation import Source, prepare
from gan_dist.data.prepared import Contents
from gan_dist.data.readers.names import quoted
from gan_dist.data.readers.reader import MIN_COMPARED, Context, NoHeldOut, Provenance, RawImages
from gan_dist.data.spec import DataSpec, Split
from gan_dist.files import BadFile


def read_prepared(
    source: Source, config: DataConfig, split: Split, context: Context, origin: tuple[str, str, str], way_out: str
) -> RawImages:
    """Read one split.

    Args:
        source: the pictures, whose `build` is a PictureBuild.
        config: verify.
        split: "train" or "test".
        context: for announcements and stops.
        origin: name, source and file of the provenance.
        way_out: in the message if too few pictures are held out.

    Raises:
        InputError: too many pictures are unusable, their sizes differ without data.size, or the cache can't be written.
        NoHeldOut: fewer than MIN_COMPARED pictures are held out.
        Stopped: a stop was requested.
    """
    prepared = prepare(source, context.announce, context.stop_requested, split if config.verify else None)
    contents = prepared.contents
    if split == "train":
        for line in _unexpected(contents):
            context.announce(line)
    elif contents.held_out < MIN_COMPARED:
        raise NoHeldOut(f"{source.name} has {contents.held_out} held-out pictures, too few to compare; {way_out}")
    count = contents.count if split == "train" else contents.held_out
    verified = "all pixels" if config.verify else "name, size and time of each file"
    name = origin[0]
    provenance = Provenance(*origin, count, prepared.sha256[split], verified)
    spec = DataSpec(
        name,
        contents.shape,
        contents.classes,
        contents.count,
        contents.held_out,
        "unlabelled" if contents.classes is None else "classifier",
    )
    notes = tuple(_describe(contents))
    try:
        pixels = prepared.pixels(split)
    except (BadFile, OSError) as error:
        raise InputError(f"{prepared.folder} {error}; rerun to prepare it again") from error
    return RawImages(pixels, prepared.labels(split), spec, provenance, notes=notes)


def _describe(contents: Contents) -> Iterator[str]:
    """What is known of the pictures, one line each."""
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


def _unexpected(contents: Contents) -> Iterator[str]:
    """What the user may not expect, one line each."""
    yield from contents.details["remarks"]
    if unusable := contents.details["unusable"]:
        name, reason = unusable[0]
        found = contents.details["files"]
        yield f"{len(unusable):,} of {found:,} pictures are not used, the first {quoted(name)}: {reason}"
