"""Prepares a data set once per machine: all or nothing, and by one process at a time."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from gan_dist.config import InputError, Stopped
from gan_dist.data.cache import cache_file, try_lock
from gan_dist.data.prepared import (
    DESCRIPTION,
    LABELS,
    PIXELS,
    SPLITS,
    Contents,
    Prepared,
    Split,
    hash_pixels,
    open_prepared,
    write_description,
)
from gan_dist.data.progress import progress_bar
from gan_dist.files import UNFINISHED, BadFile, sync

Advance = Callable[[int], None]
"""Called with the number of images that were prepared since the last call. Raises Stopped if a stop was requested."""

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_POLL = 0.1  # seconds between two attempts to get the lock
_BLOCK_BYTES = 2**24  # of the images that `write_blocks` converts at a time
_SPARE_BYTES = 2**20  # for the description


@dataclass(frozen=True)
class Source:
    """What can be prepared."""

    name: str
    """In messages, such as "data.root=pictures"."""
    origin: Mapping[str, Any]
    """Where it is and the settings, as JSON stores them."""
    version: str
    """Changes with the content."""
    count: int
    """Number of images, for the progress bar."""
    most_bytes: int
    """That the prepared files may need."""
    build: Callable[[Path, Advance], Contents]
    """Writes the pixels, uint8 (n, C, H, W) with the training images first, to a new file with this path."""


class _Caller(NamedTuple):
    """The functions of the caller."""

    announce: Callable[[str], None]
    stop_requested: Callable[[], bool]

    def poll(self) -> None:
        if self.stop_requested():
            raise Stopped("the preparation of the data was stopped; nothing of it was kept")


def prepare(
    source: Source, announce: Callable[[str], None], stop_requested: Callable[[], bool], verify: Split | None = None
) -> Prepared:
    """Open a prepared data set; prepare it first if it was not yet, has changed since, or is damaged.

    Args:
        source: what to prepare.
        announce: called with one line if another process is waited for, or if the source has changed.
        stop_requested: polled several times per second.
        verify: a split whose pixels are all read and compared with their hash.

    Raises:
        InputError: the cache can't be written or has no space, or from `source.build`.
        Stopped: a stop was requested. Nothing was kept.
    """
    caller = _Caller(announce, stop_requested)
    origin = _hash(json.dumps(source.origin, sort_keys=True))
    folder = cache_file(f"data-{origin}-{_hash(source.version)}")
    ready = _open(folder, caller._replace(announce=lambda line: None), verify)  # damage is announced below
    if ready is not None:
        return ready
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f"data-{origin}.lock"), source, caller) as alone:
            ready = _open(folder, caller, verify)  # another process may have prepared it meanwhile
            if ready is None:
                if alone:
                    _remove_unfinished(folder.parent, origin)
                ready = _prepare(source, caller, folder, origin)
            return ready
    except OSError as error:
        free = f" with {_megabytes(source.most_bytes)} free" if error.errno in _NO_SPACE else ""
        raise InputError(
            f"the cache {folder.parent} can't be written ({error.strerror}); "
            f"set GAN_DIST_CACHE to a writable folder{free}"
        ) from error


def write_blocks(
    file: Path, shape: tuple[int, ...], fill: Callable[[int, int, UInt8[np.ndarray, "n c h w"]], None], advance: Advance
) -> None:
    """Write pixels block by block, for sources that are arrays.

    Args:
        file: the path that `Source.build` gets.
        shape: (n, C, H, W) of all images.
        fill: called with start, stop and an array, into which it writes the images from start to stop.
        advance: as in `Source.build`.
    """
    count, *image = shape
    step = max(1, _BLOCK_BYTES // math.prod(image))
    with open(file, "wb") as stream:
        for start in range(0, count, step):
            block = np.zeros((min(step, count - start), *image), np.uint8)
            fill(start, start + len(block), block)
            stream.write(block.data)
            advance(len(block))


def _open(folder: Path, caller: _Caller, verify: Split | None) -> Prepared | None:
    """Open a prepared data set; None if it has to be prepared."""
    try:
        prepared = open_prepared(folder)
        if prepared is not None and verify is not None:
            prepared.verify(verify, caller.poll)
    except (BadFile, OSError) as error:
        if os.path.lexists(folder):  # else it was removed meanwhile
            caller.announce(f"{folder} {error}; it is prepared again")
        return None
    return prepared


def _prepare(source: Source, caller: _Caller, folder: Path, origin: str) -> Prepared:
    """Prepare a data set, while this process has the lock."""
    older = [path for path in folder.parent.glob(f"data-{origin}-*") if path != folder]
    if older:
        caller.announce(f"{source.name} has changed since it was prepared, so it is prepared again")
    free = shutil.disk_usage(folder.parent).free
    needed = source.most_bytes + _SPARE_BYTES
    if free < needed:
        raise InputError(
            f"the cache {folder.parent} has {_megabytes(free)} free, but {source.name} needs {_megabytes(needed)}; "
            "free some space, or set GAN_DIST_CACHE to a folder on another disk"
        )
    building = folder.with_name(f"{UNFINISHED}{uuid.uuid4().hex[:8]}-{folder.name}")
    building.mkdir()
    try:
        _build(source, caller, building)
        _remove(folder)  # a damaged one
        _publish(building, folder)
    finally:
        _remove(building)
    for path in older:
        _remove(path)
    prepared = open_prepared(folder)
    assert prepared is not None
    return prepared


def _build(source: Source, caller: _Caller, folder: Path) -> None:
    """Fill a new folder."""
    file = folder / PIXELS
    with progress_bar(f"preparing {source.name}", source.count) as show:

        def advance(count: int) -> None:
            show(count)
            caller.poll()

        contents = source.build(file, advance)
    train_bytes = contents.count * math.prod(contents.shape)
    end = train_bytes + contents.held_out * math.prod(contents.shape)
    assert file.stat().st_size == end, "the source wrote another number of images"
    ranges = zip(SPLITS, (0, train_bytes), (train_bytes, end), strict=True)
    sha256 = {split: hash_pixels(file, start, stop, caller.poll) for split, start, stop in ranges}
    write_description(folder, contents, sha256)


def _publish(building: Path, folder: Path) -> None:
    for name in (PIXELS, LABELS, DESCRIPTION):
        if (building / name).exists():
            sync(building / name)
    sync(building)
    try:
        building.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # without locks, another process may have been faster
            raise
    sync(folder.parent)


@contextlib.contextmanager
def _locked(file: Path, source: Source, caller: _Caller) -> Iterator[bool]:
    """Keep other processes from preparing the same; yields False if the file system has no locks."""
    announced = False
    while (lock := try_lock(file)) is None:
        if not announced:
            caller.announce(f"waiting for another process that prepares {source.name}")
            announced = True
        caller.poll()
        time.sleep(_POLL)
    descriptor, alone = lock
    try:
        yield alone
    finally:
        if alone:
            file.unlink(missing_ok=True)
        os.close(descriptor)


def _remove_unfinished(cache: Path, origin: str) -> None:
    """Remove what killed processes left behind. `origin` is locked by this process."""
    for path in cache.glob(f"{UNFINISHED}*-data-*-*"):
        other = path.name.split("-data-")[1].split("-")[0]
        if other == origin:
            _remove(path)
            continue
        with contextlib.suppress(OSError):
            file = cache / f"data-{other}.lock"
            lock = try_lock(file)
            if lock is not None:
                if lock[1]:
                    _remove(path)
                    file.unlink(missing_ok=True)
                os.close(lock[0])


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
