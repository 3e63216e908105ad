"""How long a run trains and how fast. Evaluations are counted apart: they say nothing of the training's speed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator


class Timing:
    """The clock of a session. Other threads may read it while the training goes on.

    Args:
        seconds: what earlier sessions of the run took, evaluations included.
        evaluating: what evaluations took of that, in seconds.
        clock: seconds since any moment.
    """

    def __init__(
        self, seconds: float = 0.0, evaluating: float = 0.0, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.evaluating = evaluating
        """Seconds that evaluations took until now, in all sessions."""
        self.last_evaluation = 0.0
        """Seconds that the last evaluation of this session took; 0 before the first."""
        self._earlier = seconds
        self._clock = clock
        self._began: float | None = None
        self._evaluation_began: float | None = None
        # Each a step and the time after it, shifted by the evaluations since.
        self._logged = self._measured_from = (0, 0.0)
        self._pace: float | None = None

    def begin(self, step: int) -> None:
        """The training begins, or goes on from another step."""
        now = self._clock()
        self._began = now if self._began is None else self._began
        self._logged = self._measured_from = (step, now)
        self._pace = None

    def log(self, step: int) -> float:
        """Note a log point.

        Returns:
            Steps per second since the last one.
        """
        now = self._clock()
        rate = _rate(self._logged, (step, now))
        if self._pace is None:  # the first steps take longer: memory and threads are set up, kernels are compiled
            self._pace, self._measured_from = rate, (step, now)
        else:
            self._pace = _rate(self._measured_from, (step, now))
        self._logged = (step, now)
        return rate

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """The clock of the training stands still for the time of the block."""
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
        """Steps per second after `step` steps: of this session, but for its first steps if there are others.

        Grids and checkpoints are part of it, as they come again and again. None before the first step.
        """
        if self._pace is not None:
            return self._pace
        began, now = self._logged, self._evaluation_began or self._clock()
        return _rate(began, (step, now)) if step > began[0] and now > began[1] else None

    def seconds(self) -> float:
        """What the run took until now, in all sessions, evaluations included."""
        return self._earlier + (self._clock() - self._began if self._began is not None else 0.0)


def _rate(earlier: tuple[int, float], later: tuple[int, float]) -> float:
    return (later[0] - earlier[0]) / (later[1] - earlier[1])
