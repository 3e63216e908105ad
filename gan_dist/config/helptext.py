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
    """The help text with every option, grouped by section.

    Args:
        usage: the command with its arguments.
        description: of the command.
        options: in order.
        explained: of `docstrings`: name of an option or section -> text.
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
    also = "-h, --help, --help-all: show this help.  --version: show the version."
    return "\n\n".join([*blocks, textwrap.fill(also, width)]) + "\n"


def short_help(
    usage: str,
    description: str,
    presets: Mapping[str, str],
    options: Sequence[Option],
    explained: Mapping[str, str],
) -> str:
    """The help text with the presets and the most used options, briefly.

    Args:
        usage, description, explained: as for `full_help`.
        presets: name -> short description.
        options: the options to show.
    """
    width = columns()
    lines = [f"usage: {usage}", "", textwrap.fill(description, width), "", "presets:"]
    lines += _table({f"  {name}": summary for name, summary in presets.items()}, width)
    lines += ["", "most used flags:"]
    lines += _table({f"  {option.flag}": _in_short(option, explained[option.name]) for option in options}, width)
    also = {"  --help-all": "Show every flag, with its range.", "  --version": "Show the version."}
    return "\n".join([*lines, "", *_table(also, width)]) + "\n"


def show(text: str) -> None:
    """Print a text. A pipe that its reader, such as `head`, has closed is no error."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at exit


def columns() -> int:
    """The width of the terminal, or COLUMNS; by default 80."""
    return max(40, min(WIDEST, shutil.get_terminal_size().columns))


def _explained(option: Option, explained: Mapping[str, str]) -> str:
    text = explained[option.name]
    return text if option.default is REQUIRED or option.metavar is not None else f"{text} (default: {option.default})"


def _in_short(option: Option, text: str) -> str:
    """The first phrase of the docstring, the choices and the default."""
    first = re.split(r"[.:;] | \(|\.$", text)[0]
    choices = f"{', '.join(option.choices)}; " if option.choices else ""
    return f"{first} ({choices}default: {option.default})"


def _block(head: str, text: str, width: int) -> str:
    # Long lists of choices continue after a bar.
    head = textwrap.indent(_wrapped(head.replace("|", "| "), width - 2).replace("| ", "|"), "  ")
    return f"{head}\n" + textwrap.indent(_wrapped(text, width - 6), " " * 6)


def _table(rows: Mapping[str, str], width: int) -> list[str]:
    """Two columns."""
    left = max(map(len, rows)) + 2
    return [
        f"{name:{left}}" + textwrap.indent(_wrapped(text, width - left), " " * left).lstrip()
        for name, text in rows.items()
    ]


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)
