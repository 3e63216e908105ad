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

import torch
from torch import Tensor

from gan_dist import train
from gan_dist.data.batch import Batch
from gan_dist.gan.steps import Gan
from gan_dist.gan.update import Stats
from gan_dist.trainer import loop
from gan_dist.trainer.state import Trainer


class Fault:
    """A fault in the step of a network.

    The loss is multiplied by a tensor, which is 1, or NaN: a CUDA graph reads it in each replay. Other faults happen
    before the step if it is captured, because Python code inside it runs during the capture only.
    """

    def __init__(self, fault: str, network: str, at_step: int, times: int) -> None:
        self.fault = fault
        self.network = network
        self.at_step = at_step
        self.times = times
        self.due = False
        self.factor: Tensor | None = None

    def install(self) -> None:
        name = f"{self.network}_step"
        begin_step, step = loop.begin_step, getattr(loop, name)

        def begin(trainer: Trainer, number: int) -> None:
            begin_step(trainer, number)
            self.due = number == self.at_step and self.times > 0
            self.times -= self.due
            if self.factor is None:
                self.factor = torch.ones((), device=trainer.accelerator.device)
            self.factor.fill_(float("nan") if self.due and self.fault == "nan" else 1.0)
            if trainer.captured:
                self.happen()

        def faulty(gan: Gan, batch: Batch) -> Stats:
            self.happen()
            changed = {of: self.times_factor(getattr(gan.loss, of)) for of in ("discriminator", "generator")}
            return step(dataclasses.replace(gan, loss=dataclasses.replace(gan.loss, **changed)), batch)

        loop.begin_step = begin
        setattr(loop, name, faulty)

    def happen(self) -> None:
        """Do what is due, except for nan."""
        due, self.due = self.due, False
        if not due or self.fault == "nan":
            return
        if self.fault.startswith("fill:"):
            _, file, left = self.fault.split(":")
            fill(Path(file), int(left))
        else:
            os.kill(os.getpid(), signal.Signals[self.fault])

    def times_factor(self, loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The loss, multiplied by the factor."""
        return lambda *logits: loss(*logits) * self.factor


def fill(file: Path, left: int) -> None:
    """Fill the disk of `file` until `left` bytes are free."""
    with open(file, "wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, shutil.disk_usage(file.parent).free - left)


if __name__ == "__main__":
    fault, network, at_step, rank, times = sys.argv[1:6]
    if os.environ.get("RANK", "0") == rank and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        Fault(fault, network, int(at_step), int(times)).install()
    sys.exit(train.main(sys.argv[6:]))
