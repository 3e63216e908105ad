"""Which of the other processes are lost: a roll call, after a collective failed."""

from __future__ import annotations

import datetime
import os
import threading
import time
from dataclasses import dataclass

import torch.distributed as dist

ROLL_CALL = 2.0  # seconds that a living process has to answer
_FOREVER = datetime.timedelta(days=10_000)


@dataclass(frozen=True)
class Blame:
    """What became of a collective that failed."""

    what: str
    spoken_by: int
    """The lowest rank that is still there to say it."""


class Peers:
    """The other ranks of this run.

    When a process dies or hangs, the others see a broken or a silent connection, often that of a neighbour who is as
    innocent as they are. So they call the roll: in each process a thread waits for its name and answers, through the
    store where the ranks met. It costs nothing until then. Who is stopped, dead or cut off does not answer.

    Args:
        rank, ranks: this one, of how many.
    """

    def __init__(self, rank: int, ranks: int) -> None:
        self.rank = rank
        self.ranks = ranks
        self._thread: threading.Thread | None = None
        if ranks > 1:
            self._silent = False
            self._own = self._store(_FOREVER)  # when this process ends the store may be gone
            self._thread = threading.Thread(target=self._answer, args=(self._store(_FOREVER),), daemon=True)
            self._thread.start()

    def missing(self) -> list[int]:
        """Call the roll. Needs no other process to do anything, and takes `ROLL_CALL` seconds if one is missing.

        Returns:
            Ranks that do not answer, in order. Only rank 0, if the store went with it.
        """
        others = [rank for rank in range(self.ranks) if rank != self.rank]
        try:
            store = self._store(datetime.timedelta(seconds=ROLL_CALL))
            for rank in others:
                store.set(f"call/{rank}", "")
            give_up = time.monotonic() + ROLL_CALL
            while missing := [rank for rank in others if not store.check([f"here/{rank}"])]:
                if time.monotonic() > give_up:
                    break
                time.sleep(0.05)
            return missing
        except (dist.DistError, RuntimeError):
            return [0] if others else []

    def blame(self, error: BaseException) -> Blame | None:
        """Find out who is lost, if an error came from a collective: a connection broke, or nothing came in time."""
        # gloo raises a bare RuntimeError whose message starts with the place in its own source.
        if not (isinstance(error, dist.DistError) or (type(error) is RuntimeError and "gloo" in str(error))):
            return None
        lost = self.missing()
        here = min(set(range(self.ranks)) - set(lost))
        if not lost:
            return Blame("failed: the processes are all there, and waited for each other too long", here)
        ranks = f"rank{'s' if len(lost) > 1 else ''} {', '.join(map(str, lost))}"
        return Blame(f"lost {ranks} (dead, hung or cut off)", here)

    def close(self) -> None:
        """Answer no more: this process is ending, for whatever reason."""
        if self._thread is not None:
            self._silent = True
            try:
                self._own.set(f"call/{self.rank}", "")
                self._thread.join(ROLL_CALL)
            except (dist.DistError, RuntimeError):  # the store is gone, and the thread has noticed
                pass
            self._thread = None

    def _answer(self, store: dist.Store) -> None:
        try:
            store.wait([f"call/{self.rank}"], _FOREVER)
            if not self._silent:
                store.set(f"here/{self.rank}", "")
        except (dist.DistError, RuntimeError):  # the store is gone
            pass

    def _store(self, timeout: datetime.timedelta) -> dist.Store:
        """The store of the launcher, or of rank 0; keys of this attempt."""
        store = dist.TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=timeout,
        )
        return dist.PrefixStore(f"peers-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
