"""Where the time goes: a trace of a few steps, and the time per phase of all steps."""

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
from torch.profiler import profile, record_function, schedule

from gan_dist.files import replacing, write_json
from gan_dist.gan.reduction import Reduction, WrappedReduction

PHASES = ("data", "discriminator step", "generator step", "outputs")  # of a step, in their order
COMMUNICATION = "communication"  # subtracted from the phases that contain it
WARM_UP = 10  # steps of a session that are not counted: allocators and thread pools warm up
TRACED = (50, 60)  # first and last traced step of a session


class Profiler:
    """Profiles a session: the loop reports the end of each phase.

    Args:
        watches: False: do nothing.
        folder: gets trace.json (for Perfetto or chrome://tracing) and phases.json.
        device: synchronized at the end of every phase, so that its work counts for the phase that launched it. On an
            asynchronous device this slows training down a little.
        announce: called with one line if a file is not writable.
    """

    def __init__(self, watches: bool, folder: Path, device: torch.device, announce: Callable[[str], None]) -> None:
        self.folder = folder
        self.device = device
        self.announce = announce
        self.seconds = dict.fromkeys((*PHASES[:-1], COMMUNICATION, PHASES[-1]), 0.0)
        self.steps = 0
        """Number of steps in `seconds`."""
        self._step = 1
        """The current step, from 1 in each session."""
        self._last = self._communicated = 0.0
        steps = {"wait": TRACED[0] - 2, "warmup": 1, "active": TRACED[1] - TRACED[0] + 1, "repeat": 1}
        self._tracer = profile(schedule=schedule(**steps), on_trace_ready=self._export) if watches else None
        self._traces = False
        """Whether the tracer has been started and not stopped."""
        self._span: record_function | None = None

    def begin(self) -> None:
        """Start the first phase."""
        if self._tracer is not None:
            if not self._traces:  # training may start again after a rollback
                os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it warns if there is no GPU
                self._tracer.start()
                self._traces = True
            self._last = self._now()

    def end_phase(self, phase: str) -> None:
        """End a phase and start the next one of PHASES."""
        if self._tracer is None:
            return
        now = self._now()
        if self._step > WARM_UP and not TRACED[0] - 1 <= self._step <= TRACED[1]:  # the tracer slows its steps down
            self.seconds[phase] += now - self._last - self._communicated
            self.seconds[COMMUNICATION] += self._communicated
            self.steps += phase == PHASES[-1]
        self._communicated = 0.0
        if self._span is not None:
            self._span.__exit__(None, None, None)
            self._span = None
        if phase == PHASES[-1]:
            self._step += 1
            self._tracer.step()
        if self._is_tracing:
            self._span = record_function(PHASES[(PHASES.index(phase) + 1) % len(PHASES)])
            self._span.__enter__()
        self._last = self._now()

    def timed(self, reduction: Reduction) -> Reduction:
        """The same reduction, with its time counted as communication. That includes waiting for other ranks."""
        return reduction if self._tracer is None else _TimedReduction(reduction, self)

    def end(self) -> dict[str, str]:
        """Write the trace and the phases.

        Returns:
            Phase -> its time as text; empty if no step was counted.
        """
        if self._tracer is None:
            return {}
        if self._traces:
            self._tracer.stop()  # exports the trace of a session that ended inside TRACED
            self._traces = False
        if not self.steps:
            return {}
        each = {phase: 1e3 * seconds / self.steps for phase, seconds in self.seconds.items()}
        values: dict[str, Any] = {"steps": self.steps, "milliseconds_per_step": each}
        self._write("phases.json", lambda file: write_json(file, values))
        whole = sum(each.values())
        shown = {phase: f"{ms:8.3f} ms {ms / whole:6.1%}" for phase, ms in each.items()}
        return shown | {"a step": f"{whole:8.3f} ms", "trace, phases": str(self.folder)}

    def communicate(self, work: Callable[[], None]) -> None:
        """Call `work` and count its time as communication instead of the phase that contains it."""
        began = self._now()
        with record_function(COMMUNICATION) if self._is_tracing else contextlib.nullcontext():
            work()
        self._communicated += self._now() - began

    @property
    def _is_tracing(self) -> bool:
        return self._traces and TRACED[0] <= self._step <= TRACED[1]

    def _export(self, tracer: profile) -> None:
        def export(file: Path) -> None:
            with replacing(file) as beside:
                tracer.export_chrome_trace(str(beside))

        self._write("trace.json", export)

    def _write(self, name: str, write: Callable[[Path], None]) -> None:
        try:
            self.folder.mkdir(exist_ok=True)
            write(self.folder / name)
        except OSError as error:  # a profile must not end a run
            self.announce(f"{self.folder / name} is not writable ({error.strerror or error})")

    def _now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()


@dataclass(frozen=True)
class _TimedReduction(WrappedReduction):
    """A reduction whose time a profiler counts as communication."""

    profiler: Profiler

    def __call__(self, gradients: Float[Tensor, "rows weights"]) -> None:
        self.profiler.communicate(lambda: self.inner(gradients))
