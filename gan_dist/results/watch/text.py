"""Lines of a frame. Texts come from files and paths, so nothing in them may control the terminal."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import NamedTuple

from rich.cells import cell_len, chop_cells
from rich.text import Text

from gan_dist.config.text import printable

TONES = {"good": "green", "caution": "yellow", "bad": "bold red", "unknown": "default"}
"""Tone of a statement -> style."""


class Size(NamedTuple):
    """Characters."""

    columns: int
    rows: int


@dataclass(frozen=True)
class Abilities:
    """What the terminal shows."""

    colours: bool
    unicode: bool
    """False: ASCII only."""


def styled(text: str, style: str = "") -> Text:
    """A printable line. Markup in the text is no markup."""
    return Text(printable(text), style=style, no_wrap=True, overflow="crop")


def joined(*parts: Text, gap: str = "  ") -> Text:
    """Texts beside each other; empty ones are left out."""
    return styled(gap).join([part for part in parts if part.plain])


def fit(line: Text, width: int, fill: bool = False) -> Text:
    """A copy of a line that takes at most `width` cells; with `fill`, exactly so many."""
    copy = line.copy()
    copy.truncate(max(width, 0), overflow="ellipsis", pad=fill)
    return copy


def wrapped(text: str, width: int, style: str = "") -> list[Text]:
    """A text as lines of at most `width` cells, broken between words; a path or word that is longer, anywhere."""
    lines = [""]
    pieces = (piece for word in printable(text).split() for piece in chop_cells(word, max(width, 1)))
    for piece in pieces:
        longer = f"{lines[-1]} {piece}".lstrip()
        if lines[-1] and cell_len(longer) > width:
            lines.append(piece)
        else:
            lines[-1] = longer
    return [fit(styled(line, style), width) for line in lines]


def shortened_to(lines: list[Text], rows: int, width: int) -> list[Text]:
    """The first `rows` lines; the last one ends with an ellipsis if lines are missing."""
    if len(lines) <= rows:
        return lines
    kept = lines[: max(rows, 0)]
    if kept:
        last = fit(kept[-1], width - 1)
        last.append("…")
        kept[-1] = last
    return kept


def to_ascii(line: Text) -> Text:
    """A line with its closest ASCII characters, of the same length."""
    letters = ["~" if letter == "…" else unicodedata.normalize("NFKD", letter)[:1] for letter in line.plain]
    copy = line.copy()
    copy.plain = "".join(letters).encode("ascii", "replace").decode()
    return copy
