"""Copies from the device to the host that nothing waits for until they are used."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class HostCopies:
    """Copies of tensors as they are now: what the device is given later does not change them.

    On a GPU, a copy goes to page-locked memory, which the driver fills while the host continues. On MPS and the CPU it
    is complete at once.

    Args:
        device: of the tensors.
    """

    def __init__(self, device: torch.device) -> None:
        self._event: Any = None if device.type in ("cpu", "mps") else torch.Event(device)

    def start(self, tensor: Tensor) -> Tensor:
        """Start a copy, behind the work that the device has been given. Its content is undefined until `wait`."""
        copy = tensor.detach().to("cpu", copy=True, non_blocking=self._event is not None)
        if self._event is not None:
            self._event.record()
        return copy

    def wait(self) -> None:
        """Return when all copies are complete. May be called in another thread than `start`."""
        if self._event is not None:
            self._event.synchronize()
