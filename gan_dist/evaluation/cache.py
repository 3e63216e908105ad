"""Files that are made once on a machine and found again by every run. All of it may be deleted at any time."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path

import platformdirs


def cache_file(name: str) -> Path:
    """Where the file `name` is kept: in $GAN_DIST_CACHE, else in the user's cache folder."""
    folder = os.environ.get("GAN_DIST_CACHE")
    return (Path(folder) if folder else platformdirs.user_cache_path("gan_dist")) / name


def keep(file: Path, content: bytes, announce: Callable[[str], None]) -> None:
    """Write a file of the cache: whole or not at all, however many processes do so at once.

    Where the folder can't be written this is announced, and the next run makes the content again.
    """
    # A new name, and "x": whatever lies there already is not written to, not through a symbolic link either.
    beside = file.with_name(f".writing-{uuid.uuid4()}-{file.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("xb") as stream:
                stream.write(content)
            beside.replace(file)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        announce(f"{file} can't be kept ({error.strerror}) and is made again next time; set GAN_DIST_CACHE to a folder")
