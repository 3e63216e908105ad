"""The other ranks of a run on the fake device, without processes; and the accelerator of rank 0."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedType
from fake_device import DEVICE, DeviceError, DeviceEvent, DeviceGenerator, FakeDevice, memory
from torch import Tensor

from gan_dist.distributed.launcher import start_accelerator
from gan_dist.gan import stop_signal


class IdenticalRanks:
    """The collectives of ranks that all hold the same values as this process, which is rank 0.

    Args:
        ranks: their number.
        device: records the collectives.
    """

    def __init__(self, ranks: int, device: FakeDevice) -> None:
        self.ranks = ranks
        self.device = device

    def installed(self) -> contextlib.AbstractContextManager[Any]:
        """Replace the functions of torch.distributed. Others raise an error: there is no process group."""
        names = [name for name in dir(self) if name[0] != "_" and hasattr(dist, name)]
        return mock.patch.multiple(dist, **{name: getattr(self, name) for name in names})

    def is_initialized(self) -> bool:
        return self.ranks > 1

    def get_world_size(self, group: Any = None) -> int:
        return self.ranks

    def get_rank(self, group: Any = None) -> int:
        return 0

    def all_reduce(self, tensor: Tensor, op: Any = dist.ReduceOp.SUM, group: Any = None, async_op: bool = False) -> Any:
        self._record("all_reduce", group, tensor)
        assert op == dist.ReduceOp.SUM
        result = memory(tensor)
        self._do(lambda: result.mul_(self.ranks), result)
        return SimpleNamespace(wait=lambda: None) if async_op else None

    def all_gather(self, outputs: Sequence[Tensor], tensor: Tensor, group: Any = None) -> None:
        self._record("all_gather", group, tensor, *outputs)
        assert [output.shape for output in outputs] == [tensor.shape] * self.ranks
        for result in map(memory, outputs):
            self._do(partial(result.copy_, memory(tensor)), result)

    def all_gather_into_tensor(self, output: Tensor, tensor: Tensor, group: Any = None) -> None:
        self._record("all_gather_into_tensor", group, tensor, output)
        assert output.numel() == self.ranks * tensor.numel()
        result = memory(output).view(self.ranks, -1)
        self._do(partial(result.copy_, memory(tensor).view(1, -1)), result)

    all_gather_single = all_gather_into_tensor  # its name from torch 2.14 on

    def broadcast(self, tensor: Tensor, src: int = 0, group: Any = None) -> None:
        self._record("broadcast", group, tensor)

    def all_gather_object(self, outputs: list[Any], object: Any, group: Any = None) -> None:
        self._check_object("all_gather_object")
        outputs[:] = [object] * self.ranks

    def broadcast_object_list(self, objects: list[Any], src: int = 0, group: Any = None, device: Any = None) -> None:
        self._check_object("broadcast_object_list")

    def _do(self, work: Callable[[], Any], result: Tensor) -> None:
        """Do the work of a collective, also in each replay of a graph that contains it."""
        if self.device.capturing is None:
            work()
        else:
            self.device.capturing.record(work, result)

    def _record(self, name: str, group: Any, *tensors: Tensor) -> None:
        """Record a collective. Raises a DeviceError for tensors that NCCL refuses."""
        first = tensors[0]
        for tensor in tensors:
            if tensor.device.type != DEVICE.type:
                raise DeviceError(f"{name}: a tensor is on {tensor.device}")
            if not tensor.is_contiguous() or tensor.dtype != first.dtype:
                raise DeviceError(f"{name}: a tensor is not contiguous, or of another type than the first one")
        self.device.steps[-1].collectives.append(f"{name} {DEVICE.type} {first.dtype} {tuple(first.shape)}")

    def _check_object(self, name: str) -> None:
        if self.device.in_loop:
            raise DeviceError(f"the loop waits for the device: {name}")


def start_on_host(precision: str) -> Accelerator:
    """The accelerator of a run on the CPU."""
    for state in (AcceleratorState, PartialState, GradientState):
        state._shared_state.clear()
    return start_accelerator(precision, threads=1, timeout=300.0)


def start_on_device(precision: str, ranks: int) -> Accelerator:
    """The accelerator of rank 0 of a run on the device. Accelerate knows device types by name, so it starts on the CPU.

    Args:
        precision: no, bf16, or fp16, which uses a GradScaler.
        ranks: their number.
    """
    accelerator = start_on_host("no")
    for state in (PartialState._shared_state, AcceleratorState._shared_state):
        state.update(device=DEVICE, num_processes=ranks)
        if ranks > 1:
            state.update(distributed_type=DistributedType.MULTI_GPU)
    accelerator.state._mixed_precision = precision
    if precision == "fp16":
        accelerator.scaler = torch.amp.GradScaler(DEVICE.type)
    return accelerator


@contextlib.contextmanager
def fake_device(ranks: int) -> Iterator[FakeDevice]:
    """Use the device, and so many ranks, in this thread."""
    device = FakeDevice()
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch, "Generator", DeviceGenerator))
        stack.enter_context(mock.patch.object(torch, "Event", DeviceEvent))
        stack.enter_context(mock.patch.object(torch.accelerator, "synchronize", device.synchronize))
        stack.enter_context(mock.patch.object(stop_signal, "make_pinned", device.make_pinned))
        stack.enter_context(IdenticalRanks(ranks, device).installed())
        yield stack.enter_context(device)
