"""Authenticated Unix sockets between the ranks of one machine."""

from __future__ import annotations

import hmac
import os
import secrets
import selectors
import socket
import struct
import threading
import time
import uuid
from typing import cast

_SECRET_BYTES = 16
_GREETING_BYTES = _SECRET_BYTES + 4  # the listener's secret, the rank that connects
_GREETING_SECONDS = 5.0  # for a connection to send its greeting
_MAX_PENDING = 64  # connections without a greeting; beyond, the oldest is closed
_POLL_SECONDS = 0.05


class Listener:
    """Accepts the connections of higher ranks in a thread, so that other connections never fill the queue.

    Any process of the machine can connect to the socket, whose name is public. A connection is accepted as a rank's if
    it comes from the same user and starts with the secret, which only the process group transmits. Others are closed.
    """

    def __init__(self) -> None:
        self.name = f"\0gan_dist-{uuid.uuid4()}"  # abstract: it vanishes with the process
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
        """Returns the connections of ranks, which the caller then has to close.

        Args:
            ranks: the ranks to wait for.
            deadline: on time.monotonic.

        Raises:
            TimeoutError: one of them did not connect before the deadline.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: ranks <= self._ranks.keys(), deadline - time.monotonic()):
                late = ", ".join(map(str, sorted(ranks - self._ranks.keys())))
                raise TimeoutError(f"rank {late} did not connect in time")
            return {rank: self._ranks.pop(rank) for rank in ranks}

    def close(self) -> None:
        """Stop listening, and close all connections that `wait_for` has not returned."""
        self._closed = True
        self._thread.join()
        self._socket.close()
        close_all(self._ranks)

    def _accept_all(self) -> None:
        pending: dict[socket.socket, float] = {}  # -> when it is closed
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            while not self._closed:
                for key, _ in selector.select(_POLL_SECONDS):
                    if key.fileobj is not self._socket:
                        peer = cast(socket.socket, key.fileobj)
                        selector.unregister(peer)
                        del pending[peer]
                        self._read_greeting(peer)
                    elif new := self._accept():
                        pending[new] = time.monotonic() + _GREETING_SECONDS
                        selector.register(new, selectors.EVENT_READ)
                for peer in list(pending):
                    if len(pending) > _MAX_PENDING or pending[peer] < time.monotonic():
                        selector.unregister(peer)
                        del pending[peer]
                        peer.close()
            for peer in pending:
                peer.close()

    def _accept(self) -> socket.socket | None:
        try:
            peer, _ = self._socket.accept()
        except OSError:  # the client has left, or this process has no free descriptor
            time.sleep(_POLL_SECONDS)
            return None
        if not _has_own_user(peer):
            peer.close()
            return None
        peer.setblocking(False)
        return peer

    def _read_greeting(self, peer: socket.socket) -> None:
        """Keep the connection if its greeting is a rank's. A message this small arrives in one piece."""
        try:
            greeting = peer.recv(_GREETING_BYTES)
        except OSError:
            greeting = b""
        rank = int.from_bytes(greeting[_SECRET_BYTES:], "big")
        with self._changed:
            if (
                len(greeting) == _GREETING_BYTES
                and hmac.compare_digest(greeting[:_SECRET_BYTES], self.secret)
                and rank not in self._ranks
            ):
                self._ranks[rank] = peer
                self._changed.notify_all()
            else:
                peer.close()


def connect(name: str, secret: bytes, rank: int, deadline: float) -> socket.socket:
    """Connect this rank to another one's listener.

    Args:
        name, secret: of the listener.
        rank: this one.
        deadline: on time.monotonic.

    Raises:
        OSError: the listener is on another machine or of another user, or its queue is full until the deadline.
    """
    peer = socket.socket(socket.AF_UNIX)
    try:
        peer.settimeout(max(_POLL_SECONDS, deadline - time.monotonic()))
        while True:
            try:
                peer.connect(name)
                break
            except BlockingIOError:  # the queue is full of other connections
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_SECONDS)
        if not _has_own_user(peer):
            raise PermissionError("another rank runs as another user")
        peer.sendall(secret + rank.to_bytes(4, "big"))
    except ConnectionRefusedError as error:
        peer.close()
        raise OSError("another rank can't be reached, as on another host") from error
    except BaseException:
        peer.close()
        raise
    return peer


def close_all(peers: dict[int, socket.socket]) -> None:
    """Close the connections of ranks."""
    for peer in peers.values():
        peer.close()


def _has_own_user(peer: socket.socket) -> bool:
    """Returns whether the process at the other end has the user of this one."""
    _, user, _ = struct.unpack("iII", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII")))
    return bool(user == os.geteuid())
