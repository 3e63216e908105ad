"""Names of files: which ones are pictures, and how messages show them."""

from __future__ import annotations

from pathlib import Path

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
ACCEPTED = "PNG, JPEG, WebP, BMP or GIF"
LABEL_FILES = ("metadata.jsonl", "dataset.json")
MAX_SHOWN = 120  # characters of a name in a message


def quoted(name: str | Path) -> str:
    """A name for a message of one line: shortened, and escaped if it has characters that can't be printed."""
    text = str(name).encode("utf-8", "backslashreplace").decode()
    if len(text) > MAX_SHOWN:
        text = f"{text[: MAX_SHOWN // 2]}…{text[-MAX_SHOWN // 2 :]}"
    return text if text.isprintable() and text == text.strip() else repr(text)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is to be skipped: hidden, or from macOS's archives."""
    return name.startswith(".") or name == "__MACOSX"


def is_picture(name: str) -> bool:
    """Whether a name has the suffix of a picture, in any case."""
    return name.lower().endswith(SUFFIXES)
