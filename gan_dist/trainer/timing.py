"""Duration and speed of training. Evaluations are timed separately, since they do not affect the speed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator


class Timing:
    """The clock of a session. Thread-safe to read.

    Args:
        seconds: duration of earlier sessions of the run, evaluations included.
        evaluating: the part of it spent in evaluations, in seconds.
        clock: returns seconds since an arbitrary moment.
    """

    def __init__(
        self, seconds: float = 0.0, evaluating: float = 0.0, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.evaluating = evaluating
        """Seconds spent in evaluations, in all sessions."""
        self.last_evaluation = 0.0
        """Duration of the latest evaluation of this session in seconds; 0 before the first one."""
        self._earlier, self._evaluated_earlier = seconds, evaluating
        self._clock = clock
        self._began: float | None = None
        self._evaluation_began: float | None = None
        # (step, time after it), shifted by the evaluations since.
        self._logged = self._measured_from = (0, 0.0)
        self._pace: float | None = None

    def begin(self, step: int) -> None:
        """Start or restart training after `step` steps."""
        now = self._clock()
        self._began = now if self._began is None else self._began
        self._logged = self._measured_from = (step, now)
        self._pace = None

    def log(self, step: int) -> float:
        """Record a log point.

        Returns:
            Steps per second since the previous one.
        """
        now = self._clock()
        rate = _rate(self._logged, (step, now))
        if self._pace is None:  # the first steps are slower: memory, threads and kernels are set up
            self._pace, self._measured_from = rate, (step, now)
        else:
            self._pace = _rate(self._measured_from, (step, now))
        self._logged = (step, now)
        return rate

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """Stop the training clock within the block."""
        self._evaluation_began = self._clock()
        try:
            yield
        finally:
            took = self._clock() - self._evaluation_began
            self.last_evaluation = took
            self.evaluating += took
            self._logged, self._measured_from = ((step, at + took) for step, at in (self._logged, self._measured_from))
            self._evaluation_began = None

    def pace(self, step: int) -> float | None:
        """Steps per second of this session after `step` steps, without the slower first steps if possible.

        Includes sample grids and checkpoints. None before the first step.
        """
        if self._pace is not None:
            return self._pace
        began, now = self._logged, self._evaluation_began or self._clock()
        return _rate(began, (step, now)) if step > began[0] and now > began[1] else None

    def training_seconds(self) -> float:
        """How long this session has trained, in seconds, without evaluations."""
        return self.seconds() - self._earlier - (self.evaluating - self._evaluated_earlier)

    def seconds(self) -> float:
        """Total duration of the run in seconds, over all sessions, evaluations included."""
        return self._earlier + (self._clock() - self._began if self._began is not None else 0.0)


def _rate(earlier: tuple[int, float], later: tuple[int, float]) -> float:
    return (later[0] - earlier[0]) / (later[1] - earlier[1])
