"""CUDA graphs: the operations of a function are captured once and replayed."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

WARM_UP = 3  # calls before the capture: libraries allocate workspaces, the optimizer its state

Work = Callable[[], object]


@runtime_checkable
class Graph(Protocol):
    """A graph of the operations of a device."""

    def warm_up(self, work: Work) -> None:
        """Do work once, without a graph, in the way that the capture requires."""

    def capture(self, work: Work, generators: Iterable[torch.Generator]) -> None:
        """Record the operations of work without executing them.

        Args:
            work: must not wait for the device.
            generators: those from which it draws.
        """

    def replay(self) -> None:
        """Execute the recorded operations in the same memory, with the generators' current seeds."""

    def reset(self) -> None:
        """Discard the recorded operations."""


class CudaGraph:
    """A graph of CUDA kernels."""

    # One for all: cuBLAS keeps a workspace for each stream and thread that it was used in, 32 MiB on an H100.
    _warm_up_stream: ClassVar[Any] = None

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self.replay, self.reset = self._graph.replay, self._graph.reset

    def warm_up(self, work: Work) -> None:
        if CudaGraph._warm_up_stream is None:
            CudaGraph._warm_up_stream = torch.cuda.Stream()
        stream = CudaGraph._warm_up_stream
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), warnings.catch_warnings():
            # torch's optimizers warn that they are not captured yet.
            warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
            work()
        torch.cuda.current_stream().wait_stream(stream)

    def capture(self, work: Work, generators: Iterable[torch.Generator]) -> None:
        with warnings.catch_warnings():
            # From torch 2.13 on, a graph finds its generators itself: the call does nothing but warn.
            warnings.filterwarnings("ignore", r"CUDAGraph\.register_generator_state\(\) is deprecated")
            for generator in generators:
                self._graph.register_generator_state(generator)
        # thread_local: NCCL's watchdog thread queries CUDA events during the capture.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            work()


GRAPHS: dict[str, Callable[[], Graph]] = {"cuda": CudaGraph}
"""Type of a device -> its graphs."""


class CapturedFunction:
    """A function of tensors that is captured as a graph after `WARM_UP` calls and replayed from then on.

    A replay runs the same kernels on the same memory, so its results are bit-identical. It saves the kernel launches
    and the Python code between them, which take longer than the computation of small networks. Only work on the device
    is replayed: the function must not wait for the device, and must change tensors in place. Numbers of the host that
    it reads stay those of the capture.

    Args:
        function: of inputs with the same shapes in each call.
        device: of the tensors that it works with; its type must be in GRAPHS.
        generators: all generators from which it draws.
    """

    existing: ClassVar[weakref.WeakSet[CapturedFunction]] = weakref.WeakSet()
    """All of this process, for `discard_graphs`."""

    def __init__(
        self, function: Callable[..., object], device: torch.device, generators: Iterable[torch.Generator] = ()
    ) -> None:
        self.function = function
        self.device = device
        self.generators = tuple(generators)
        self._graph: Graph | None = None
        self.reset()
        self.existing.add(self)

    def reset(self) -> None:
        """Discard the graph. After further `WARM_UP` calls, the next one captures a new graph."""
        if self._graph is not None:
            self._graph.reset()  # other references, such as those of a traceback, would keep it
        self._graph = None
        self._calls = 0
        self._inputs: tuple[Tensor, ...] = ()

    def __call__(self, *inputs: Tensor) -> None:
        """Call the function.

        Args:
            inputs: on the device, or on the host in pinned memory.
        """
        if self._graph is None:
            graph = GRAPHS[self.device.type]()
            self._calls += 1
            if self._calls <= WARM_UP:
                graph.warm_up(lambda: self.function(*inputs))
                return
            # torch keeps one workspace of cuBLAS for all graphs, and frees it with the first of them that is reset or
            # collected: the others would go on writing to it.
            discard_graphs()
            self._inputs = tuple(each.to(self.device, copy=True) for each in inputs)
            self._graph = graph
            graph.capture(lambda: self.function(*self._inputs), self.generators)
        for own, new in zip(self._inputs, inputs, strict=True):
            own.copy_(new, non_blocking=True)
        self._graph.replay()


def discard_graphs() -> None:
    """Discard all graphs of this process. Must be called before its process group is destroyed."""
    for captured in list(CapturedFunction.existing):
        captured.reset()
