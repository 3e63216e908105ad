"""File descriptors of the standard streams."""

from __future__ import annotations

import io
import os


def occupy_closed_descriptors() -> None:
    """Open /dev/null for each standard stream that this process was started without (`>&-`).

    Otherwise the next opened file, such as a checkpoint, gets its number, and what libraries print is written into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            redirect_to_null(descriptor)


def redirect_to_null(descriptor: int) -> None:
    """Make a descriptor refer to /dev/null."""
    null = os.open(os.devnull, os.O_RDWR)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)
    else:
        os.set_inheritable(descriptor, True)


def descriptor_of(stream: object) -> int | None:
    """Returns the descriptor of a plain text stream; None for one that handles its text itself, as in notebooks."""
    if not isinstance(stream, io.TextIOWrapper) or stream.closed:
        return None
    if not isinstance(getattr(stream.buffer, "raw", stream.buffer), io.FileIO):
        return None
    return stream.fileno()
