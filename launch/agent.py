"""Runs accelerate launch or torchrun for the scripts of this folder, with the exit code of the run.

    python agent.py SCRIPT LATE LOST accelerate launch WORD ...
    python agent.py SCRIPT LATE LOST torchrun WORD ...

On their own, the launchers turn every failure into a traceback and exit code 1, and restart processes after bad input.
SCRIPT is the name in messages. LATE is the message if some hosts do not connect in time, and LOST if the rendezvous is
lost.
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
from gan_dist.distributed.signals import handle_signals

# The processes of other hosts wait for REPORT_SECONDS and then need some time to end. If the rendezvous ends before
# that, their agents report its loss instead of the bad input.
OTHERS_END_SECONDS = REPORT_SECONDS + 5


class BadInput(SignalException):
    """A process ended with exit code 2. Torch handles it as a signal: it ends this host's processes only."""


def main(script: str, late: str, lost: str, command: Sequence[str]) -> int:
    """Run a launcher to its end.

    Returns:
        The exit code of the run: 0 finished, 75 stopped, 2 bad input or missing hosts, 1 anything else.
    """
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").addFilter(_end_on_bad_input)
    # torchrun would set 1: after a failure, a process aborts NCCL's communicators, which can hang, and then ends. With
    # 3, torch's default, it just ends.
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "3")
    try:
        # torch handles the other signals, and these would end it.
        with handle_signals(lambda *_: os.kill(os.getpid(), signal.SIGTERM), signal.SIGUSR1, signal.SIGUSR2):
            if command[0] == "torchrun":
                torchrun.run(torchrun.parse_args(command[1:]))
            else:
                launch_command(launch_command_parser().parse_args(command[2:]))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:  # the process could not report the reason
            print(f"{script}: rank {rank} was ended by {signal.Signals(-failure.exitcode).name}", file=sys.stderr)
        return STOPPED_EXIT_CODE if failure.exitcode == STOPPED_EXIT_CODE else 1
    except BadInput:
        if any("is_host=1" in word for word in command):  # this process holds the rendezvous
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
    """Log filter of torch's agent: ends the launcher after bad input, which would fail again. Hides two messages."""
    message, values = str(record.msg), record.args
    if message.startswith("failed (exitcode") and isinstance(values, tuple) and values[0] == BAD_INPUT_EXIT_CODE:
        logging.disable()  # the process has reported the error
        raise BadInput("bad input", signal.SIGTERM)
    return not message.startswith("Sending process")


if __name__ == "__main__":
    script_name, late_message, lost_message, *words = sys.argv[1:]
    sys.exit(main(script_name, late_message, lost_message, words))
