"""The values that a single field accepts: numbers in a range; text that can be printed, or used as a path."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from gan_dist.config.errors import InputError
from gan_dist.config.text import shortened

MAX_TEXT = 128  # characters of a name, as W&B allows
MAX_PATH_BYTES = 1_024  # Linux allows 4,096 for the whole path, the files of a run and the working directory included
MAX_NAME_BYTES = 200  # Linux allows 255 for a file or folder; while one is written its name is longer


@dataclass(frozen=True)
class Range:
    """A closed range of numbers."""

    lowest: int | float
    highest: int | float
    reason: str
    """Reason for the upper bound."""
    whole: bool = True

    def check(self, name: str, value: Any) -> None:
        """Check the value of the field `name`.

        Raises:
            InputError: it is not a number, or outside the range.
        """
        right_kind = isinstance(value, int) if self.whole else isinstance(value, int | float)
        # NaN compares false with everything.
        if not right_kind or isinstance(value, bool) or not self.lowest <= value <= self.highest:
            must = f"it must be a {'whole ' if self.whole else ''}number from {self}"
            because = f" ({self.reason})" if right_kind and value > self.highest else ""
            raise InputError(f"{name}={shortened(value)} is not supported: {must}{because}")

    def __str__(self) -> str:
        lowest, highest = (f"{end:,}" if isinstance(end, int) else f"{end:g}" for end in (self.lowest, self.highest))
        return f"{lowest} to {highest}"


def check_text(name: str, value: str, path: bool = False) -> None:
    """Check a name or a path: it can be printed, and passed to system calls and libraries.

    Raises:
        InputError: names the field.
    """
    problem = None
    if not value:
        problem = "it is empty"
    elif any("\ud800" <= letter <= "\udfff" for letter in value):
        problem = "it is not valid UTF-8"
    elif any(letter < " " or "\x7f" <= letter <= "\x9f" or letter in "\u2028\u2029" for letter in value):
        problem = "it holds a control character"
    elif path and len(value.encode()) > MAX_PATH_BYTES:
        problem = f"it is longer than {MAX_PATH_BYTES:,} bytes"
    elif path and any(len(part.encode()) > MAX_NAME_BYTES for part in value.split("/")):
        problem = f"a name in it is longer than {MAX_NAME_BYTES} bytes"
    elif not path and len(value) > MAX_TEXT:
        problem = f"it is longer than {MAX_TEXT} characters"
    if problem is not None:
        raise InputError(f"{name}={shortened(value)} is not supported: {problem}; choose another")


def check_ranges(instance: Any) -> None:
    """Check the fields of a dataclass instance against their ranges. None is accepted.

    Raises:
        InputError: names the field.
    """
    for name, accepted in ranges_of(type(instance)).items():
        if (value := attrgetter(name)(instance)) is not None:
            accepted.check(name, value)


def ranges_of(cls: type, prefix: str = "") -> dict[str, Range]:
    """The ranges of a dataclass's fields, and of those of dataclasses inside it.

    Args:
        cls: its fields may be annotated as Annotated[type, Range(...)].
        prefix: of the names.

    Returns:
        Dotted name -> range.
    """
    found: dict[str, Range] = {}
    for name, kind in typing.get_type_hints(cls, include_extras=True).items():
        if dataclasses.is_dataclass(kind):
            found |= ranges_of(typing.cast(type, kind), f"{prefix}{name}.")
        else:
            for extra in _extras(kind):
                if isinstance(extra, Range):
                    found[prefix + name] = extra
    return found


def _extras(hint: Any) -> Iterator[Any]:
    """What Annotated adds to a type, also inside a union."""
    yield from getattr(hint, "__metadata__", ())
    for part in typing.get_args(hint):
        if not isinstance(part, str):
            yield from _extras(part)
