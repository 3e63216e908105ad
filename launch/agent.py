"""Runs accelerate launch or torchrun for the scripts of this folder, and ends as the run did.

    python agent.py SCRIPT LATE LOST accelerate launch WORD ...
    python agent.py SCRIPT LATE LOST torchrun WORD ...

By themselves the launchers turn every end but a good one into a traceback and exit code 1, and start processes again
that were given bad input. SCRIPT is who speaks; LATE and LOST are what it says if not all hosts came in time, and if
the place where they meet is gone.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Sequence

import torch.distributed as dist
from accelerate.commands.launch import launch_command, launch_command_parser
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousError, RendezvousTimeoutError

from gan_dist.config import BAD_INPUT_EXIT_CODE, STOPPED_EXIT_CODE
from gan_dist.distributed.exit_codes import REPORT_SECONDS
from gan_dist.distributed.signals import heard_by

# The processes of other hosts are silent for SPOKEN_SECONDS and then need some time to end; if the meeting place goes
# before that, their agents report its loss instead of the bad input.
OTHERS_END_SECONDS = REPORT_SECONDS + 5


class BadInput(SignalException):
    """A process ended with exit code 2. To torch it is a signal: it ends the others here, and other hosts may go on."""


def main(script: str, late: str, lost: str, command: Sequence[str]) -> int:
    """Run a launcher to its end.

    Returns:
        The exit code of the run: 0 finished, 75 stopped, 2 bad input (hosts that did not come, too), 1 anything else.
    """
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").addFilter(_end_on_bad_input)
    try:
        # torch hears the others, and would be ended by these.
        with heard_by(lambda *_: os.kill(os.getpid(), signal.SIGTERM), signal.SIGUSR1, signal.SIGUSR2):
            if command[0] == "torchrun":
                torchrun.run(torchrun.parse_args(command[1:]))
            else:
                launch_command(launch_command_parser().parse_args(command[2:]))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:  # it could not say itself what went wrong
            print(f"{script}: rank {rank} was ended by {signal.Signals(-failure.exitcode).name}", file=sys.stderr)
        return STOPPED_EXIT_CODE if failure.exitcode == STOPPED_EXIT_CODE else 1
    except BadInput:
        if any("is_host=1" in word for word in command):  # the meeting place is in this process
            time.sleep(OTHERS_END_SECONDS)
        return BAD_INPUT_EXIT_CODE
    except SignalException:
        return STOPPED_EXIT_CODE
    except RendezvousTimeoutError:
        print(f"{script}: {late}", file=sys.stderr)
        return BAD_INPUT_EXIT_CODE
    except (RendezvousError, dist.DistError):
        print(f"{script}: {lost}", file=sys.stderr)
        return 1
    return 0


def _end_on_bad_input(record: logging.LogRecord) -> bool:
    """Hears torch's agent say that a process failed: with the same bad input it would fail again. Quiet on the rest."""
    said, values = str(record.msg), record.args
    if said.startswith("failed (exitcode") and isinstance(values, tuple) and values[0] == BAD_INPUT_EXIT_CODE:
        logging.disable()  # the process has said what is wrong
        raise BadInput("bad input", signal.SIGTERM)
    return not said.startswith("Sending process")


if __name__ == "__main__":
    own_name, own_late, own_lost, *words = sys.argv[1:]
    sys.exit(main(own_name, own_late, own_lost, words))
