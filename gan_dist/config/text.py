"""Texts for messages and terminals."""

from __future__ import annotations

import unicodedata
from typing import Any

# Controls (C0, C1, DEL), formats such as bidirectional overrides, surrogates, private and unassigned characters, line
# and paragraph separators: a terminal obeys them, or their width is unknown.
NOT_PRINTED = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
MAX_CHARACTERS = 1_000  # of a text in a table or chart
MAX_MESSAGE = 10_000  # characters


def shortened(value: Any) -> str:
    """A value for a message: one printable line of bounded length. Strings are quoted."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a huge number"
    return text if len(text) <= 60 else f"{text[:40]}…"


def in_message(name: str) -> str:
    """A name for a message: as it is, or as `shortened` if it is long or can't be printed."""
    return name if name.isprintable() and len(name) <= 60 else shortened(name)


def printable(text: str, most: int = MAX_CHARACTERS) -> str:
    """A text without what a terminal could obey: white space becomes a space, and other such characters become "?".

    Args:
        text: of any length; may quote a file.
        most: characters that are kept.
    """
    return "".join(
        " " if letter in "\t\n\r" else "?" if unicodedata.category(letter) in NOT_PRINTED else letter
        for letter in text[:most]
    )
