"""Processes of one machine exchange gradients in shared memory, or agree that they cannot."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist

from gan_dist.distributed import local_sockets, shared_memory
from gan_dist.distributed.cpu_exchange import group_by_host
from gan_dist.distributed.shared_memory import SharedMemory

# --- shared memory


def in_ranks(count: int, work: Callable[[int, Callable[[object], list[object]]], object]) -> list[object]:
    """Call `work(rank, exchange)` in `count` threads, which exchange objects as processes would."""
    barrier, board = threading.Barrier(count), [None] * count

    def exchange(rank: int, mine: object) -> list[object]:
        board[rank] = mine  # type: ignore[call-overload]
        barrier.wait()
        everyone = list(board)
        barrier.wait()
        return everyone

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda rank: work(rank, partial(exchange, rank)), range(count)))


NUMBERS = 10  # maximum in a row of these tests


def open_memory(rank: int, ranks: int, exchange: Callable[[object], list[object]]) -> SharedMemory:
    announced: list[str] = []
    memory = SharedMemory.open(rank, range(ranks), NUMBERS, exchange, 10.0, announced.append)
    assert memory is not None, announced
    return memory


def refusals(ranks: int, seen: Callable[[Any], Any] = lambda offer: offer) -> list[object]:
    """Returns what each rank announces if shared memory is unavailable; `seen` changes the offers that it receives."""

    def work(rank: int, exchange: Callable[[object], list[object]]) -> object:
        announced: list[str] = []

        def exchange_changed(mine: object) -> list[object]:
            return [(seen(offer), problem) for offer, problem in exchange(mine)]  # type: ignore[misc]

        assert SharedMemory.open(rank, range(ranks), NUMBERS, exchange_changed, 2.0, announced.append) is None
        (line,) = announced
        return line

    return in_ranks(ranks, work)


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_every_rank_receives_all_rows_in_order(ranks: int) -> None:
    def work(rank: int, exchange: Callable[[object], list[object]]) -> None:
        memory = open_memory(rank, ranks, exchange)
        for call in range(20):
            seen = memory.gather(torch.full((2, 3 + call % 3), float(100 * call + rank)))
            assert seen.shape == (2 * ranks, 3 + call % 3)
            assert seen[:, 0].tolist() == [100 * call + other for other in range(ranks) for _ in range(2)]
        memory.close()

    in_ranks(ranks, work)


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_first_rank_of_each_host_combines_the_rows_of_its_host(ranks: int) -> None:
    hosts = [range(ranks), range(ranks, 2 * ranks)]

    def work(rank: int, exchange: Callable[[object], list[object]]) -> None:
        group, announced = hosts[rank // ranks], list[str]()
        memory = SharedMemory.open(rank, group, NUMBERS, exchange, 10.0, announced.append)
        assert memory is not None, announced
        assert memory.group == list(group)

        def add(rows: torch.Tensor) -> None:
            assert rank == group[0]
            rows[0].copy_(rows.sum(0))

        for call in range(20):
            rows = torch.full((2, 3 + call % 3), float(100 * call + rank))
            assert memory.reduce(rows, add).tolist() == [2.0 * sum(100 * call + other for other in group)] * len(rows.T)
        memory.close()

    in_ranks(2 * ranks, work)


def test_a_failure_of_the_first_rank_reaches_its_host_at_once() -> None:
    """As when another host is lost: all look for lost ranks at the same time, while all of them answer."""

    def work(rank: int, exchange: Callable[[object], list[object]]) -> None:
        memory = open_memory(rank, 3, exchange)
        began = time.monotonic()
        error, message = (ZeroDivisionError, "division") if rank == 0 else (dist.DistNetworkError, "the other hosts")
        with pytest.raises(error, match=message):
            memory.reduce(torch.ones(1, 1), lambda _: 1 // 0)  # type: ignore[arg-type, return-value]
        assert time.monotonic() - began < 5.0  # of 10
        exchange(None)
        memory.close()

    in_ranks(3, work)


def test_a_host_without_shared_memory_is_known_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    create = shared_memory._create_memory
    created: list[int] = []

    def create_once(size: int) -> int:
        created.append(size)
        if len(created) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return create(size)

    def work(rank: int, exchange: Callable[[object], list[object]]) -> object:
        announced: list[str] = []
        group = range(rank // 2 * 2, rank // 2 * 2 + 2)
        assert SharedMemory.open(rank, group, NUMBERS, exchange, 2.0, announced.append) is None
        (line,) = announced
        return line

    monkeypatch.setattr(shared_memory, "_create_memory", create_once)
    (line,) = set(in_ranks(4, work))
    assert os.strerror(errno.ENOSPC) in str(line)


@pytest.mark.parametrize(
    ("firsts", "hosts"),
    [
        ([0, 0, 2, 2], [range(2), range(2, 4)]),
        ([0, 0, 0, 3, 3, 3], [range(3), range(3, 6)]),
        ([0, 0, 0], [range(3)]),
        ([0, 1, 2], [range(3)]),  # one rank on each host, as far as the launcher says
        ([0, 0, 2], [range(3)]),  # hosts of different sizes
        ([0, 0, 2, 2, 2], [range(5)]),
        ([0, 1, 0, 1], [range(4)]),  # malformed
    ],
    ids=str,
)
def test_hosts_with_equally_many_ranks_are_found(firsts: list[int], hosts: list[range]) -> None:
    assert group_by_host(firsts) == hosts


@pytest.mark.parametrize("ends", [True, False])
def test_a_rank_that_ends_or_hangs_is_an_error(ends: bool) -> None:
    def work(rank: int, exchange: Callable[[object], list[object]]) -> None:
        announced: list[str] = []
        memory = SharedMemory.open(rank, range(2), NUMBERS, exchange, 1.0, announced.append)
        assert memory is not None, announced
        memory.gather(torch.zeros(1, 1))
        if rank == 0:
            with pytest.raises(dist.DistNetworkError, match="closed its connection" if ends else "in time"):
                memory.gather(torch.zeros(1, 1))
        elif ends:
            memory.close()
        exchange(None)  # until then it is alive, but sends nothing
        memory.close()

    in_ranks(2, work)


def test_all_ranks_know_that_one_is_unreachable() -> None:
    lines = refusals(3, lambda offer: offer and ("\0nobody", offer[1]))
    assert len(set(lines)) == 1
    assert lines[0] == (
        "shared memory is unavailable (rank 1: another rank can't be reached, as on another host); "
        "the gradients are added through gloo"
    )


def refuse(code: int) -> Callable[..., object]:
    def refused(*_: object) -> object:
        raise OSError(code, os.strerror(code))

    return refused


@pytest.mark.parametrize(
    ("module", "name", "code", "rank"),
    [
        (os, "memfd_create", errno.ENOSYS, 0),
        (os, "ftruncate", errno.EFBIG, 0),
        (os, "posix_fallocate", errno.ENOSPC, 0),
        (fcntl, "fcntl", errno.EINVAL, 0),
        (shared_memory, "_map", errno.ENOMEM, 0),
        (socket, "send_fds", errno.EPIPE, 0),
        (socket, "recv_fds", errno.EMFILE, 1),
        (shared_memory, "connect", errno.EACCES, 1),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_all_ranks_do_without_what_one_cannot_create(
    module: object, name: str, code: int, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, refuse(code))
    lines = refusals(3)
    assert len(set(lines)) == 1
    assert f"(rank {rank}: {os.strerror(code)})" in str(lines[0])


def test_shared_memory_needs_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(rank: int, exchange: Callable[[object], list[object]]) -> list[float]:
        memory = open_memory(rank, 2, exchange)
        try:
            return memory.gather(torch.full((1, 1), float(rank)))[:, 0].tolist()
        finally:
            memory.close()

    monkeypatch.setattr(torch, "from_file", refuse(errno.ENOENT))  # which opened /proc/self/fd
    assert in_ranks(2, work) == [[0.0, 1.0]] * 2


def test_no_rank_can_resize_the_memory() -> None:
    file = shared_memory._create_memory(8192)
    try:
        for size in (0, 4096, 16384):
            with pytest.raises(PermissionError):
                os.ftruncate(file, size)
        with pytest.raises(PermissionError):
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        assert os.fstat(file).st_blocks * 512 >= 8192  # its pages are allocated
    finally:
        os.close(file)


def received(intruder: socket.socket) -> tuple[bytes, list[int]]:
    """Returns what another process receives until its connection is closed."""
    intruder.settimeout(20)
    try:
        content, files, _, _ = socket.recv_fds(intruder, 100, 10)
    except ConnectionResetError:
        return b"", []
    return content, files


def test_other_processes_neither_block_the_ranks_nor_get_the_memory() -> None:
    """Many connect to every listener and send nothing, half a greeting, or the wrong secret."""
    intruders: list[socket.socket] = []

    def work(rank: int, exchange: Callable[[object], list[object]]) -> list[float]:
        def exchange_and_intrude(mine: object) -> list[object]:
            offers = exchange(mine)
            offer = offers[rank][0]  # type: ignore[index]
            if offer is not None:  # the listeners are open; no rank has connected yet
                for i in range(300):
                    intruder = socket.socket(socket.AF_UNIX)
                    intruder.settimeout(20)
                    while True:
                        try:
                            intruder.connect(offer[0])
                            break
                        except BlockingIOError:  # the queue is full
                            time.sleep(0.01)
                    with contextlib.suppress(BrokenPipeError):  # already closed
                        intruder.sendall([b"", b"GET", bytes(16) + (2).to_bytes(4, "big"), os.urandom(5000)][i % 4])
                    intruders.append(intruder)
            return offers

        memory = open_memory(rank, 3, exchange_and_intrude)
        try:
            return memory.gather(torch.full((1, 1), float(rank)))[:, 0].tolist()
        finally:
            memory.close()

    try:
        assert in_ranks(3, work) == [[0.0, 1.0, 2.0]] * 3
        assert len(intruders) == 900
        assert all(received(intruder) == (b"", []) for intruder in intruders)
    finally:
        for intruder in intruders:
            intruder.close()


def test_a_process_of_another_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if it knows the secret."""
    with contextlib.closing(local_sockets.Listener()) as listener:
        monkeypatch.setattr(os, "geteuid", lambda: 1 + os.getuid())
        with pytest.raises(PermissionError, match="another user"):
            local_sockets.connect(listener.name, listener.secret, 1, time.monotonic() + 5)
        with socket.socket(socket.AF_UNIX) as intruder:
            intruder.connect(listener.name)
            with contextlib.suppress(BrokenPipeError):
                intruder.sendall(listener.secret + (1).to_bytes(4, "big"))
            assert received(intruder) == (b"", [])
        with pytest.raises(TimeoutError, match="rank 1 did not connect in time"):
            listener.wait_for({1}, time.monotonic() + 0.2)
