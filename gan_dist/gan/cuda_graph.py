"""CUDA graphs: the kernels of a function are captured once and replayed."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

WARM_UP = 3  # calls before the capture: libraries allocate workspaces, the optimizer its state


class CapturedFunction:
    """A function of tensors that is captured as a CUDA graph after `WARM_UP` calls and replayed from then on.

    A replay runs the same kernels on the same memory, so its results are bit-identical. It saves the kernel launches,
    which take longer than the computation of small networks. Only work on the device is replayed: the function must
    not depend on other side effects, must not synchronize, and always needs inputs of the same shapes.

    Args:
        function: may change tensors in place. The next call overwrites the returned tensors.
    """

    existing: ClassVar[weakref.WeakSet[CapturedFunction]] = weakref.WeakSet()
    """All of this process, for `discard_graphs`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._graph: torch.cuda.CUDAGraph | None = None
        self.reset()
        self.existing.add(self)

    def reset(self) -> None:
        """Discard the graph, because a tensor that the function uses was replaced. The next calls capture a new one."""
        if self._graph is not None:
            self._graph.reset()  # other references, such as those of a traceback, would keep it
        self._calls = 0
        self._graph = None
        self._inputs: tuple[Tensor, ...] = ()
        self._result: Any = None

    def __call__(self, *arguments: Any) -> Any:
        """Call the function.

        Args:
            arguments: tensors may differ in each call; other values stay those of the capture.
        """
        if self._graph is None:
            self._calls += 1
            if self._calls <= WARM_UP:
                return self._warm_up(arguments)
            self._capture(arguments)
        tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
        for own, new in zip(self._inputs, tensors, strict=True):
            own.copy_(new)
        assert self._graph is not None
        self._graph.replay()
        return self._result

    def _warm_up(self, arguments: tuple[Any, ...]) -> Any:
        """Call the function without a graph, on a side stream as a capture requires."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), warnings.catch_warnings():
            # torch's optimizers warn that they are not captured yet.
            warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
            result = self.function(*arguments)
        torch.cuda.current_stream().wait_stream(stream)
        return result

    def _capture(self, arguments: tuple[Any, ...]) -> None:
        own = [argument.clone() if isinstance(argument, Tensor) else argument for argument in arguments]
        self._inputs = tuple(argument for argument in own if isinstance(argument, Tensor))
        self._graph = torch.cuda.CUDAGraph()
        # thread_local: NCCL's watchdog thread queries CUDA events during the capture.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._result = self.function(*own)


def discard_graphs() -> None:
    """Discard all graphs of this process. Must be called before its process group is destroyed."""
    for captured in list(CapturedFunction.existing):
        captured.reset()
