"""Reads untrusted files and writes files atomically."""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

MAX_JSON_BYTES = 64 * 2**20
MAX_NESTING = 64


class BadFile(ValueError):
    """A file is unreadable or has unexpected content. The message is the reason, without the file's name."""


def read_file(file: Path, max_bytes: int, follow_links: bool = True) -> bytes:
    """Read a regular file of limited size.

    A FIFO, device or socket is rejected, because reading it could block.

    Args:
        file: its path.
        max_bytes: maximum size.
        follow_links: False rejects a symbolic link, which may point outside of the expected folder.

    Raises:
        BadFile: it can't be read, is not a regular file, or is larger than `max_bytes`.
    """
    with open_regular_file(file, follow_links) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > max_bytes:
            raise BadFile(f"is too large: {size:,} bytes; the maximum is {max_bytes:,}")
        try:
            content = stream.read(max_bytes + 1)
        except OSError as error:
            raise BadFile(f"can't be read ({error.strerror})") from error
    if len(content) > max_bytes:
        raise BadFile(f"is too large: more than {max_bytes:,} bytes")
    return content


def open_regular_file(file: Path, follow_links: bool = True) -> io.BufferedReader:
    """Open a regular file to read it in parts. `read_file` reads a whole file.

    Raises:
        BadFile: it can't be opened, or is not a regular file.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO blocks until another process writes to it.
        no_link = 0 if follow_links else os.O_NOFOLLOW
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | no_link)
    except OSError as error:
        raise BadFile(f"can't be read ({error.strerror})") from error
    except ValueError as error:  # a NUL character in the path
        raise BadFile(f"can't be read ({error})") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BadFile("is not a regular file")
    return os.fdopen(descriptor, "rb")


def parse_json(content: bytes) -> Any:
    """Parse JSON.

    Raises:
        BadFile: it is not UTF-8, not JSON, or nested deeper than `MAX_NESTING`.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise BadFile(f"is not valid JSON ({first_line(error)})") from None
    if not _is_shallow(value):
        raise BadFile(f"is not valid JSON (nested more than {MAX_NESTING} deep)")
    return value


def parse_json_object(content: bytes) -> dict[str, Any]:
    """Parse JSON that must be an object.

    Raises:
        BadFile: as in `parse_json`, or it is not an object.
    """
    value = parse_json(content)
    if not isinstance(value, dict):
        raise BadFile("does not hold a JSON object")
    return value


def _is_shallow(value: Any, depth: int = 0) -> bool:
    """Whether a value can be traversed and serialized within Python's recursion limit."""
    if not isinstance(value, dict | list):
        return True
    children = value.values() if isinstance(value, dict) else value
    return depth < MAX_NESTING and all(_is_shallow(child, depth + 1) for child in children)


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether a JSON value is a whole number; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


UNFINISHED = ".writing-"  # prefix of the names of incomplete files and folders


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder. It replaces `file` if the block succeeds, else it is removed.

    The name is random: processes of two containers may have the same number, and a folder from elsewhere may have a
    link of a foreseeable name, which a write would follow.
    """
    temporary = file.with_name(f"{UNFINISHED}{secrets.token_hex(6)}-{file.name}")
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object atomically."""
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to the disk, so that it survives a power failure."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
