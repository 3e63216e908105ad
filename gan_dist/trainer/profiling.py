"""Where the time of a run goes: a trace of a few steps, and the phases of all of them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.profiler import profile, record_function

from gan_dist.files import replacing, write_json
from gan_dist.gan.reduction import Reduction

PHASES = ("data", "discriminator step", "generator step", "outputs")  # of a step, in their order
COMMUNICATION = "communication"  # taken out of those that it is part of
WARM_UP = 10  # steps of a session that are not counted: allocators and threads find their feet
TRACED = (50, 60)  # the first and the last one of a session


class Profiler:
    """Watches a session of a run: the loop says when a phase is over.

    Args:
        watches: False makes an object that does nothing.
        folder: gets trace.json (for Perfetto or chrome://tracing) and phases.json.
        device: waited for at the end of every phase, so that its work counts where it was asked for. So a watched run
            is a little slower than others where the device works by itself.
        announce: called with one line if a file can't be written.
    """

    def __init__(self, watches: bool, folder: Path, device: torch.device, announce: Callable[[str], None]) -> None:
        self.watches = watches
        self.folder = folder
        self.device = device
        self.announce = announce
        self.seconds = dict.fromkeys((*PHASES[:-1], COMMUNICATION, PHASES[-1]), 0.0)
        self.steps = 0
        """Steps that are in `seconds`."""
        self._step = 1
        """The step under way, from 1 in each session."""
        self._last = self._communicated = 0.0
        self._tracer: profile | None = None
        self._span: record_function | None = None

    def begin(self) -> None:
        """The loop starts: its first phase begins."""
        if self.watches:
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it complains where there is no GPU
            self._last = self._now()

    def end_phase(self, phase: str) -> None:
        """A phase is over, the next of PHASES begins.

        Args:
            phase: which one.
        """
        if not self.watches:
            return
        now = self._now()
        if self._step > WARM_UP and self._tracer is None:
            self.seconds[phase] += now - self._last - self._communicated
            self.seconds[COMMUNICATION] += self._communicated
            self.steps += phase == PHASES[-1]
        self._communicated = 0.0
        if self._span is not None:
            self._span.__exit__(None, None, None)
        if phase == PHASES[-1]:
            if self._step == TRACED[1]:
                self._end_trace()
            self._step += 1
            if self._step == TRACED[0]:
                self._tracer = profile()
                self._tracer.start()
        if self._tracer is not None:
            self._span = record_function(PHASES[(PHASES.index(phase) + 1) % len(PHASES)])
            self._span.__enter__()
        self._last = self._now()

    def timed(self, reduction: Reduction) -> Reduction:
        """The same reduction, whose time counts as communication: waiting for the others is part of it."""
        return _TimedReduction(reduction, self) if self.watches else reduction

    def end(self) -> dict[str, str]:
        """Write what was seen.

        Returns:
            Phase -> its time in words, for people; nothing if no step was counted.
        """
        if not self.watches:
            return {}
        if self._tracer is not None:  # the session was shorter
            self._end_trace()
        if not self.steps:
            return {}
        each = {phase: 1e3 * seconds / self.steps for phase, seconds in self.seconds.items()}
        values: dict[str, Any] = {"steps": self.steps, "milliseconds_per_step": each}
        self._write("phases.json", lambda file: write_json(file, values))
        whole = sum(each.values())
        shown = {phase: f"{ms:8.3f} ms {ms / whole:6.1%}" for phase, ms in each.items()}
        return shown | {"a step": f"{whole:8.3f} ms", "trace, phases": str(self.folder)}

    def communicate(self, work: Callable[[], None]) -> None:
        """Do `work`, whose time counts as communication and not for the phase that it is part of."""
        if self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            work()  # played back inside the step, where no clock can be looked at
        else:
            began = self._now()
            with record_function(COMMUNICATION) if self._tracer is not None else contextlib.nullcontext():
                work()
            self._communicated += self._now() - began

    def _end_trace(self) -> None:
        assert self._tracer is not None
        tracer, self._tracer, self._span = self._tracer, None, None
        tracer.stop()

        def export(file: Path) -> None:
            with replacing(file) as beside:
                tracer.export_chrome_trace(str(beside))

        self._write("trace.json", export)

    def _write(self, name: str, write: Callable[[Path], None]) -> None:
        try:
            self.folder.mkdir(exist_ok=True)
            write(self.folder / name)
        except OSError as error:  # a profile is no reason to lose a run
            self.announce(f"{self.folder / name} can't be written ({error.strerror or error})")

    def _now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()


@dataclass(frozen=True)
class _TimedReduction:
    """A reduction and who looks at the clock."""

    reduction: Reduction
    profiler: Profiler

    @property
    def parts(self) -> int:
        return self.reduction.parts

    @property
    def rows(self) -> int:
        return self.reduction.rows

    @property
    def weight(self) -> float:
        return self.reduction.weight

    @property
    def exact(self) -> bool:
        return self.reduction.exact

    def __call__(self, gradients: Float[Tensor, "rows weights"]) -> None:
        self.profiler.communicate(lambda: self.reduction(gradients))
