"""How a command ends: its exit code, and one line on stderr that gives the reason."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable

from gan_dist.config import BAD_INPUT_EXIT_CODE, STOPPED_EXIT_CODE, InputError, Stopped, TrainingFailed
from gan_dist.config.text import MAX_MESSAGE, printable
from gan_dist.distributed.environment import ProcessEnvironment, read_environment

REPORT_SECONDS = 2.0  # a launcher ends all processes when the first one ends: that must be the one that reports


def exit_code(prog: str, work: Callable[[], int]) -> int:
    """Run a command. One process reports a failure as one line on stderr; before the ranks connect, one per host.

    Args:
        prog: the command's name, for the message.
        work: runs the command and returns its exit code.

    Returns:
        The exit code of `work`; 2 for invalid input; 75 for a stop before there was anything to save; 130 for Ctrl-C in
        a command without a run; 1 for a run that failed for a known reason.
    """
    try:
        process = read_environment()
    except InputError:  # `work` raises it again if it needs the variables, and then each process reports it
        process = ProcessEnvironment()
    rank = process.rank
    try:
        return work()
    except KeyboardInterrupt:  # only in commands that have nothing to save
        return 128 + signal.SIGINT
    except InputError as error:
        # A host whose command line differs from the others' may be the only one with an error.
        code, reports, message = BAD_INPUT_EXIT_CODE, (rank if error.common else process.local_rank) == 0, str(error)
    except Stopped as stopped:
        code, reports, message = STOPPED_EXIT_CODE, rank == 0, str(stopped)
    except TrainingFailed as failure:
        code, reports, message = 1, rank == failure.reported_by, str(failure)
    if reports:
        print(f"{prog}: {printable(message, MAX_MESSAGE)}", file=sys.stderr, flush=True)
    else:
        time.sleep(REPORT_SECONDS)
    return code
