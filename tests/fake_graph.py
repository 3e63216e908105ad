"""A graph of operations below autograd, recorded once and executed again on the same memory, as a CUDA graph does.

During a capture nothing is executed for good: what an operation changes is restored at its end, and new tensors are
filled with NaN. So a number that the host got or kept from the capture shows in the results of a replay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

SMALL = 7  # written into new tensors of integers


class DeviceError(Exception):
    """A GPU would raise an error, or would make the host wait."""


class Recording:
    """The operations of one capture.

    Args:
        generators: those that the graph may draw from.
    """

    def __init__(self, generators: Iterable[torch.Generator]) -> None:
        self.work: list[Callable[[], object]] = []
        self._generators = {generator._cdata: (generator, generator.get_state()) for generator in generators}
        self._saved: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self._new: dict[int, Tensor] = {}

    def execute(self, func: Any, arguments: list[Any], options: dict[str, Any], generators: list[int]) -> Any:
        """Execute an operation on host memory, and record it."""
        if set(generators) - set(self._generators):
            raise DeviceError(f"{func.name()} draws from a generator that is not registered for the capture")
        for tensor in _written(func, arguments, options):
            self._save(tensor)
        result = func(*arguments, **options)
        if not func.is_view:
            known = {tensor.data_ptr() for tensor in tree_leaves((arguments, options)) if isinstance(tensor, Tensor)}
            for tensor in tree_leaves(result):
                if isinstance(tensor, Tensor) and tensor.data_ptr() not in known:
                    self._new[tensor.untyped_storage().data_ptr()] = tensor
            self.work.append(lambda: _repeat(func, arguments, options, result))
        return result

    def record(self, work: Callable[[], object], written: Tensor) -> None:
        """Record work on host memory that is not an operation of torch: that of a collective."""
        self._save(written)
        work()
        self.work.append(work)

    def end(self) -> None:
        """Undo what was executed."""
        for storage, saved in self._saved.values():
            storage.copy_(saved)
        for tensor in self._new.values():
            tensor.fill_(torch.nan if tensor.is_floating_point() else (tensor.dtype != torch.bool) * SMALL)
        for generator, state in self._generators.values():
            generator.set_state(state)

    def _save(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._new:
            self._saved.setdefault(storage.data_ptr(), (storage, storage.clone()))


def _written(func: Any, arguments: list[Any], options: dict[str, Any]) -> list[Tensor]:
    """The tensors that an operation changes."""
    written = []
    for i, declared in enumerate(func._schema.arguments):
        if declared.alias_info is not None and declared.alias_info.is_write:
            value = arguments[i] if i < len(arguments) else options.get(declared.name)
            written += [each for each in tree_leaves(value) if isinstance(each, Tensor)]
    return written


def _repeat(func: Any, arguments: list[Any], options: dict[str, Any], result: Any) -> None:
    """Execute an operation again, and put what it returns where it was at first."""
    for old, new in zip(tree_leaves(result), tree_leaves(func(*arguments, **options)), strict=True):
        if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
            old.copy_(new)
