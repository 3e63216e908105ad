"""Exchanges vectors between processes of one machine through shared memory."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from gan_dist.distributed.local_sockets import Listener, close_all, connect

Exchange = Callable[[Any], list[Any]]
"""Object of this rank -> objects of all ranks, in order; a collective."""


class SharedMemory:
    """Memory in which the ranks of one machine read each other's vectors.

    gloo sends gradients through sockets, which costs several times as much as adding them. Here each rank copies its
    vector to where the others can read it, and sends them a byte through a socket: a system call orders memory accesses
    on every processor, and a dead rank's sockets are closed.

    Create it with `open`.
    """

    def __init__(self, rank: int, peers: dict[int, socket.socket], slots: Float[Tensor, "2 all"]) -> None:
        self.group = sorted([rank, *peers])
        """The ranks, in order."""
        self._place = self.group.index(rank)
        self._peers = peers
        self._slots = slots
        self._calls = 0

    @staticmethod
    def open(
        rank: int,
        group: Sequence[int],
        numbers: int,
        exchange: Exchange,
        timeout: float,
        announce: Callable[[str], None],
    ) -> SharedMemory | None:
        """Connect ranks and map all of their memory, so that later only a lost rank is an error.

        A collective of all ranks of the run: each group gets its own memory, or none gets any.

        Args:
            rank: this one.
            group: the ranks of this machine, in order.
            numbers: maximum number of elements that a rank passes to `gather` or `reduce`.
            exchange: transmits what the ranks need to connect.
            timeout: seconds to wait for another rank.
            announce: called with one line if shared memory is unavailable.

        Returns:
            None on every rank of the run if one of them cannot create, map or reach what it needs: for instance because
            those of a group are on several hosts, not on Linux, or the memory is full.

        Raises:
            Whatever `exchange` raises if a rank is lost.
        """
        size, first = 2 * len(group) * numbers * torch.float32.itemsize, group[0]
        peers: dict[int, socket.socket] = {}
        with contextlib.ExitStack() as to_close, contextlib.ExitStack() as on_failure:
            on_failure.callback(close_all, peers)

            def prepare() -> tuple[Listener, int | None]:
                if not hasattr(os, "memfd_create"):
                    raise OSError("it needs Linux")
                listener = to_close.enter_context(contextlib.closing(Listener()))
                file = _create_memory(size) if rank == first else None
                if file is not None:
                    to_close.callback(os.close, file)
                return listener, file

            try:
                (listener, file), offers = _on_all(prepare, lambda made: (made[0].name, made[0].secret), exchange)
                deadline = time.monotonic() + timeout / 2  # so that a failure reaches `exchange` within its timeout

                def connect_lower() -> None:
                    for lower in [other for other in group if other < rank]:
                        peers[lower] = connect(*cast(tuple[str, bytes], offers[lower]), rank, deadline)

                def share() -> mmap.mmap:
                    peers.update(listener.wait_for({other for other in group if other > rank}, deadline))
                    for peer in peers.values():
                        peer.settimeout(timeout / 2)
                    if file is None:
                        return _receive_memory(peers[first], size)
                    for peer in peers.values():
                        socket.send_fds(peer, [b"."], [file])
                    return _map(file, size)

                _on_all(connect_lower, lambda _: None, exchange)
                memory, _ = _on_all(share, lambda _: None, exchange)
            except _Unavailable as error:
                announce(f"shared memory is unavailable ({error}); the gradients are added through gloo")
                return None
            on_failure.pop_all()
        for peer in peers.values():
            peer.settimeout(timeout)
        return SharedMemory(rank, peers, torch.frombuffer(memory, dtype=torch.float32).view(2, -1))

    def gather(self, rows: Float[Tensor, "k n"]) -> Float[Tensor, "ranks_k n"]:
        """Returns the rows of all ranks in order, valid until the next call. A collective.

        Args:
            rows: of the same shape on every rank, with at most as many elements as `open` was given.

        Raises:
            dist.DistNetworkError: a rank has ended, or did not call it in time.
        """
        all_rows = self._write(rows)
        with _named_errors():
            for peer in self._peers.values():
                peer.sendall(_DONE)
            for peer in self._peers.values():
                _receive_done(peer)
        return all_rows

    def reduce(
        self, rows: Float[Tensor, "k n"], combine: Callable[[Float[Tensor, "ranks_k n"]], None]
    ) -> Float[Tensor, " n"]:
        """Let the first rank combine the rows of all ranks. A collective.

        Args:
            rows: as in `gather`.
            combine: called on the first rank with the rows of all ranks in order; writes the result to the first row.
                It may wait for other machines.

        Returns:
            The result, identical on every rank, valid until the next call.

        Raises:
            dist.DistNetworkError: as in `gather`; on the other ranks also if `combine` failed.
        """
        all_rows = self._write(rows)
        if self._place > 0:
            first = self._peers[self.group[0]]
            with _named_errors():
                first.sendall(_DONE)
                _receive_done(first)
            return all_rows[0]
        answer = _FAILED  # so that the others look for lost ranks now, as this one does, not when this one has ended
        try:
            with _named_errors():
                for peer in self._peers.values():
                    _receive_done(peer)
            combine(all_rows)
            answer = _DONE
        finally:
            with contextlib.suppress(OSError) if answer == _FAILED else _named_errors():
                for peer in self._peers.values():
                    peer.sendall(answer)
        return all_rows[0]

    def close(self) -> None:
        """Close the connections. A rank that still calls `gather` or `reduce` gets an error."""
        close_all(self._peers)

    def _write(self, rows: Float[Tensor, "k n"]) -> Float[Tensor, "ranks_k n"]:
        """Copy this rank's rows to where the others read them, and return the rows of all, most of them unwritten."""
        # Two slots in turn: a rank that is already in the next call does not write where others still read.
        self._calls += 1
        ranks = len(self.group)
        all_rows = self._slots[self._calls % 2, : ranks * rows.numel()].view(ranks, *rows.shape)
        all_rows[self._place].copy_(rows)
        return all_rows.flatten(0, 1)


_DONE, _FAILED = b".", b"!"


def _receive_done(peer: socket.socket) -> None:
    """Wait for the byte of another rank.

    Raises:
        OSError: it does not come in time, or the connection is closed.
        dist.DistNetworkError: the other rank has lost one.
    """
    received = peer.recv(1)
    if received == _FAILED:
        raise dist.DistNetworkError("shared memory: the rank that reaches the other hosts has failed")
    if received != _DONE:
        raise ConnectionError


@contextlib.contextmanager
def _named_errors() -> Iterator[None]:
    """Raise the errors of sockets as those of a collective."""
    try:
        yield
    except TimeoutError as error:
        raise dist.DistNetworkError("shared memory: a process did not answer in time") from error
    except OSError as error:
        raise dist.DistNetworkError("shared memory: a process has closed its connection") from error


class _Unavailable(Exception):
    """A rank failed in a step. The same on every rank; the message names the rank and the reason."""


def _on_all(step: Callable[[], Any], offer: Callable[[Any], Any], exchange: Exchange) -> tuple[Any, list[Any]]:
    """Call a step on every rank, and check that it succeeded on all of them. A collective.

    Args:
        step: of this rank.
        offer: its result -> what the other ranks receive.
        exchange: of the ranks.

    Returns:
        The result of this rank, and the offers of all ranks.

    Raises:
        _Unavailable: on every rank, if the step failed on one.
    """
    result, offered, problem = None, None, None
    try:
        result = step()
        offered = offer(result)
    except (OSError, ValueError, OverflowError) as error:
        problem = (isinstance(error, OSError) and error.strerror) or str(error)
    received = exchange((offered, problem))
    for rank, (_, reason) in enumerate(received):
        if reason is not None:
            raise _Unavailable(f"rank {rank}: {reason}")
    return result, [other for other, _ in received]


def _create_memory(size: int) -> int:
    """Create a file in memory with all its pages, of a fixed size: no access can fail, whatever another process does.

    Raises:
        OSError: it is unsupported, or there is too little memory.
    """
    file = os.memfd_create("gan_dist", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(file, size)
        os.posix_fallocate(file, 0, size)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(file)
        raise
    return file


def _map(file: int, size: int) -> mmap.mmap:
    return mmap.mmap(file, size)


def _receive_memory(peer: socket.socket, size: int) -> mmap.mmap:
    """Map the file that the first rank of the group sends.

    Raises:
        OSError, ValueError: it was not received, or cannot be mapped.
    """
    _, files, _, _ = socket.recv_fds(peer, 1, 1, socket.MSG_CMSG_CLOEXEC)
    if not files:
        raise OSError("no memory was received: its sender failed, or this process has no free descriptor")
    try:
        return _map(files[0], size)
    finally:
        os.close(files[0])
