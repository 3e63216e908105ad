"""Lists the pictures of a folder or a .zip file, without reading them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gan_dist.config import InputError
from gan_dist.data.readers.names import ACCEPTED, LABEL_FILES, SUFFIXES, is_hidden, is_picture, quoted
from gan_dist.data.readers.zipped import list_members, open_zip, read_member, zip_status
from gan_dist.files import BadFile, read_file

_ENCRYPTED = 0x1  # a flag of a member of a zip file


class File(NamedTuple):
    """A file with the name of a picture."""

    name: str
    """Relative to the root, with "/" as separator. Bytes that are not UTF-8 are surrogates, as in os.listdir."""
    size: int
    """In bytes."""
    stamp: int
    """Time of the last change in ns; of a member of a zip file, its CRC-32."""


@dataclass
class Listing:
    """The content of a root."""

    root: Path
    is_zip: bool
    files: list[File]
    """Sorted by the bytes of their names, which is the same order on every machine."""
    left_out: list[tuple[str, str]]
    """Names that can't be used, with the reason."""
    label_files: set[str] = field(default_factory=set)
    """Names of the files of LABEL_FILES."""
    others: int = 0
    """Number of visible files without the suffix of a picture."""
    zip_status: list[int] | None = None
    """Of the zip file before it was listed."""
    prefix: str = ""
    """Of the members of a zip file in which everything is in one folder; names are without it."""

    def read(self, name: str, max_bytes: int) -> bytes:
        """Read a small file of the root.

        Raises:
            InputError: it can't be read, or is larger than `max_bytes`.
        """
        try:
            if not self.is_zip:
                return read_file(self.root / name, max_bytes)
            with open_zip(self.root) as archive:
                return read_member(archive, self.prefix + name, max_bytes)
        except BadFile as error:
            raise InputError(f"{quoted(self.root / name)} {error}; replace it") from error


def list_pictures(root: Path) -> Listing:
    """List a folder and its sub-folders, or a zip file.

    Hidden files and folders are skipped, and files with other suffixes than SUFFIXES. A link to a folder is followed
    unless it leads to a folder that contains it, or to which another link has already led.

    Raises:
        InputError: the root or one of its folders can't be read, or the zip file is damaged or unsafe.
    """
    listing = _list_zip(root) if is_zip(root) else _list_folder(root)
    listing.files.sort(key=lambda file: os.fsencode(file.name))
    listing.left_out.sort()
    return listing


def is_zip(root: Path) -> bool:
    """Whether a root is a zip file, not a folder.

    Raises:
        InputError: it is neither, or can't be read.
    """
    try:
        mode = root.stat().st_mode
    except FileNotFoundError:
        what = "is a symbolic link to nothing" if root.is_symlink() else "does not exist"
        raise InputError(f"data.root={quoted(root)} {what}; pass --data.root with a folder or .zip file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"data.root={quoted(root)} can't be read ({reason}); pass another --data.root") from error
    if stat.S_ISDIR(mode):
        return False
    if root.suffix.lower() == ".zip" and stat.S_ISREG(mode):
        return True
    raise InputError(f"data.root={quoted(root)} is neither a folder nor a .zip file; pass another --data.root")


def check_root(root: Path, at_most: int = 10_000) -> None:
    """Check that a root has a picture, without listing all of it.

    Args:
        root: folder or zip file.
        at_most: number of names after which it is assumed to have one.

    Raises:
        InputError: it certainly has none, or as in `list_pictures`.
    """
    if is_zip(root):
        zipped = _list_zip(root)
        if not zipped.files:
            raise no_pictures(root, zipped.others)
        return
    listing = Listing(root, False, [], [])
    for _ in _walk(listing):
        if listing.files or listing.others >= at_most:
            return
    raise no_pictures(root, listing.others)


def no_pictures(root: Path, others: int) -> InputError:
    """The error of a root without pictures."""
    found = f"but {others:,} other file{'s' if others > 1 else ''}" if others else "and no other files"
    return InputError(
        f"data.root={quoted(root)} holds no pictures ({ACCEPTED}; names that end in {', '.join(SUFFIXES)}), "
        f"{found}; pass another --data.root"
    )


def _list_folder(root: Path) -> Listing:
    listing = Listing(root, False, [], [])
    for _ in _walk(listing):
        pass
    return listing


def _walk(listing: Listing) -> Iterator[None]:
    """Fill the listing of a folder, folder by folder."""
    seen_through_links: set[tuple[int, int]] = set()
    root = _identity(listing.root.stat())
    # A folder's name with "/", and its identity after those of the folders that contain it.
    pending: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", (root,))]
    while pending:
        name, inside = pending.pop()
        try:
            with os.scandir(listing.root / name) as entries:
                found = sorted(entries, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            raise InputError(
                f"{quoted(listing.root / name)} can't be read ({error.strerror}); make it readable, or move it"
            ) from error
        for entry in found:
            if is_hidden(entry.name):
                continue
            folder = _add(listing, entry, name + entry.name)
            if folder is None:
                continue
            if entry.is_symlink() and (folder in inside or folder in seen_through_links):
                listing.left_out.append((name + entry.name, "is a link to a folder that is listed already"))
                continue
            if entry.is_symlink():
                seen_through_links.add(folder)
            pending.append((f"{name}{entry.name}/", (*inside, folder)))
        yield


def _add(listing: Listing, entry: os.DirEntry[str], name: str) -> tuple[int, int] | None:
    """Add a file to the listing; returns the identity of a folder."""
    try:
        status = entry.stat()
    except OSError as error:  # of a link; other entries were just there
        if is_picture(name) or "." not in entry.name:
            reason = "is a link to nothing" if isinstance(error, FileNotFoundError) else f"({error.strerror})"
            listing.left_out.append((name, reason))
        return None
    if stat.S_ISDIR(status.st_mode):
        return _identity(status)
    if name.rpartition("/")[2] in LABEL_FILES:
        listing.label_files.add(name)
    elif not is_picture(name):
        listing.others += 1
    elif stat.S_ISREG(status.st_mode):
        listing.files.append(File(name, status.st_size, status.st_mtime_ns))
    else:
        listing.left_out.append((name, "is not a regular file"))
    return None


def _list_zip(root: Path) -> Listing:
    status = zip_status(root)
    members, prefix = list_members(root)
    listing = Listing(root, True, [], [], zip_status=status, prefix=prefix)
    for full, member in members.items():
        name = full.removeprefix(prefix)
        if name.rpartition("/")[2] in LABEL_FILES:
            listing.label_files.add(name)
        elif not is_picture(name):
            listing.others += 1
        elif stat.S_ISLNK(member.external_attr >> 16):
            listing.left_out.append((name, "is a link"))
        elif member.flag_bits & _ENCRYPTED:
            listing.left_out.append((name, "is encrypted"))
        else:
            listing.files.append(File(name, member.file_size, member.CRC))
    return listing


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
