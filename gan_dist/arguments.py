"""Command lines: tyro turns the words into a dataclass, and every mistake is one line that names the way out."""

from __future__ import annotations

import contextlib
import io
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import TypeVar

import tyro
from tyro import _errors

from gan_dist.config import (
    STOPPED_EXIT_CODE,
    InputError,
    Range,
    Stopped,
    TrainingFailed,
    package_version,
)
from gan_dist.helptext import full_help, short_help, show
from gan_dist.launched import Launched, read_launched
from gan_dist.mistakes import HELP, HELP_ALL, CommandLine, dashed
from gan_dist.options import docstrings, options_of

T = TypeVar("T")
SPOKEN_SECONDS = 2.0  # a launcher ends all processes when the first one ends: that is to be the one that says why
BAD_INPUT_EXIT_CODE = 2  # what argparse and most shell commands use, too
VERSION = "--version"


def read_arguments(
    cls: type[T],
    arguments: Sequence[str],
    prog: str,
    description: str,
    default: T | None = None,
    ranges: Mapping[str, Range] | None = None,
    presets: Mapping[str, str] | None = None,
    short: Sequence[str] = (),
) -> T:
    """Fill a dataclass from a command line. Where a flag comes twice, the last one counts.

    Args:
        cls: the dataclass. Its fields are bool, int, float, str, Path, a Literal of strings, one of these or None, or
            a dataclass. One that is given by its place among the words is an `Annotated[Positional[...], arg(metavar=
            ...)]`, both of tyro.conf, and may be a tuple. The docstrings of the fields are the help.
        arguments: the words after the command, and after the preset.
        prog: the command, for the help.
        description: what the command does, for the help.
        default: an instance to start from; without it, the fields' own defaults.
        ranges: field -> the numbers that it accepts.
        presets: name -> what it is, of those that may stand before the flags; for the help.
        short: fields that --help shows; --help-all shows all of them. Without it both do.

    Raises:
        InputError: an unknown flag, or a value that can't be used.
        SystemExit: --help, --help-all or --version was asked for and printed.
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
    for name, accepted in (ranges or {}).items():
        if (value := attrgetter(name)(read)) is not None:
            accepted.check(name, value)
    return read


def _parse(cls: type[T], line: CommandLine, default: T | None) -> T:
    """Let tyro read a command line.

    tyro prints its errors as boxes of several lines. Only its private module `_errors` says what they are about, so
    nothing else here uses that module, and pyproject.toml names the versions that have it.

    Raises:
        InputError: the line can't be read.
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
        # tyro prints any other event, and exits.

    if line.words and dashed(line.words[0]).startswith("--tyro-"):  # tyro's own: they print or write shell scripts
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
        raise InputError(f"the command line can't be read; {HELP_ALL} lists all flags ({said})") from None
    if unknown:
        raise line.with_unknown(unknown[0])
    return read


def exit_code(prog: str, work: Callable[[], int]) -> int:
    """Do a command's work; what the user has to know of its failure is one line on stderr, said by one process (or by
    one of each host, where the processes have not met yet).

    Returns:
        What `work` returned; 2 for input that can't be used; 75 if it was stopped before it had anything to save; 130
        for Ctrl-C in another command; 1 if a run failed for a reason that we know.
    """
    try:
        place = read_launched()
    except InputError:  # `work` finds that, too, if it needs them, and then each process says it
        place = Launched()
    rank = place.rank
    try:
        return work()
    except KeyboardInterrupt:  # of a command that has nothing to save
        return 128 + signal.SIGINT
    except InputError as error:
        # A host whose command line differs from the others' may be the only one with an error.
        code, speaks, said = BAD_INPUT_EXIT_CODE, (rank if error.common else place.local_rank) == 0, str(error)
    except Stopped as stopped:
        code, speaks, said = STOPPED_EXIT_CODE, rank == 0, str(stopped)
    except TrainingFailed as failure:
        code, speaks, said = 1, rank == failure.spoken_by, str(failure)
    if speaks:
        print(f"{prog}: {said}", file=sys.stderr, flush=True)
    else:
        time.sleep(SPOKEN_SECONDS)
    return code
