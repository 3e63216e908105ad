"""Reads .zip files without extracting them."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from gan_dist.config import InputError
from gan_dist.data.readers.names import is_hidden, quoted
from gan_dist.files import BadFile, first_line, open_regular_file


def list_members(root: Path) -> tuple[dict[str, zipfile.ZipInfo], str]:
    """The visible files of a zip file by name, and the folder at the top that contains everything.

    Returns:
        The members, and the folder with "/", as if one zips a folder; "" if there is none.

    Raises:
        InputError: the file can't be read, is damaged, or has a path that leads out of it.
    """
    with open_zip(root) as archive:
        members = {member.filename: member for member in archive.infolist() if not member.is_dir()}
    for name in members:
        if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts or name[1:2] == ":":
            raise InputError(f"{quoted(root)} holds {quoted(name)}, a path outside of it; make another .zip file")
    visible = {name: member for name, member in members.items() if not any(map(is_hidden, name.split("/")))}
    return visible, _common_folder(visible)


@contextlib.contextmanager
def open_zip(root: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip file to read it.

    Raises:
        InputError: it can't be read, or is damaged.
    """
    try:
        stream = open_regular_file(root)
    except BadFile as error:
        raise InputError(f"{quoted(root)} {error}; pass another --data.root") from error
    with stream:
        try:
            archive = zipfile.ZipFile(stream)
        except Exception as error:  # zipfile raises almost anything for damaged files
            reason = first_line(error)
            raise InputError(f"{quoted(root)} is not a .zip file, or is damaged ({reason}); replace it") from error
        with archive:
            yield archive


def read_member(archive: zipfile.ZipFile, name: str, max_bytes: int) -> bytes:
    """Read a member of a zip file; its checksum is verified.

    Raises:
        BadFile: it is damaged, or larger than `max_bytes`.
    """
    try:
        with archive.open(name) as stream:
            content = stream.read(max_bytes + 1)
    except Exception as error:
        raise BadFile(f"can't be read from the .zip file ({first_line(error)})") from error
    if len(content) > max_bytes:
        raise BadFile(f"is too large: more than {max_bytes:,} bytes")
    return content


def _common_folder(names: dict[str, zipfile.ZipInfo]) -> str:
    """The folder at the top that contains everything, with "/", as if one zips a folder; "" if there is none."""
    tops = {name.partition("/")[0] for name in names if "/" in name}
    if len(tops) != 1 or any("/" not in name for name in names):
        return ""
    (top,) = tops
    return "" if top == "train" else f"{top}/"


def zip_status(root: str | Path) -> list[int]:
    """What changes if a zip file is replaced or written: device, inode, size, time of the last change."""
    status = os.stat(root)
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]
