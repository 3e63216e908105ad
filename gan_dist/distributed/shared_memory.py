"""Processes of one machine hand each other vectors through memory that they share."""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import mmap
import os
import secrets
import selectors
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

Exchange = Callable[[Any], list[Any]]
"""An object of this rank -> those of all, in the order of the ranks; a collective."""

_SECRET_BYTES = 16
_HELLO_BYTES = _SECRET_BYTES + 4  # the listener's secret, the rank that connects
_HELLO_SECONDS = 5.0  # for a connection to prove that it is a rank's
_MOST_UNPROVEN = 64  # connections at a time; beyond, the oldest is closed
_POLL_SECONDS = 0.05


class SharedMemory:
    """The ranks of a run, all of them on one machine, where they meet to see each other's vectors.

    gloo sends a network's gradients through sockets, which costs several times what adding them does. Here each rank
    copies its vector to where the others can read it, and a byte through a socket tells them that it is there: a system
    call orders memory on every processor, and a rank that dies closes its sockets. The byte also carries a wish.

    Use `open`.
    """

    wish = False
    """What this rank wishes at the next meeting."""
    stop_requested_anywhere = False
    """Whether any rank wished at the last one; the same on every rank."""

    def __init__(self, rank: int, peers: dict[int, socket.socket], slots: Float[Tensor, "2 all"]) -> None:
        self.rank = rank
        self.ranks = len(peers) + 1
        self._peers = peers
        self._slots = slots
        self._calls = 0

    @staticmethod
    def open(
        rank: int, ranks: int, numbers: int, exchange: Exchange, timeout: float, announce: Callable[[str], None]
    ) -> SharedMemory | None:
        """Connect the ranks and map their memory, all of it: nothing can fail later but a rank. A collective.

        Args:
            rank, ranks: this one, of how many.
            numbers: most that a rank brings to a `gather`.
            exchange: how the ranks tell each other what they need for it.
            patience: seconds to wait for another rank.
            announce: called with one line if there is no shared memory.

        Returns:
            None on every rank, if one of them can't create, map or reach what it needs: they are on several hosts, for
            instance, not on Linux, or the memory is full.

        Raises:
            Whatever `exchange` raises when a rank is lost.
        """
        size = 2 * ranks * numbers * torch.float32.itemsize
        peers: dict[int, socket.socket] = {}
        with contextlib.ExitStack() as to_close, contextlib.ExitStack() as on_failure:
            on_failure.callback(_close_all, peers)

            def prepare() -> tuple[_Listener, int | None]:
                if not hasattr(os, "memfd_create"):
                    raise OSError("it needs Linux")
                listener = to_close.enter_context(contextlib.closing(_Listener()))
                if rank > 0:
                    return listener, None
                file = _create_memory(size)
                to_close.callback(os.close, file)
                return listener, file

            try:
                (listener, file), offers = _agree(prepare, lambda made: (made[0].name, made[0].secret), exchange)
                deadline = time.monotonic() + timeout / 2  # a failure is to reach `exchange` before its time is up

                def connect() -> None:
                    for lower in range(rank):
                        peers[lower] = _connect(*cast(tuple[str, bytes], offers[lower]), rank, deadline)

                def share() -> mmap.mmap:
                    peers.update(listener.wait_for(set(range(rank + 1, ranks)), deadline))
                    for peer in peers.values():
                        peer.settimeout(timeout / 2)
                    if file is None:
                        return _receive_memory(peers[0], size)
                    for peer in peers.values():
                        socket.send_fds(peer, [b"."], [file])
                    return _map(file, size)

                _agree(connect, lambda _: None, exchange)
                memory, _ = _agree(share, lambda _: None, exchange)
            except _Unavailable as error:
                announce(f"shared memory is unavailable ({error}); the gradients are added through gloo")
                return None
            on_failure.pop_all()
        for peer in peers.values():
            peer.settimeout(timeout)
        return SharedMemory(rank, peers, torch.frombuffer(memory, dtype=torch.float32).view(2, -1))

    def gather(self, rows: Float[Tensor, "k n"]) -> Float[Tensor, "ranks_k n"]:
        """Everybody's rows, in the order of the ranks; valid until the next call. A collective.

        Args:
            rows: of the same shape on every rank, with no more numbers than `open` was told.

        Raises:
            dist.DistNetworkError: a rank is gone, or did not come in time.
        """
        # Two places that take turns: who is already at the next call does not write where others still read.
        self._calls += 1
        everyone = self._slots[self._calls % 2, : self.ranks * rows.numel()].view(self.ranks, *rows.shape)
        everyone[self.rank].copy_(rows)
        self._meet()
        return everyone.flatten(0, 1)

    def close(self) -> None:
        """Leave. A rank that still comes to a meeting is told."""
        _close_all(self._peers)

    def _meet(self) -> None:
        """Wait until every rank is here."""
        mine = b"\1" if self.wish else b"\0"
        try:
            for peer in self._peers.values():
                peer.sendall(mine)
            words = [mine, *(peer.recv(1) for peer in self._peers.values())]
        except TimeoutError as error:
            raise dist.DistNetworkError("shared memory: a process did not come in time") from error
        except OSError as error:
            raise dist.DistNetworkError("shared memory: a process has closed its connection") from error
        if b"" in words:
            raise dist.DistNetworkError("shared memory: a process has closed its connection")
        self.stop_requested_anywhere = b"\1" in words


class _Unavailable(Exception):
    """A rank could not do its part; every rank has this error. The message says which one, and why."""


def _agree(step: Callable[[], Any], offer: Callable[[Any], Any], exchange: Exchange) -> tuple[Any, list[Any]]:
    """Take a step on every rank, and go on only if every rank could. A collective.

    Args:
        step: what this rank does.
        offer: the result -> what the other ranks get to know of it.
        exchange: of the ranks.

    Returns:
        The result here, and the offers of all ranks.

    Raises:
        _Unavailable: on every rank, if the step failed on one.
    """
    mine, offered, problem = None, None, None
    try:
        mine = step()
        offered = offer(mine)
    except (OSError, ValueError, OverflowError) as error:
        problem = (isinstance(error, OSError) and error.strerror) or str(error)
    everyones = exchange((offered, problem))
    for rank, (_, said) in enumerate(everyones):
        if said is not None:
            raise _Unavailable(f"rank {rank}: {said}")
    return mine, [theirs for theirs, _ in everyones]


class _Listener:
    """Where higher ranks connect. A thread accepts, so that connections of strangers never fill the queue.

    Any process of the machine can connect to the socket, whose name is public. A connection is a rank's if it comes
    from the same user and begins with the secret, which travels through the process group only; others are closed.
    """

    def __init__(self) -> None:
        self.name = f"\0gan_dist-{uuid.uuid4()}"  # without a file: it vanishes with the process
        self.secret = secrets.token_bytes(_SECRET_BYTES)
        self._ranks: dict[int, socket.socket] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.bind(self.name)
            self._socket.listen(socket.SOMAXCONN)
            self._socket.setblocking(False)
            self._thread = threading.Thread(target=self._accept_all, daemon=True)
            self._thread.start()
        except BaseException:
            self._socket.close()
            raise

    def wait_for(self, ranks: set[int], deadline: float) -> dict[int, socket.socket]:
        """The connections of ranks, which the caller closes from then on.

        Args:
            ranks: whose.
            deadline: of time.monotonic().

        Raises:
            TimeoutError: one of them did not come before the deadline.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: ranks <= self._ranks.keys(), deadline - time.monotonic()):
                late = ", ".join(map(str, sorted(ranks - self._ranks.keys())))
                raise TimeoutError(f"rank {late} did not connect in time")
            return {rank: self._ranks.pop(rank) for rank in ranks}

    def close(self) -> None:
        """Listen no more, and close every connection that nobody took."""
        self._closed = True
        self._thread.join()
        self._socket.close()
        _close_all(self._ranks)

    def _accept_all(self) -> None:
        unproven: dict[socket.socket, float] = {}  # -> when it is closed
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            while not self._closed:
                for key, _ in selector.select(_POLL_SECONDS):
                    if key.fileobj is not self._socket:
                        peer = cast(socket.socket, key.fileobj)
                        selector.unregister(peer)
                        del unproven[peer]
                        self._hear(peer)
                    elif new := self._accept():
                        unproven[new] = time.monotonic() + _HELLO_SECONDS
                        selector.register(new, selectors.EVENT_READ)
                for peer in list(unproven):
                    if len(unproven) > _MOST_UNPROVEN or unproven[peer] < time.monotonic():
                        selector.unregister(peer)
                        del unproven[peer]
                        peer.close()
            for peer in unproven:
                peer.close()

    def _accept(self) -> socket.socket | None:
        try:
            peer, _ = self._socket.accept()
        except OSError:  # it is gone again, or this process has no descriptor left for it
            time.sleep(_POLL_SECONDS)
            return None
        if not _is_ours(peer):
            peer.close()
            return None
        peer.setblocking(False)
        return peer

    def _hear(self, peer: socket.socket) -> None:
        """Keep the connection if it says what a rank says; one small message comes in one piece."""
        try:
            hello = peer.recv(_HELLO_BYTES)
        except OSError:
            hello = b""
        rank = int.from_bytes(hello[_SECRET_BYTES:], "big")
        with self._changed:
            if (
                len(hello) == _HELLO_BYTES
                and hmac.compare_digest(hello[:_SECRET_BYTES], self.secret)
                and rank not in self._ranks
            ):
                self._ranks[rank] = peer
                self._changed.notify_all()
            else:
                peer.close()


def _close_all(peers: dict[int, socket.socket]) -> None:
    for peer in peers.values():
        peer.close()


def _connect(name: str, secret: bytes, rank: int, deadline: float) -> socket.socket:
    """Connect this rank to another one's listener.

    Raises:
        OSError: it is not on this machine, belongs to another user, or its queue is full until the deadline.
    """
    peer = socket.socket(socket.AF_UNIX)
    try:
        peer.settimeout(max(_POLL_SECONDS, deadline - time.monotonic()))
        while True:
            try:
                peer.connect(name)
                break
            except BlockingIOError:  # the queue is full, of strangers
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_SECONDS)
        if not _is_ours(peer):
            raise PermissionError("another rank runs as another user")
        peer.sendall(secret + rank.to_bytes(4, "big"))
    except ConnectionRefusedError as error:
        peer.close()
        raise OSError("another rank can't be reached, as on another host") from error
    except BaseException:
        peer.close()
        raise
    return peer


def _is_ours(peer: socket.socket) -> bool:
    """Whether the process at the other end has this one's user."""
    _, user, _ = struct.unpack("iII", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII")))
    return bool(user == os.geteuid())


def _create_memory(size: int) -> int:
    """A file in memory that has all its pages and keeps them: an access can't fail, whatever another process does.

    Raises:
        OSError: it can't be had, or there is too little memory.
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
    """Map the file that rank 0 sends.

    Raises:
        OSError, ValueError: it does not come, or can't be mapped.
    """
    _, files, _, _ = socket.recv_fds(peer, 1, 1, socket.MSG_CMSG_CLOEXEC)
    if not files:
        raise OSError("rank 0 sent no memory, or this process has no descriptor left for it")
    try:
        return _map(files[0], size)
    finally:
        os.close(files[0])
