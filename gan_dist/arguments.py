"""Command lines: tyro over a dataclass, with every mistake as one line."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro

from gan_dist.config import STOPPED_EXIT_CODE, InputError, Stopped, TrainingFailed

T = TypeVar("T")
BAD_INPUT_EXIT_CODE = 2  # what argparse and most shell commands use, too


def read_arguments(
    cls: type[T],
    arguments: Sequence[str],
    prog: str,
    description: str,
    flags: Sequence[str],
    default: Any = tyro.MISSING_NONPROP,
) -> T:
    """Fill a dataclass from a command line.

    Args:
        cls: the dataclass; its fields' docstrings are the help.
        arguments: the words after the command.
        prog: the command, for the help.
        description: what the command does, for the help.
        flags: all flags, to suggest the one that was meant.
        default: an instance to start from; without it, the fields' own defaults.

    Raises:
        InputError: an unknown flag, or a value that can't be read.
        SystemExit: --help was asked for and printed.
    """
    complaints = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaints):
            values, unknown = tyro.cli(
                cls,
                prog=prog,
                description=description,
                args=arguments,
                default=default,
                return_unknown_args=True,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise InputError(_one_line(complaints.getvalue())) from None
    if unknown:
        near = difflib.get_close_matches(unknown[0], flags, n=1)
        hint = f"did you mean {near[0]}?" if near else "--help lists all flags"
        raise InputError(f"there is no flag {unknown[0]}; {hint}")
    return values


def exit_code(prog: str, work: Callable[[], int]) -> int:
    """Do a command's work; what the user has to know of its failure is one line on stderr, said by one process (or by
    one of each host, where the processes have not met yet).

    Returns:
        What `work` returned; 2 for input that can't be used; 75 if it was stopped before it had anything to save; 1 if
        a run failed for a reason that we know.
    """
    rank = int(os.environ.get("RANK", 0))
    try:
        return work()
    except InputError as error:
        # A host whose command line differs from the others' may be the only one with an error.
        if (rank if error.common else int(os.environ.get("LOCAL_RANK", rank))) == 0:
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


def flag(name: str) -> str:
    """The flag of a field: "train.batch_size" -> "--train.batch-size"."""
    return "--" + name.replace("_", "-")


def _one_line(box: str) -> str:
    """What tyro says below the title of its box, up to the first rule, as one line.

    The box has other corners, or none, where the terminal's encoding lacks them.
    """
    said: list[str] = []
    for line in box.splitlines()[1:]:
        text = line.strip("│| ")
        if set(text) <= set("─-╰╯+"):  # a rule
            if said:
                break
        else:
            said.append(text)
    return " ".join(said)
