"""Trains like gan_dist/train.py, with a fault injected into one process; for faults.py and the tests.

    inject.py FAULT NETWORK STEP RANK TIMES [flags of train.py]

FAULT, at the step STEP of NETWORK: nan, the loss is NaN; SIGKILL, SIGSTOP or another signal, which the process sends to
itself; or fill:FILE:BYTES, the disk is filled with FILE until BYTES bytes are free. TIMES: maximum number of faults, if
the process repeats the step. A restart by the launcher has no fault.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from torch import Tensor

from gan_dist import train
from gan_dist.gan.steps import Gan
from gan_dist.gan.update import Stats
from gan_dist.trainer import loop

Step = Callable[..., Stats]


class FaultyStep:
    """The step of a network, with a fault."""

    def __init__(self, step: Step, fault: str, at_step: int, times: int) -> None:
        self.step = step
        self.fault = fault
        self.at_step = at_step
        self.times = times

    def __call__(self, gan: Gan, *arguments: Tensor | int) -> Stats:
        if arguments[-1] == self.at_step and self.times:
            self.times -= 1
            if self.fault == "nan":
                faulty = {name: nan_of(getattr(gan.loss, name)) for name in ("discriminator", "generator")}
                gan = dataclasses.replace(gan, loss=dataclasses.replace(gan.loss, **faulty))
                # A CUDA graph replays the captured loss, so its inputs must be NaN.
                arguments = tuple(a * float("nan") if isinstance(a, Tensor) else a for a in arguments)
            elif self.fault.startswith("fill:"):
                _, file, left = self.fault.split(":")
                fill(Path(file), int(left))
            else:
                os.kill(os.getpid(), signal.Signals[self.fault])
        return self.step(gan, *arguments)


def nan_of(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The loss, multiplied by NaN."""
    return lambda *logits: loss(*logits) * float("nan")


def fill(file: Path, left: int) -> None:
    """Fill the disk of `file` until `left` bytes are free."""
    with open(file, "wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, shutil.disk_usage(file.parent).free - left)


if __name__ == "__main__":
    fault, network, at_step, rank, times = sys.argv[1:6]
    if os.environ.get("RANK", "0") == rank and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        name = f"{network}_step"
        setattr(loop, name, FaultyStep(getattr(loop, name), fault, int(at_step), int(times)))
    sys.exit(train.main(sys.argv[6:]))
