"""Finds out which ranks are lost after a collective failed."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch.distributed as dist
from accelerate.utils import broadcast_object_list

from gan_dist.config import TrainingFailed

T = TypeVar("T")
PING_SECONDS = 2.0  # maximum duration of a ping; a living process answers within it
_FOREVER = datetime.timedelta(days=10_000)


@dataclass(frozen=True)
class LostRanks:
    """Why a collective failed."""

    message: str
    reported_by: int
    """The lowest living rank."""


class Peers:
    """The other ranks of this run.

    When a process dies or hangs, the others see a broken or silent connection, often that of a neighbour which only
    waits as they do. So they ping all ranks through the store where the ranks met: in each process, a thread waits for
    a ping and answers it. It costs nothing until then. A suspended, dead or disconnected process does not answer.

    torch.distributed.monitored_barrier cannot replace this: it names hung ranks only, not dead ones, and only on
    rank 0. It also fails while rank 0 works alone.

    The constructor is a collective: every rank must call it.

    Args:
        rank, ranks: this rank and the world size.
        timeout: seconds to wait for another rank before a ping.

    Raises:
        TrainingFailed: another rank or the store is already lost.
    """

    current: ClassVar[Peers | None] = None
    """Those of this process while they are open, if there are several ranks."""

    def __init__(self, rank: int, ranks: int, timeout: float) -> None:
        self.rank = rank
        self.ranks = ranks
        self._timeout = timeout
        self._thread: threading.Thread | None = None
        self._main_calls = 0
        self._waits = False
        if ranks > 1:
            self._closing = False
            # Keys of this attempt: launchers count restarts separately, and the store outlives them.
            token = [uuid.uuid4().hex]
            try:
                broadcast_object_list(token)
            except (dist.DistError, RuntimeError) as error:
                raise lost_at_start([1 - rank] if ranks == 2 else [], reported_by=rank) from error
            self._prefix = f"peers-{token[0]}"
            stores = _in_time(lambda: (self._store(timeout / 4), self._store(timeout / 4)), timeout)
            if stores is None:
                raise lost_at_start([0], reported_by=1)
            self._own, answers = stores
            self._thread = threading.Thread(target=self._answer, args=(answers,), daemon=True)
            self._thread.start()
            Peers.current = self

    def unresponsive_ranks(self, among: Sequence[int] | None = None) -> list[int]:
        """Ping ranks. Not a collective. Takes `PING_SECONDS` if one does not answer.

        Args:
            among: the ranks to ping; None: all others.

        Returns:
            The ranks that do not answer, in order; only rank 0 if the store was lost with it.
        """
        others = [rank for rank in range(self.ranks) if rank != self.rank] if among is None else among
        if not others:
            return []
        unresponsive = _in_time(lambda: self._ping(others, time.monotonic() + PING_SECONDS - 0.2), PING_SECONDS)
        return [0] if unresponsive is None else unresponsive

    def announce_done(self) -> None:
        """End `wait_for_main` on the other ranks: rank 0 has finished what it does alone."""
        self._main_calls += 1
        with contextlib.suppress(dist.DistError, RuntimeError):  # the store is lost, which the others have noticed
            self._own.set(f"done/{self._main_calls}", "")

    def wait_for_main(self) -> None:
        """Wait until rank 0 calls `announce_done`, however long that takes, while it answers pings.

        Also returns if the store is lost, as it is after the launcher that holds it was killed: the ranks may still be
        alive, and the next collective finds out.

        Raises:
            dist.DistNetworkError: rank 0 is lost; within `timeout` and the duration of `find_lost`.
        """
        self._main_calls += 1
        done = threading.Event()

        def wait(key: str) -> None:
            with contextlib.suppress(dist.DistError, RuntimeError):
                self._own.wait([key], _FOREVER)
            done.set()

        # In a thread for the reason given in `_in_time`, and because Python runs its signal handlers here.
        self._waits = True
        threading.Thread(target=wait, args=(f"done/{self._main_calls}",), daemon=True).start()
        while not done.wait(max(1.0, self._timeout - PING_SECONDS)):
            if self.unresponsive_ranks([0]):
                raise dist.DistNetworkError("rank 0 was lost while the others waited for it")
        self._waits = False

    def find_lost(self, error: BaseException) -> LostRanks | None:
        """Returns the lost ranks if an error came from a collective: a connection broke, or a wait timed out."""
        # gloo raises a bare RuntimeError whose message starts with a location in its source code.
        if not (isinstance(error, dist.DistError) or (type(error) is RuntimeError and "gloo" in str(error))):
            return None
        lost = self.unresponsive_ranks()
        lowest = min(set(range(self.ranks)) - set(lost))
        if not lost:
            return LostRanks("failed: all processes are alive, but waited for each other too long", lowest)
        return LostRanks(_describe(lost), lowest)

    def close(self) -> None:
        """Stop answering pings, because this process ends."""
        if self._thread is not None:
            Peers.current = None
            self._closing = True
            if not self._waits:  # otherwise the connection is in use, and rank 0 lost
                with contextlib.suppress(dist.DistError, RuntimeError):  # the store is lost
                    self._own.set(f"ping/{self.rank}", "")
            # Also if the store is lost, which the thread is about to notice. `_in_time` explains why it has to end.
            self._thread.join(PING_SECONDS)
            self._thread = None

    def _ping(self, others: Sequence[int], deadline: float) -> list[int]:
        """Returns the ranks without an answer that is newer than this ping."""
        store = self._store(PING_SECONDS / 4)
        for rank in others:
            store.delete_key(f"alive/{rank}")
            store.set(f"ping/{rank}", "")
        while unresponsive := [rank for rank in others if not store.check([f"alive/{rank}"])]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        return unresponsive

    def _answer(self, store: dist.Store) -> None:
        with contextlib.suppress(dist.DistError, RuntimeError):  # the store is lost
            while True:
                store.wait([f"ping/{self.rank}"], _FOREVER)
                if self._closing:
                    break
                # In this order, a ping in between is answered too: its sender has deleted "alive" before.
                store.delete_key(f"ping/{self.rank}")
                store.set(f"alive/{self.rank}", "")

    def _store(self, timeout: float) -> dist.Store:
        """Connect to the store of the launcher, or of rank 0.

        Args:
            timeout: seconds of one attempt; torch makes several.

        Raises:
            OSError, dist.DistError: the store is lost.
        """
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # torch would try until the timeout if nobody listens any more.
        socket.create_connection((host, port), timeout).close()
        store = dist.TCPStore(
            host,
            port,
            is_master=False,
            wait_for_workers=False,
            timeout=datetime.timedelta(seconds=timeout),
        )
        return dist.PrefixStore(self._prefix, store)


def lost_at_start(ranks: Sequence[int], reported_by: int) -> TrainingFailed:
    """The error of ranks that were lost before there was anything to resume.

    Args:
        ranks: the lost ones; empty: unknown.
        reported_by: the rank that reports it.
    """
    return TrainingFailed(f"{_describe(ranks)} before the first step; start the same command again", reported_by)


def _describe(ranks: Sequence[int]) -> str:
    if not ranks:
        return "lost a process (dead, hung or cut off)"
    return f"lost rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))} (dead, hung or cut off)"


def _in_time(work: Callable[[], T], seconds: float) -> T | None:
    """Returns the result of `work`; None if there is none in time, or the store is lost.

    In a thread: if rank 0 holds the store and is suspended, the store neither answers nor keeps its own timeouts. In
    all other cases `work` must end by itself in that time: a thread that returns from torch while the interpreter
    shuts down aborts the process.
    """
    results: list[T] = []

    def run() -> None:
        with contextlib.suppress(OSError, dist.DistError, RuntimeError):
            results.append(work())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else None
