"""Processes of one machine hand each other vectors through memory that they share."""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


class SharedMemory:
    """The ranks of a run, all of them on one machine, where they meet to see each other's vectors.

    gloo sends a network's gradients through sockets, which costs several times what adding them does. Here each rank
    copies its vector to where the others can read it, and a byte through a socket tells them that it is there: a system
    call orders memory on every processor, and a rank that dies closes its sockets. The byte also carries a wish.

    Use `open`.
    """

    wish = False
    """What this rank wishes at the next meeting."""
    wished = False
    """Whether any rank wished at the last one; the same on every rank."""

    def __init__(self, rank: int, peers: dict[int, socket.socket]) -> None:
        self.rank = rank
        self.ranks = len(peers) + 1
        self._peers = peers
        self._memory: dict[torch.Size, Tensor] = {}
        self._calls = 0

    @staticmethod
    def open(rank: int, ranks: int, exchange: Callable[[Any], list[Any]], patience: float) -> SharedMemory | None:
        """Connect the ranks. A collective: every rank must call it.

        Args:
            rank, ranks: this one, of how many.
            exchange: an object of this rank -> those of all, in the order of the ranks; a collective.
            patience: seconds to wait for another rank.

        Returns:
            None on every rank, if they are not all on one machine with Linux.
        """
        peers: dict[int, socket.socket] = {}
        name, usable = f"\0gan_dist-{uuid.uuid4()}", hasattr(os, "memfd_create")
        with contextlib.ExitStack() as stack:
            listener = None
            if usable:  # a name without a file: it vanishes with the process, and is seen in this network alone
                listener = stack.enter_context(socket.socket(socket.AF_UNIX))
                listener.bind(name)
                listener.listen(ranks)
            names = exchange(name if usable else None)
            try:
                for other in range(rank):
                    peers[other] = socket.socket(socket.AF_UNIX)
                    peers[other].connect(names[other] or "")
                    peers[other].sendall(rank.to_bytes(4, "big"))
            except OSError:
                usable = False
            if not all(exchange(usable)) or listener is None:
                for peer in peers.values():
                    peer.close()
                return None
            for _ in range(rank + 1, ranks):
                peer, _ = listener.accept()
                peers[int.from_bytes(peer.recv(4, socket.MSG_WAITALL), "big")] = peer
        for peer in peers.values():
            peer.settimeout(patience)
        return SharedMemory(rank, peers)

    def gather(self, rows: Float[Tensor, "k n"]) -> Float[Tensor, "ranks_k n"]:
        """Everybody's rows, in the order of the ranks; valid until the next call. A collective.

        Raises:
            dist.DistNetworkError: a rank is gone, or did not come in time.
        """
        # Two places that take turns: who is already at the next call does not write where others still read.
        self._calls += 1
        everyone = self._shared(rows.shape)[self._calls % 2]
        everyone[self.rank].copy_(rows)
        self._meet()
        return everyone.flatten(0, 1)

    def close(self) -> None:
        """Leave. A rank that still comes to a meeting is told."""
        for peer in self._peers.values():
            peer.close()

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
        self.wished = b"\1" in words

    def _shared(self, shape: torch.Size) -> Float[Tensor, "2 ranks k n"]:
        """The memory for rows of one shape, made when it is first asked for; it vanishes with the last process."""
        if shape not in self._memory:
            size = torch.Size((2, self.ranks, *shape))
            if self.rank == 0:
                file = os.memfd_create("gan_dist")
                os.ftruncate(file, 4 * size.numel())
                for peer in self._peers.values():
                    socket.send_fds(peer, [b"."], [file])
            else:
                file = socket.recv_fds(self._peers[0], 1, 1)[1][0]
            path = f"/proc/self/fd/{file}"
            self._memory[shape] = torch.from_file(path, shared=True, size=size.numel(), dtype=torch.float32).view(size)
            os.close(file)
        return self._memory[shape]
