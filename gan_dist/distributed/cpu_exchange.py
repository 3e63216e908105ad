"""How processes that train on CPUs exchange gradients: in shared memory, and between machines through gloo."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch.distributed as dist

from gan_dist.distributed.shared_memory import Exchange, SharedMemory


class CpuExchange(NamedTuple):
    """What the ranks of one host share, and how one of them reaches the other hosts."""

    memory: SharedMemory
    hosts: int
    firsts: Any
    """Process group of the first ranks of the hosts; None if there is one host."""

    def describe(self) -> str:
        if self.hosts == 1:
            return "shared memory"
        return f"shared memory in each of {self.hosts} hosts, gloo between them"


def open_exchange(
    rank: int,
    hosts: Sequence[Sequence[int]],
    numbers: int,
    exchange: Exchange,
    timeout: float,
    announce: Callable[[str], None],
) -> CpuExchange | None:
    """Open the shared memory of each host, and connect the hosts. A collective of all ranks.

    Args:
        rank: this one.
        hosts: the ranks of each host, from `group_by_host`.
        numbers, exchange, timeout, announce: as in `SharedMemory.open`.

    Returns:
        None on every rank if one of them cannot open its memory: then all use gloo.
    """
    (group,) = (group for group in hosts if rank in group)
    memory = SharedMemory.open(rank, group, numbers, exchange, timeout, announce)
    if memory is None:
        return None
    if len(hosts) == 1:
        return CpuExchange(memory, 1, None)
    wait = datetime.timedelta(seconds=timeout)
    firsts = dist.new_group([group[0] for group in hosts], backend="gloo", timeout=wait)  # every rank has to call it
    return CpuExchange(memory, len(hosts), firsts)


def group_by_host(firsts: Sequence[int]) -> list[range]:
    """The ranks of each host, as the launcher says.

    Args:
        firsts: of each rank, the first rank of its host.

    Returns:
        One group of all ranks if the hosts have one rank each or different numbers of them: the ranks may still be on
        one machine.
    """
    ranks, size = len(firsts), firsts.count(firsts[0])
    regular = all(first == rank // size * size for rank, first in enumerate(firsts))
    if size == 1 or ranks % size or not regular:
        size = ranks
    return [range(first, first + size) for first in range(0, ranks, size)]
