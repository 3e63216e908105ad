"""How a command ends: its exit code, and the one line that says why."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable

from gan_dist.config import BAD_INPUT_EXIT_CODE, STOPPED_EXIT_CODE, InputError, Stopped, TrainingFailed
from gan_dist.distributed.environment import ProcessEnvironment, read_environment

REPORT_SECONDS = 2.0  # a launcher ends all processes when the first one ends: that has to be the one that says why


def exit_code(prog: str, work: Callable[[], int]) -> int:
    """Do a command's work; what the user has to know of its failure is one line on stderr, said by one process (or by
    one of each host, where the processes have not met yet).

    Returns:
        What `work` returned; 2 for input that can't be used; 75 if it was stopped before it had anything to save; 130
        for Ctrl-C in another command; 1 if a run failed for a reason that we know.
    """
    try:
        place = read_environment()
    except InputError:  # `work` finds that, too, if it needs them, and then each process says it
        place = ProcessEnvironment()
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
        code, speaks, said = 1, rank == failure.reported_by, str(failure)
    if speaks:
        print(f"{prog}: {said}", file=sys.stderr, flush=True)
    else:
        time.sleep(REPORT_SECONDS)
    return code
