"""Replacements of sys.stdout and sys.stderr that neither raise nor block.

A terminal may be closed or paused with Ctrl-S, the reader of a pipe may end or stop reading, the disk of a log file may
be full or hang. None of this may end or delay a run.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, cast

from gan_dist.distributed.descriptors import occupy_closed_descriptors
from gan_dist.distributed.output_targets import CHUNK, OutputTarget, OutputThread, count_lines

MAX_QUEUED = 10_000  # texts, mostly lines, that wait for a slow reader; further ones are dropped


class OutputStream:
    """A text stream that another thread writes. Other attributes are those of the wrapped stream.

    Args:
        target: the wrapped stream.
        thread: writes the texts.
    """

    def __init__(self, target: OutputTarget, thread: OutputThread) -> None:
        self._target = target
        self._thread = thread
        self._process: int | None = os.getpid()
        self._lock = threading.RLock()  # reentrant: a signal handler may print during a print
        self._line = ""  # not queued yet: lines are written whole
        self._dropped = 0  # lines since the last text that found room in the queue

    def write(self, text: str) -> int:
        """Accept a text. It is written when its line ends or is flushed."""
        if self._process != os.getpid():  # closed, or a forked process, which lacks the thread
            with contextlib.suppress(OSError, ValueError):
                self._target.stream.write(text)
            return len(text)
        with self._lock:
            self._line += text
            if "\r" in text or len(self._line) > CHUNK:
                self._send(len(self._line))
            elif "\n" in text:
                self._send(self._line.rindex("\n") + 1)
        return len(text)

    def writelines(self, texts: Iterable[str]) -> None:
        """Accept texts in order."""
        for text in texts:
            self.write(text)

    def flush(self) -> None:
        """Queue an incomplete line. Does not wait until it is written."""
        if self._process != os.getpid():
            with contextlib.suppress(OSError, ValueError):
                self._target.stream.flush()
            return
        with self._lock:
            if self._line:
                self._send(len(self._line))

    def close_queue(self) -> None:
        """Queue the rest. Later texts go directly to the wrapped stream."""
        with self._lock:
            if self._line or self._dropped:
                self._thread.queue.put((self._target, self._line, self._dropped))
            self._process = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target.stream, name)

    def _send(self, length: int) -> None:
        line, self._line = self._line[:length], self._line[length:]
        # After a full queue, wait until it is half empty: one gap of many lines is easier to read than many gaps.
        if self._thread.queue.qsize() >= (MAX_QUEUED // 2 if self._dropped else MAX_QUEUED):
            self._dropped += count_lines(line)
            return
        dropped, self._dropped = self._dropped, 0
        self._thread.queue.put((self._target, line, dropped))


@contextlib.contextmanager
def nonblocking_output() -> Iterator[None]:
    """Replace sys.stdout and sys.stderr with OutputStreams during the block. Also a decorator.

    The end of the block waits until everything is written, or nothing was for 5 s. A file descriptor that does not
    accept text then, or that failed before, is redirected to /dev/null: what others in this process write there
    (libraries, a traceback, Python's own flush at exit) neither fails nor blocks. Inside another such block it does
    nothing.
    """
    before = sys.stdout, sys.stderr
    if any(isinstance(stream, OutputStream) for stream in before):
        yield
        return
    occupy_closed_descriptors()
    targets = [OutputTarget(stream or open(os.devnull, "w")) for stream in before]  # noqa: SIM115
    shared = targets[0].same_file(targets[1])
    threads = [OutputThread(targets)] if shared else [OutputThread([target]) for target in targets]
    streams = [OutputStream(target, thread) for target, thread in zip(targets, (threads * 2)[:2], strict=True)]
    sys.stdout, sys.stderr = (cast(TextIO, stream) for stream in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in streams:
            stream.close_queue()
        for thread in threads:
            thread.close()
        for target, earlier in zip(targets, before, strict=True):
            if earlier is None:
                target.stream.close()
