"""The text of --help and --help-all."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence

from gan_dist.config.options import REQUIRED, Option

WIDEST = 120  # columns; longer lines are hard to read


def full_help(usage: str, description: str, options: Sequence[Option], explained: Mapping[str, str]) -> str:
    """Every option, below the name of its section.

    Args:
        usage: the command with its words.
        description: what it does.
        options: in order.
        explained: what `docstrings` found, of options and of sections.
    """
    width = columns()
    blocks = [f"usage: {usage}", textwrap.fill(description, width)]
    section = ""
    for option in options:
        if option.metavar is not None:
            blocks.append(_block(option.metavar, _explained(option, explained), width))
            continue
        here = option.name.rpartition(".")[0]
        if here != section:
            section = here
            blocks.append(f"{here}: {explained[here]}" if here else "further flags:")
        head = f"{option.flag}, {option.off_flag}" if option.kind is bool else f"{option.flag} {option.metavars}"
        blocks.append(_block(head, _explained(option, explained), width))
    also = "-h, --help, --help-all: show this.  --version: show the version."
    return "\n\n".join([*blocks, textwrap.fill(also, width)]) + "\n"


def short_help(
    usage: str,
    description: str,
    presets: Mapping[str, str],
    options: Sequence[Option],
    explained: Mapping[str, str],
) -> str:
    """The presets and some options, a line or two for each.

    Args:
        usage, description, explained: as for `full_help`.
        presets: name -> what it is, in a few words.
        options: those to show.
    """
    width = columns()
    lines = [f"usage: {usage}", "", textwrap.fill(description, width), "", "presets:"]
    lines += _table({f"  {name}": summary for name, summary in presets.items()}, width)
    lines += ["", "most used flags:"]
    lines += _table({f"  {option.flag}": _in_short(option, explained[option.name]) for option in options}, width)
    also = {"  --help-all": "Show every flag, with its range.", "  --version": "Show the version."}
    return "\n".join([*lines, "", *_table(also, width)]) + "\n"


def show(text: str) -> None:
    """Print a text. It is no error if the reader, such as `head`, has closed the pipe."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends


def columns() -> int:
    """The width of the terminal, or what COLUMNS says; 80 without either."""
    return max(40, min(WIDEST, shutil.get_terminal_size().columns))


def _explained(option: Option, explained: Mapping[str, str]) -> str:
    text = explained[option.name]
    return text if option.default is REQUIRED or option.metavar is not None else f"{text} (default: {option.default})"


def _in_short(option: Option, text: str) -> str:
    """What comes first in the docstring, the choices and the default."""
    first = re.split(r"[.:;] | \(|\.$", text)[0]
    choices = f"{', '.join(option.choices)}; " if option.choices else ""
    return f"{first} ({choices}default: {option.default})"


def _block(head: str, text: str, width: int) -> str:
    return f"  {head}\n" + textwrap.indent(_wrapped(text, width - 6), " " * 6)


def _table(rows: Mapping[str, str], width: int) -> list[str]:
    """Two columns."""
    left = max(map(len, rows)) + 2
    return [
        f"{name:{left}}" + textwrap.indent(_wrapped(text, width - left), " " * left).lstrip()
        for name, text in rows.items()
    ]


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)
