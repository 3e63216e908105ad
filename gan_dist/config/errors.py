"""Errors that end a command, and exit codes."""

from __future__ import annotations

STOPPED_EXIT_CODE = 75  # EX_TEMPFAIL: stopped by a signal, resumable by the same command
BAD_INPUT_EXIT_CODE = 2  # what argparse and most shell commands use, too


class InputError(ValueError):
    """Invalid input of the user. The message is one line: the field or file, the problem, the way out."""

    common = False
    """Whether every rank has this error, so that only rank 0 reports it. Otherwise each host reports its own."""


class TrainingFailed(RuntimeError):
    """The run cannot continue, though its input is valid. The message is one line: the event, the step, the way out.

    Args:
        message: that line.
        reported_by: the rank that reports it.
    """

    def __init__(self, message: str, reported_by: int = 0) -> None:
        super().__init__(message)
        self.reported_by = reported_by


class Stopped(Exception):
    """A stop was requested before there was anything to save. The message is one line: what was interrupted."""
