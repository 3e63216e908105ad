"""Command lines: tyro parses the words into a dataclass; every mistake is one line that names the way out."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

import tyro
from tyro import _errors

from gan_dist.config.errors import InputError
from gan_dist.config.helptext import full_help, short_help, show
from gan_dist.config.mistakes import HELP, HELP_ALL, CommandLine, dashed
from gan_dist.config.options import docstrings, options_of
from gan_dist.config.ranges import check_ranges
from gan_dist.config.version import package_version

T = TypeVar("T")
VERSION = "--version"


def read_arguments(
    cls: type[T],
    arguments: Sequence[str],
    prog: str,
    description: str,
    default: T | None = None,
    presets: Mapping[str, str] | None = None,
    short: Sequence[str] = (),
) -> T:
    """Parse a command line into a dataclass. If a flag is repeated, the last value counts.

    Args:
        cls: the dataclass. Its fields are bool, int, float, str, Path, a Literal of strings, an optional one of these,
            or a dataclass. A positional field is `Annotated[Positional[...], arg(metavar=...)]`, both from tyro.conf,
            and may be a tuple. The docstrings of the fields are their help texts.
        arguments: the words after the command and the preset.
        prog: the command, for the help text.
        description: of the command, for the help text.
        default: an instance with the default values; None: the defaults of the fields.
        presets: name -> description of the presets that may precede the flags, for the help text.
        short: fields that --help shows; --help-all shows all fields. If empty, both show all fields.

    Raises:
        InputError: an unknown flag, or an invalid value.
        SystemExit: after --help, --help-all or --version.
    """
    options = options_of(cls, default)
    positionals = [option.metavar for option in options if option.metavar is not None]
    flags = ["[--FLAG VALUE ...]"] if len(positionals) < len(options) else []
    usage = " ".join([prog, *(["[PRESET]"] if presets else []), *positionals, *flags])
    if asked := next((word for word in arguments if word in (*HELP, HELP_ALL, VERSION)), None):
        if asked == VERSION:
            show(f"gan_dist {package_version()}\n")
        elif asked in HELP and short:
            shown = [option for option in options if option.name in short]
            show(short_help(usage, description, presets or {}, shown, docstrings(cls)))
        else:
            show(full_help(usage, description, options, docstrings(cls)))
        raise SystemExit(0)
    line = CommandLine(arguments, options, usage, tuple(presets or ()))
    read = _parse(cls, line, default)
    line.check_texts(read)
    check_ranges(read)
    return read


def _parse(cls: type[T], line: CommandLine, default: T | None) -> T:
    """Have tyro parse a command line.

    tyro prints errors as boxes of several lines. Only its private module `_errors` gives structured access to them.
    This function is the only one to use it, and pyproject.toml pins the versions that have it.

    Raises:
        InputError: the command line is invalid.
    """

    def explain(event: _errors.ParseErrorEvent) -> None:
        if isinstance(event, _errors.MissingArgs):
            raise line.without_value(event.missing_arguments[0].arg.get_output_key(), "is missing")
        if isinstance(event, _errors.BadValue) and event.reason == "too_few_values":
            raise line.without_value(event.argument.get_output_key(), "is incomplete")
        if isinstance(event, _errors.InvalidChoice):
            raise line.with_bad_value(event.argument.get_output_key(), event.value)
        if isinstance(event, _errors.InstantiationFailure) and event.argument is not None:
            raise line.with_bad_value(event.argument.get_output_key())
        # For any other event tyro prints a message and exits.

    if line.words and dashed(line.words[0]).startswith("--tyro-"):  # tyro's own flags print or write shell scripts
        raise line.with_unknown(line.words[0])
    printed = io.StringIO()
    try:
        with _errors.on_parse_error(explain), contextlib.redirect_stderr(printed):
            read, unknown = tyro.cli(
                cls,
                args=line.words,
                default=tyro.MISSING_NONPROP if default is None else default,
                return_unknown_args=True,
                add_help=False,
            )
    except SystemExit:
        said = " ".join(re.findall(r"[^\s│─╭╮╰╯|]+", printed.getvalue()))
        raise InputError(f"the command line is invalid; {HELP_ALL} lists all flags ({said})") from None
    if unknown:
        raise line.with_unknown(unknown[0])
    return read
