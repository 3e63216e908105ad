"""An accelerator without hardware, on which the package builds and trains as on a GPU.

`register` adds a device type to torch that is written in Python. Its tensors report the device `DEVICE` and keep their
data in host memory, so every operation computes real numbers. `FakeDevice` executes the operations, counts them, and
raises a DeviceError where a GPU would fail or would make the host wait. It is stricter than CUDA: an operation on the
device accepts no host tensor, not even a scalar.

A device type cannot be unregistered, and it becomes torch's accelerator: use it in a separate process.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from fake_graph import DeviceError, Recording
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("privateuseone", 0)  # torch's type for external devices; `register` names it
CPU = torch.device("cpu")
# Prefixes of the names of operations that only allocate or view.
NO_KERNEL = ("aten::empty", "aten::new_empty", "aten::_unsafe_view")
INDEXING = ("aten::index.", "aten::index_put")
COPIES = ("aten::copy_", "aten::_to_copy")  # the only operations between devices
GENERATOR = torch.Generator  # which `fake_device` replaces
DYNAMIC = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


def register() -> None:
    """Add the device type to torch, and hide GPUs."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    _setup_privateuseone_for_python_backend("fake_gpu")
    torch.set_num_threads(1)


@dataclass
class Step:
    """Operations of the device in one step, from fetching its batch to fetching the next one."""

    operations: Counter[str] = field(default_factory=Counter)
    """Name -> count. Views and allocations are not counted: they launch no kernel."""
    copies: int = 0
    """Copies from the host to the device; they are among the operations."""
    collectives: list[str] = field(default_factory=list)


class DeviceTensor(torch.Tensor):
    """A tensor on the device.

    Args:
        memory: a host tensor, whose memory it uses.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, memory: Tensor) -> DeviceTensor:
        return torch.Tensor._make_subclass(cls, memory, False, dispatch_device=True, device_for_backend_keys=DEVICE)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:
            return DEVICE
        raise DeviceError(f"{func.name()} on the device in another thread, or after the end of the run")

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"DeviceTensor({tuple(self.shape)}, {self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> DeviceTensor:
        # torch's implementation reads the storage, which is on the host.
        copy = memo[id(self)] = self.detach().clone().requires_grad_(self.requires_grad)
        copy.__dict__.update(self.__dict__)
        return copy

    @property
    def memory(self) -> Tensor:
        """A host tensor in the same memory."""
        plain = torch.empty(0, dtype=self.dtype)
        return plain.set_(self.untyped_storage(), self.storage_offset(), self.size(), self.stride())


def memory(tensor: Tensor) -> Tensor:
    return tensor.memory if isinstance(tensor, DeviceTensor) else tensor


class DeviceGenerator(GENERATOR):
    """Replaces torch.Generator, which does not support devices written in Python. Draws the numbers of the CPU."""

    on_device: dict[int, DeviceGenerator] = {}  # noqa: RUF012  # an operation gets the generator as another object

    def __new__(cls, device: torch.device | str = CPU) -> DeviceGenerator:
        generator = super().__new__(cls, CPU)
        if torch.device(device).type == DEVICE.type:
            cls.on_device[generator._cdata] = generator
        return generator


class DeviceEvent:
    """Replaces torch.Event, which does not support devices written in Python. All work is done when it is recorded."""

    reached = True

    def __init__(self, device: torch.device) -> None:
        assert device.type == DEVICE.type

    def record(self) -> None:
        pass

    def query(self) -> bool:
        return self.reached

    def synchronize(self) -> None:
        pass


class FakeDevice(TorchDispatchMode):
    """Executes all operations of this thread: those that involve the device, and those of the host."""

    def __init__(self) -> None:
        super().__init__()
        self.in_loop = False
        """Between two log points: nothing may wait for the device."""
        self.pinned: list[Tensor] = []
        """Host memory into which the device copies without a wait."""
        self.steps = [Step()]
        self.capturing: Recording | None = None

    def make_pinned(self, tensor: Tensor) -> Tensor:
        """Replaces the function of gan_dist: without CUDA, torch pins no memory."""
        self.pinned.append(torch.zeros(tensor.shape, dtype=tensor.dtype))
        return self.pinned[-1]

    def synchronize(self, device: Any = None) -> None:
        """Replaces torch.accelerator.synchronize."""
        if self.in_loop or self.capturing is not None:
            raise DeviceError("the loop waits for the device: synchronize")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:  # torch asks only for tensors of the device
            return DEVICE
        inputs = _Inputs()
        plain = [inputs.unwrap(argument) for argument in args]
        plain_kwargs = {name: inputs.unwrap(argument) for name, argument in kwargs.items()} if kwargs else {}
        target = plain_kwargs.get("device")
        if not inputs.on_device and (target is None or target.type != DEVICE.type):
            return func(*args, **(kwargs or {}))
        operation = _describe(func)
        to_host = target is not None and target.type != DEVICE.type
        to_host |= operation.name == "aten::copy_" and not isinstance(args[0], DeviceTensor)
        to_pinned = to_host and len(args) > 2 and args[2] and any(args[0] is pinned for pinned in self.pinned)
        waits = any(_is_mask(index) for index in args[1]) if operation.indexes else operation.dynamic
        if (self.in_loop or self.capturing is not None) and ((to_host and not to_pinned) or waits):
            raise DeviceError(f"the loop waits for the device: {operation.name}{' to the host' if to_host else ''}")
        inputs.check(operation)
        if operation.launches_kernel:
            self.steps[-1].operations[operation.name] += 1
            self.steps[-1].copies += inputs.on_host and not to_host
        if target is not None:
            plain_kwargs["device"] = CPU
        if self.capturing is not None:
            if inputs.on_host and not to_pinned:
                raise DeviceError(f"{operation.name} copies from the host during a capture")
            result = self.capturing.execute(func, plain, plain_kwargs, inputs.generators)
        else:
            result = func(*plain, **plain_kwargs)
        return result if to_host else inputs.wrap(result)


class _Operation(NamedTuple):
    name: str
    launches_kernel: bool
    dynamic: bool
    """The host needs values of a tensor to continue."""
    indexes: bool
    """The same if an index, in the second argument, is a mask."""


@functools.cache
def _describe(func: Any) -> _Operation:
    name = func.name()
    launches_kernel = not func.is_view and not name.startswith(NO_KERNEL)
    return _Operation(name, launches_kernel, bool(DYNAMIC & set(func.tags)), name.startswith(INDEXING))


def _is_mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype == torch.bool


class _Inputs:
    """The tensors among the arguments of one operation."""

    def __init__(self) -> None:
        self.on_device: dict[int, tuple[Tensor, DeviceTensor]] = {}
        """id of a host tensor -> that tensor, and the tensor of the device that it replaces."""
        self.on_host = self.host_generator = False
        self.generators: list[int] = []
        """Identities of the generators of the device."""

    def unwrap(self, argument: Any) -> Any:
        """Replace tensors of the device by host tensors in the same memory."""
        kind = type(argument)
        if kind is DeviceTensor:
            plain = argument.memory
            self.on_device[id(plain)] = plain, argument
            return plain
        if kind is list or kind is tuple:
            return [self.unwrap(member) for member in argument]
        if isinstance(argument, Tensor):
            self.on_host = True
        elif kind is GENERATOR:
            self.host_generator = argument._cdata not in DeviceGenerator.on_device
            self.generators.append(argument._cdata)
        return argument

    def check(self, operation: _Operation) -> None:
        """Raise a DeviceError where the device would fail."""
        if self.on_device and self.on_host and operation.name not in COPIES:
            raise DeviceError(f"{operation.name} mixes tensors of the device and of the host")
        if self.host_generator:
            raise DeviceError(f"{operation.name} on the device draws from a generator of the host")

    def wrap(self, result: Any) -> Any:
        """Undo that in a result: a new tensor, a view, or an argument that was changed in place."""
        if isinstance(result, list | tuple):
            return type(result)(self.wrap(member) for member in result)
        if not isinstance(result, Tensor):
            return result
        if id(result) not in self.on_device:
            return DeviceTensor(result)
        _, changed = self.on_device[id(result)]
        assert changed.shape == result.shape, "the fake device does not support resizing"
        return changed
