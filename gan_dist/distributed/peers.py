"""Which of the other processes are lost: a roll call, after a collective failed."""

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
ROLL_CALL = 2.0  # seconds that a roll call takes at most; a living process has answered by then
_FOREVER = datetime.timedelta(days=10_000)


@dataclass(frozen=True)
class LostRanks:
    """What became of a collective that failed."""

    message: str
    reported_by: int
    """The lowest rank that is still there to say it."""


class Peers:
    """The other ranks of this run.

    When a process dies or hangs, the others see a broken or a silent connection, often that of a neighbour who is as
    innocent as they are. So they call the roll: in each process a thread waits for its name and answers, through the
    store where the ranks met. It costs nothing until then. Who is stopped, dead or cut off does not answer.

    Args:
        rank, ranks: this one, of how many.
        patience: seconds that a rank waits for another one at most, before a roll call.

    Making one is a collective: every rank must reach it.

    Raises:
        TrainingFailed: another rank is lost already, or the store.
    """

    current: ClassVar[Peers | None] = None
    """Those of this process, as long as they are open, if there are several ranks."""

    def __init__(self, rank: int, ranks: int, timeout: float) -> None:
        self.rank = rank
        self.ranks = ranks
        self._timeout = timeout
        self._thread: threading.Thread | None = None
        self._works_of_main = 0
        self._waits = False
        if ranks > 1:
            self._silent = False
            # Keys of this attempt: launchers count their restarts each for itself, and the store outlives them.
            token = [uuid.uuid4().hex]
            try:
                broadcast_object_list(token)
            except (dist.DistError, RuntimeError) as error:
                who = _lost([1 - rank]) if ranks == 2 else "lost a process (dead, hung or cut off)"
                raise TrainingFailed(
                    f"{who} before the first step; start the same command again", reported_by=rank
                ) from error
            self._prefix = f"peers-{token[0]}"
            stores = _in_time(lambda: (self._store(timeout / 4), self._store(timeout / 4)), timeout)
            if stores is None:
                raise TrainingFailed(f"{_lost([0])} before the first step; start the same command again", reported_by=1)
            self._own, answers = stores
            self._thread = threading.Thread(target=self._answer, args=(answers,), daemon=True)
            self._thread.start()
            Peers.current = self

    def missing(self, among: Sequence[int] | None = None) -> list[int]:
        """Call the roll. Needs no other process to do anything, and takes `ROLL_CALL` seconds if one is missing.

        Args:
            among: whom to call; None: all others.

        Returns:
            Ranks that do not answer, in order. Only rank 0, if the store went with it.
        """
        others = [rank for rank in range(self.ranks) if rank != self.rank] if among is None else among
        if not others:
            return []
        missing = _in_time(lambda: self._call(others, time.monotonic() + ROLL_CALL - 0.2), ROLL_CALL)
        return [0] if missing is None else missing

    def announce_done(self) -> None:
        """Tell the others, who are in `wait_for_main`, that what rank 0 did alone is done."""
        self._works_of_main += 1
        with contextlib.suppress(dist.DistError, RuntimeError):  # the store is gone, and they have noticed
            self._own.set(f"done/{self._works_of_main}", "")

    def wait_for_main(self) -> None:
        """Wait until rank 0 calls `announce_done`: however long that takes, as long as it answers a roll call.

        Also comes back where the store is gone, as it is when the launcher that had it was killed: then the ranks may
        be there all the same, and the collective that follows finds out.

        Raises:
            dist.DistNetworkError: rank 0 is lost; within `timeout` and what `find_lost` takes.
        """
        self._works_of_main += 1
        done = threading.Event()

        def wait(key: str) -> None:
            with contextlib.suppress(dist.DistError, RuntimeError):
                self._own.wait([key], _FOREVER)
            done.set()

        # In a thread, for the same reason as in `_in_time`; and here Python runs its signal handlers.
        self._waits = True
        threading.Thread(target=wait, args=(f"done/{self._works_of_main}",), daemon=True).start()
        while not done.wait(max(1.0, self._timeout - ROLL_CALL)):
            if self.missing([0]):
                raise dist.DistNetworkError("rank 0 was lost while the others waited for what it does alone")
        self._waits = False

    def find_lost(self, error: BaseException) -> LostRanks | None:
        """Find out who is lost, if an error came from a collective: a connection broke, or nothing came in time."""
        # gloo raises a bare RuntimeError whose message starts with the place in its own source.
        if not (isinstance(error, dist.DistError) or (type(error) is RuntimeError and "gloo" in str(error))):
            return None
        lost = self.missing()
        here = min(set(range(self.ranks)) - set(lost))
        if not lost:
            return LostRanks("failed: the processes are all there, and waited for each other too long", here)
        return LostRanks(_lost(lost), here)

    def close(self) -> None:
        """Answer no more: this process is ending, for whatever reason."""
        if self._thread is not None:
            Peers.current = None
            self._silent = True
            if not self._waits:  # else the connection is taken, and rank 0 lost
                with contextlib.suppress(dist.DistError, RuntimeError):  # the store is gone
                    self._own.set(f"call/{self.rank}", "")
            # Also where the store is gone, which the thread is about to notice: see `_in_time` for why it has to end.
            self._thread.join(ROLL_CALL)
            self._thread = None

    def _call(self, others: Sequence[int], deadline: float) -> list[int]:
        """The roll call itself; each "here" is newer than its call."""
        store = self._store(ROLL_CALL / 4)
        for rank in others:
            store.delete_key(f"here/{rank}")
            store.set(f"call/{rank}", "")
        while missing := [rank for rank in others if not store.check([f"here/{rank}"])]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        return missing

    def _answer(self, store: dist.Store) -> None:
        with contextlib.suppress(dist.DistError, RuntimeError):  # the store is gone
            while True:
                store.wait([f"call/{self.rank}"], _FOREVER)
                if self._silent:
                    break
                # In this order a call that comes in between is answered, too: its caller has deleted "here" before.
                store.delete_key(f"call/{self.rank}")
                store.set(f"here/{self.rank}", "")

    def _store(self, timeout: float) -> dist.Store:
        """The store of the launcher, or of rank 0.

        Args:
            timeout: seconds of one try to connect; torch tries several times.

        Raises:
            OSError, dist.DistError: it is gone.
        """
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # torch would try for the whole time where nobody listens any more.
        socket.create_connection((host, port), timeout).close()
        store = dist.TCPStore(
            host,
            port,
            is_master=False,
            wait_for_workers=False,
            timeout=datetime.timedelta(seconds=timeout),
        )
        return dist.PrefixStore(self._prefix, store)


def _lost(ranks: Sequence[int]) -> str:
    return f"lost rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))} (dead, hung or cut off)"


def _in_time(work: Callable[[], T], seconds: float) -> T | None:
    """What `work` returns; None if it does not in time, or the store is gone.

    In a thread: where rank 0 has the store and is stopped, the store neither answers nor keeps its own time-outs. In
    all other cases `work` must end by itself in that time: a thread that comes back from torch while the interpreter
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
