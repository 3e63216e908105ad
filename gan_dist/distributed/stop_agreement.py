"""How all ranks stop at the same step."""

from __future__ import annotations

from gan_dist.distributed.device_wait import RunAhead
from gan_dist.distributed.preemption import StopRequest
from gan_dist.gan.stop_signal import StopSignal


class StopAgreement:
    """Makes all ranks stop at the same step after one of them was asked to.

    A request travels with the gradients of the next step. On a device, the host does not wait for that step: all ranks
    act on it a fixed number of steps later, when the step has certainly ended. That also bounds how far the host runs
    ahead, and a rank that is lost between two log points is noticed.

    Args:
        request: of this process.
        signal: carries the requests; counts the same steps as `reached`.
        run_ahead: how far the host may run ahead of the device.
    """

    def __init__(self, request: StopRequest, signal: StopSignal, run_ahead: RunAhead) -> None:
        self._request = request
        self._signal = signal
        self._run_ahead = run_ahead
        self._requested = False
        self._steps = 0

    def reached(self) -> bool:
        """Returns whether to stop after this step, the same on every rank. Every rank must call it in every step.

        Raises:
            dist.DistError: the device does not finish its steps, because a rank is lost.
        """
        self._steps += 1
        self._run_ahead()
        if self._request.pending and not self._requested:
            self._signal.request()
            self._requested = True
        return self._signal.steps_before < self._steps - self._run_ahead.steps
