"""CUDA graphs: the kernels of a function, recorded once and played back."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3  # calls before the recording: libraries take their workspaces, the optimizer makes its state


class CapturedFunction:
    """A function of tensors that on CUDA is recorded at one of its first calls and from then on played back.

    What is played back are the same kernels on the same memory, so the results are the same bit for bit; what is
    spared is launching them one by one, which takes longer than small networks compute. Only what the function does on
    the device is played back, so it must do nothing else that matters, wait for nothing, and always get inputs of the
    same shapes.

    Args:
        function: it may change tensors in place; what it returns is overwritten by the next call.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.forget()

    def forget(self) -> None:
        """Record anew: some tensor that the function works on has been replaced."""
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._result: Any = None

    def __call__(self, *arguments: Any) -> Any:
        """Call the function.

        Args:
            arguments: tensors may be others each time, what is no tensor stays what it was at the recording.
        """
        if self._graph is None:
            self._calls += 1
            if self._calls <= WARM_UP:
                return self._aside(arguments)
            self._record(arguments)
        given = [argument for argument in arguments if isinstance(argument, Tensor)]
        for own, new in zip(self._inputs, given, strict=True):
            own.copy_(new)
        assert self._graph is not None
        self._graph.replay()
        return self._result

    def _aside(self, arguments: tuple[Any, ...]) -> Any:
        """Call it as it is, on another stream than the default one, which can't be recorded."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), warnings.catch_warnings():
            # torch's optimizers wonder why they are not captured: they are about to be.
            warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
            result = self.function(*arguments)
        torch.cuda.current_stream().wait_stream(stream)
        return result

    def _record(self, arguments: tuple[Any, ...]) -> None:
        own = [argument.clone() if isinstance(argument, Tensor) else argument for argument in arguments]
        self._inputs = tuple(argument for argument in own if isinstance(argument, Tensor))
        self._graph = torch.cuda.CUDAGraph()
        # thread_local: NCCL's watchdog asks CUDA for its events in a thread of its own meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._result = self.function(*own)
