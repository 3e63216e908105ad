"""The ways in which a command ends otherwise than well, and its exit codes."""

from __future__ import annotations

STOPPED_EXIT_CODE = 75  # EX_TEMPFAIL: stopped by a signal, resumable by the same command
BAD_INPUT_EXIT_CODE = 2  # what argparse and most shell commands use, too


class InputError(ValueError):
    """The user's input can't be used. The message is one line: the field or file, what is wrong, the way out."""

    common = False
    """Whether every rank has this same error, and rank 0 says it for all. Else each host says its own."""


class TrainingFailed(RuntimeError):
    """The run can't go on, and not for its input. The message is one line: what happened, at which step, the way out.

    Args:
        message: that line.
        spoken_by: the rank that says it.
    """

    def __init__(self, message: str, reported_by: int = 0) -> None:
        super().__init__(message)
        self.reported_by = reported_by


class Stopped(Exception):
    """Somebody asked to stop before there was anything to save. The message is one line: what was interrupted."""
