"""Writes text to streams that may fail, and a thread that does it for streams that may block."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import threading
import time
from queue import SimpleQueue
from typing import Protocol, runtime_checkable

from gan_dist.distributed.descriptors import descriptor_of, redirect_to_null

CLOSE_SECONDS = 5.0  # without progress, after which the end of a command no longer waits for a reader
RETRY_SECONDS = 10.0  # until the next attempt after a full disk
CHUNK = 4096  # bytes per write (PIPE_BUF on Linux): shows progress and keeps lines of several processes intact
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@runtime_checkable
class TextStream(Protocol):
    """What sys.stdout can be: a file, or the replacement of a test or notebook."""

    def write(self, text: str, /) -> int: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class OutputTarget:
    """A stream, until it fails permanently. After the constructor only one thread uses it."""

    def __init__(self, stream: TextStream) -> None:
        self.stream = stream
        self.chunks = 0  # written so far
        self._descriptor = descriptor_of(stream)
        self._failed = False
        self._missing = 0  # lines dropped since the last text that was written
        self._inside_line = False
        self._retry_at = 0.0  # on time.monotonic
        try:
            stream.flush()  # earlier text comes first
        except (OSError, ValueError):
            self.give_up()

    def same_file(self, other: OutputTarget) -> bool:
        """Returns whether both write to one file, where the order of their texts is visible."""
        if self._descriptor is None or other._descriptor is None:
            return self.stream is other.stream
        return os.path.sameopenfile(self._descriptor, other._descriptor)

    def write(self, text: str, dropped: int) -> None:
        """Write a text, after a line with the number of missing lines if there are any.

        Args:
            text: any text.
            dropped: lines before it that did not fit into the queue.
        """
        self._missing += dropped
        if self._failed or time.monotonic() < self._retry_at:
            self._missing += count_lines(text)
            return
        notice = f"[{self._missing:,} line(s) of output could not be written here]\n" if self._missing else ""
        notice = "\n" + notice if notice and self._inside_line else notice
        try:
            self._write(notice + text)
        except Exception as error:  # whatever the stream raises: it must not end the thread
            self._missing += count_lines(text)
            self._inside_line = True  # a part of the text may have been written
            if isinstance(error, OSError) and error.errno in _NO_SPACE:
                self._retry_at = time.monotonic() + RETRY_SECONDS
            else:
                self.give_up()
        else:
            self._missing = 0
            self._inside_line = not (notice + text).endswith("\n")

    def finish(self) -> None:
        """Report the lines still missing; give up if that fails."""
        self._retry_at = 0.0
        if self._missing:
            self.write("", 0)
        if self._missing and not self._failed:
            self.give_up()

    def give_up(self) -> None:
        """Stop writing, and redirect the descriptor to /dev/null so that other writers neither fail nor block."""
        self._failed = True
        # The number of a closed stream may belong to another file by now.
        if self._descriptor is not None and not getattr(self.stream, "closed", False):
            with contextlib.suppress(OSError):
                redirect_to_null(self._descriptor)

    def _write(self, text: str) -> None:
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        try:
            data = text.encode(encoding, getattr(self.stream, "errors", None) or "strict")
        except UnicodeError:
            data = text.encode(encoding, "replace")
        if self._descriptor is None:
            self.stream.write(data.decode(encoding, "replace"))
            self.stream.flush()
            self.chunks += 1
            return
        # Not through the stream: if its lock were held during a blocked write, Python would abort at exit.
        if getattr(self.stream, "closed", False):
            raise ValueError("the stream is closed")
        for start in range(0, len(data), CHUNK):
            self._write_all(memoryview(data)[start : start + CHUNK])
            self.chunks += 1

    def _write_all(self, data: memoryview) -> None:
        assert self._descriptor is not None
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # another process that shares the terminal or pipe made it non-blocking
                select.select([], [self._descriptor], [])


class OutputThread:
    """A queue of texts and the thread that writes them. Streams to one file share it, which keeps the order."""

    def __init__(self, targets: list[OutputTarget]) -> None:
        self.queue: SimpleQueue[tuple[OutputTarget, str, int] | None] = SimpleQueue()
        self._targets = targets
        self._texts = 0  # written so far
        self._thread = threading.Thread(target=self._write_all, name="console-output", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait until everything is written, or nothing was for CLOSE_SECONDS."""
        self.queue.put(None)
        before = -1
        while self._thread.is_alive() and (now := self._progress()) != before:
            before = now
            self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            for target in self._targets:
                target.give_up()

    def _progress(self) -> int:
        return self._texts + sum(target.chunks for target in self._targets)

    def _write_all(self) -> None:
        while (item := self.queue.get()) is not None:
            target, text, dropped = item
            target.write(text, dropped)
            self._texts += 1
        for target in self._targets:
            target.finish()


def count_lines(text: str) -> int:
    """Returns the number of lines, including an incomplete last one."""
    return text.count("\n") + (text[-1:] not in ("", "\n"))
