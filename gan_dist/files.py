"""Files: reading them when they may hold anything, and writing them whole or not at all."""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 64 * 2**20
MAX_NESTING = 64


class BadFile(ValueError):
    """A file is not what it should be. The message says what is wrong, without the file's name."""


def read_file(file: Path, max_bytes: int, follow_links: bool = True) -> bytes:
    """Read a regular file of limited size.

    A FIFO, device or socket is refused instead of waited for.

    Args:
        file: its path.
        max_bytes: the largest size that is read.
        follow_links: False refuses a symbolic link, which may lead out of the folder that the file is expected in.

    Raises:
        BadFile: it can't be read, is no regular file, or is larger than `max_bytes`.
    """
    with open_regular_file(file, follow_links) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > max_bytes:
            raise BadFile(f"is too large: {size:,} bytes, at most {max_bytes:,} are read")
        try:
            content = stream.read(max_bytes + 1)
        except OSError as error:
            raise BadFile(f"can't be read ({error.strerror})") from error
    if len(content) > max_bytes:
        raise BadFile(f"is too large: more than {max_bytes:,} bytes")
    return content


def open_regular_file(file: Path, follow_links: bool = True) -> io.BufferedReader:
    """Open a file to be read in parts; `read_file` reads one whole.

    Raises:
        BadFile: it can't be opened, or is no regular file.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO waits for somebody to write to it.
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
        BadFile: it is not UTF-8, not JSON, or nested more than `MAX_NESTING` deep.
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
        BadFile: as in `parse_json`, or it is another kind of value.
    """
    value = parse_json(content)
    if not isinstance(value, dict):
        raise BadFile("does not hold a JSON object")
    return value


def _is_shallow(value: Any, depth: int = 0) -> bool:
    """Whether a value can be walked through and written again without reaching Python's recursion limit."""
    if not isinstance(value, dict | list):
        return True
    children = value.values() if isinstance(value, dict) else value
    return depth < MAX_NESTING and all(_is_shallow(child, depth + 1) for child in children)


def first_line(error: BaseException) -> str:
    """What an error says, for a message of one line: its first line, or its type if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


UNFINISHED = ".writing-"  # begins the name of whatever is not complete yet


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path beside `file` to write to; it replaces the file if the block ends without an error, else it is removed."""
    beside = file.with_name(f"{UNFINISHED}{os.getpid()}-{file.name}")
    try:
        yield beside
        with open(beside, "rb") as written:
            os.fsync(written.fileno())
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object atomically."""
    with replacing(file) as beside:
        beside.write_text(json.dumps(values, indent=2) + "\n")


def sync(path: Path) -> None:
    """Have the disk keep a file's content, or a folder's entries, through a power failure."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
