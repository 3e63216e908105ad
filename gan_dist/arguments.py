"""Command lines: the words become a dataclass, and every mistake is one line that names the way out."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from gan_dist.config import (
    STOPPED_EXIT_CODE,
    InputError,
    Range,
    Stopped,
    TrainingFailed,
    package_version,
    shortened,
)
from gan_dist.helptext import full_help, short_help, show
from gan_dist.launched import Launched, read_launched
from gan_dist.options import REQUIRED, Option, docstrings, fill, options_of
from gan_dist.suggestions import did_you_mean

T = TypeVar("T")
BAD_INPUT_EXIT_CODE = 2  # what argparse and most shell commands use, too
HELP, HELP_ALL, VERSION = ("-h", "--help"), "--help-all", "--version"


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
        cls: the dataclass; see `options_of` for the types of its fields. Their docstrings are the help.
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
    words = [option.metavar for option in options if option.metavar is not None]
    flags = ["[--FLAG VALUE ...]"] if len(words) < len(options) else []
    usage = " ".join([prog, *(["[PRESET]"] if presets else []), *words, *flags])
    if asked := next((word for word in arguments if word in (*HELP, HELP_ALL, VERSION)), None):
        if asked == VERSION:
            show(f"gan_dist {package_version()}\n")
        elif asked in HELP and short:
            shown = [option for option in options if option.name in short]
            show(short_help(usage, description, presets or {}, shown, docstrings(cls)))
        else:
            show(full_help(usage, description, options, docstrings(cls)))
        raise SystemExit(0)
    values, loose = _read_flags(arguments, [option for option in options if option.metavar is None])
    values |= _read_positionals(loose, options, usage, presets or {})
    for name, accepted in (ranges or {}).items():
        if values.get(name) is not None:
            accepted.check(name, values[name])
    return fill(cls, values, default)


def _read_flags(arguments: Sequence[str], options: Sequence[Option]) -> tuple[dict[str, Any], list[str]]:
    """The values that flags give, by field, and the words that belong to no flag."""
    by_flag = {option.flag: option for option in options}
    switched_off = {option.off_flag: option for option in options if option.kind is bool}
    values: dict[str, Any] = {}
    words, loose = list(arguments), []
    while words:
        word = words.pop(0)
        if not _is_flag(word):
            loose.append(word)
            continue
        name, equals, value = word.partition("=")
        name = name.replace("_", "-")
        option = by_flag.get(name) or switched_off.get(name)
        if option is None:
            way_out = did_you_mean(name, [*by_flag, *switched_off]) or f"{HELP_ALL} lists all flags"
            raise InputError(f"there is no flag {_printable(word.partition('=')[0])}; {way_out}")
        if option.kind is bool:
            if equals or (words and words[0].lower() in ("true", "false")):
                raise InputError(f"{name} takes no value; write {option.flag} or {option.off_flag}")
            values[option.name] = name in by_flag
            continue
        if not equals:
            if not words or _is_flag(words[0]):
                example = "" if option.example is None else f", as in {option.flag} {option.example}"
                raise InputError(f"{name} needs a value: {option.wanted}{example}")
            value = words.pop(0)
        values[option.name] = option.value_of(value)
    return values, loose


def _read_positionals(
    words: Sequence[str], options: Sequence[Option], usage: str, presets: Mapping[str, str]
) -> dict[str, Any]:
    """The values of the words that belong to no flag, by field."""
    values: dict[str, Any] = {}
    rest = list(words)
    for option in options:
        if option.metavar is None or (not rest and option.default is not REQUIRED):
            continue
        taken, rest = rest[: option.words], rest[option.words :]
        if len(taken) < option.words:
            given = f", and only {len(taken)} is given" if taken else ""
            raise InputError(f"{option.metavar} is missing{given}; the command is: {usage}")
        read = tuple(option.value_of(word) for word in taken)
        values[option.name] = read if option.words > 1 else read[0]
    if rest:
        word = rest[0]
        if word in presets:
            raise InputError(f"the preset {word} has to be the first word, and the only one: {usage}")
        flags = [option.flag for option in options if option.metavar is None]
        way_out = did_you_mean(word, flags) or f"the command is: {usage}; {HELP[1]} says more"
        raise InputError(f"{shortened(word)} belongs to no flag; {way_out}")
    return values


def _is_flag(word: str) -> bool:
    """Whether a word is a flag, and not a value such as -1, -.5 or -inf."""
    return word.startswith("-") and not re.match(r"-(\.?\d|inf|nan)", word, re.IGNORECASE) and word != "-"


def _printable(word: str) -> str:
    """A word as it was written, where it can be shown in a line."""
    return word if word.isprintable() and len(word) <= 60 else shortened(word)


def exit_code(prog: str, work: Callable[[], int]) -> int:
    """Do a command's work; what the user has to know of its failure is one line on stderr, said by one process (or by
    one of each host, where the processes have not met yet).

    Returns:
        What `work` returned; 2 for input that can't be used; 75 if it was stopped before it had anything to save; 1 if
        a run failed for a reason that we know.
    """
    try:
        place = read_launched()
    except InputError:  # `work` finds that, too, if it needs them, and then each process says it
        place = Launched()
    rank = place.rank
    try:
        return work()
    except InputError as error:
        # A host whose command line differs from the others' may be the only one with an error.
        if (rank if error.common else place.local_rank) == 0:
            print(f"{prog}: {error}", file=sys.stderr, flush=True)
        return BAD_INPUT_EXIT_CODE
    except Stopped as stopped:
        if rank == 0:
            print(f"{prog}: {stopped}", file=sys.stderr, flush=True)
        return STOPPED_EXIT_CODE
    except TrainingFailed as failure:
        if rank == failure.spoken_by:
            print(f"{prog}: {failure}", file=sys.stderr, flush=True)
        return 1
