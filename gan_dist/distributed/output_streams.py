"""What stands in for sys.stdout and sys.stderr while a command works: streams that neither raise nor block.

A terminal may be closed or stopped with Ctrl-S, the reader of a pipe may end or stop reading, the disk of a log file
may be full or hang. None of that is a reason for a run to fail or to wait.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from typing import Any, Protocol, TextIO, cast, runtime_checkable

QUEUED = 10_000  # texts, mostly lines, that wait for a slow reader; further ones are left out
PATIENCE = 5.0  # seconds without progress after which the end of a command waits for a reader no longer
RETRY = 10.0  # seconds until a full disk is tried again
_CHUNK = 4096  # bytes written at once (PIPE_BUF of Linux): progress shows, and lines of several processes stay whole
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@runtime_checkable
class TextStream(Protocol):
    """What sys.stdout can be: a file, or what a test or a notebook puts in its place."""

    def write(self, text: str, /) -> int: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class OutputStream:
    """A text stream whose writing is done by another thread. Everything else is asked of the stream below.

    Args:
        target: where the text goes.
        channel: what takes it there.
    """

    def __init__(self, target: _Target, channel: _Channel) -> None:
        self._target = target
        self._channel = channel
        self._process: int | None = os.getpid()
        self._lock = threading.RLock()  # reentrant: a signal's handler may print in the middle of a print
        self._line = ""  # not sent yet: lines are written whole
        self._left_out = 0  # lines that found the queue full, since the last text that did not

    def write(self, text: str) -> int:
        """Take a text; it is written as soon as its line ends or is flushed."""
        if self._process != os.getpid():  # closed, or a forked process, which has no such thread
            with contextlib.suppress(OSError, ValueError):
                self._target.stream.write(text)
            return len(text)
        with self._lock:
            self._line += text
            if "\r" in text or len(self._line) > _CHUNK:
                self._send(len(self._line))
            elif "\n" in text:
                self._send(self._line.rindex("\n") + 1)
        return len(text)

    def writelines(self, texts: Iterable[str]) -> None:
        """Take texts one after the other."""
        for text in texts:
            self.write(text)

    def flush(self) -> None:
        """End the text so far. Does not wait until it is written."""
        if self._process != os.getpid():
            with contextlib.suppress(OSError, ValueError):
                self._target.stream.flush()
            return
        with self._lock:
            if self._line:
                self._send(len(self._line))

    def close_queue(self) -> None:
        """Send the rest; from here on texts go directly to the stream below."""
        with self._lock:
            if self._line or self._left_out:
                self._channel.queue.put((self._target, self._line, self._left_out))
            self._process = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target.stream, name)

    def _send(self, length: int) -> None:
        line, self._line = self._line[:length], self._line[length:]
        # After a full queue wait until it is half empty: one gap of many lines is easier to read than many gaps.
        if self._channel.queue.qsize() >= (QUEUED // 2 if self._left_out else QUEUED):
            self._left_out += _lines(line)
            return
        left_out, self._left_out = self._left_out, 0
        self._channel.queue.put((self._target, line, left_out))


@contextlib.contextmanager
def nonblocking_output() -> Iterator[None]:
    """Replace sys.stdout and sys.stderr by OutputStreams for the time of the block. Also a decorator.

    At the end it waits until everything is written, at most PATIENCE seconds without progress. A file descriptor that
    does not take text then, or failed before, is pointed to /dev/null: so what others in this process write there
    (libraries, a traceback, Python's own flush at exit) neither fails nor blocks. Inside another such block it does
    nothing.
    """
    before = sys.stdout, sys.stderr
    if any(isinstance(stream, OutputStream) for stream in before):
        yield
        return
    occupy_closed_descriptors()
    targets = [_Target(stream or open(os.devnull, "w")) for stream in before]  # noqa: SIM115
    channels = [_Channel(targets)] if targets[0].same_file(targets[1]) else [_Channel([target]) for target in targets]
    streams = [OutputStream(target, channel) for target, channel in zip(targets, (channels * 2)[:2], strict=True)]
    sys.stdout, sys.stderr = (cast(TextIO, stream) for stream in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in streams:
            stream.close_queue()
        for channel in channels:
            channel.close()
        for target, earlier in zip(targets, before, strict=True):
            if earlier is None:
                target.stream.close()


class _Target:
    """A stream below, until it fails for good. After the constructor one thread alone uses it."""

    def __init__(self, stream: TextStream) -> None:
        self.stream = stream
        self.chunks = 0  # written so far
        self._descriptor = _descriptor_of(stream)
        self._gone = False
        self._missing = 0  # lines left out since the last text that was written
        self._inside_line = False
        self._retry_at = 0.0  # on time.monotonic
        try:
            stream.flush()  # what was printed before comes first
        except (OSError, ValueError):
            self.give_up()

    def same_file(self, other: _Target) -> bool:
        """Whether both write to one place, where the order of their texts shows."""
        if self._descriptor is None or other._descriptor is None:
            return self.stream is other.stream
        return os.path.sameopenfile(self._descriptor, other._descriptor)

    def write(self, text: str, left_out: int) -> None:
        """Write a text, after a line that says how many lines are missing before it, if some are."""
        self._missing += left_out
        if self._gone or time.monotonic() < self._retry_at:
            self._missing += _lines(text)
            return
        notice = f"[{self._missing:,} line(s) of output could not be written here]\n" if self._missing else ""
        notice = "\n" + notice if notice and self._inside_line else notice
        try:
            self._write(notice + text)
        except Exception as error:  # whatever a stream does: it must not end the thread
            self._missing += _lines(text)
            self._inside_line = True  # part of the text may be there
            if isinstance(error, OSError) and error.errno in _NO_SPACE:
                self._retry_at = time.monotonic() + RETRY
            else:
                self.give_up()
        else:
            self._missing = 0
            self._inside_line = not (notice + text).endswith("\n")

    def finish(self) -> None:
        """Say what is missing at the end, and see whether the stream takes text."""
        self._retry_at = 0.0
        if self._missing:
            self.write("", 0)
        if self._missing and not self._gone:
            self.give_up()

    def give_up(self) -> None:
        """Write no more, and let nobody else fail or wait where this stream did."""
        self._gone = True
        # The number of a stream that was closed may be that of another file by now.
        if self._descriptor is not None and not getattr(self.stream, "closed", False):
            with contextlib.suppress(OSError):
                _point_to_null(self._descriptor)

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
        # Not through the stream: its lock, held while a reader does not read, would abort Python's exit.
        if getattr(self.stream, "closed", False):
            raise ValueError("the stream is closed")
        for start in range(0, len(data), _CHUNK):
            self._write_all(memoryview(data)[start : start + _CHUNK])
            self.chunks += 1

    def _write_all(self, data: memoryview) -> None:
        assert self._descriptor is not None
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # somebody who shares the terminal or pipe made it non-blocking
                select.select([], [self._descriptor], [])


class _Channel:
    """A queue of texts and the thread that writes them; streams to one file share it, which keeps their order."""

    def __init__(self, targets: list[_Target]) -> None:
        self.queue: SimpleQueue[tuple[_Target, str, int] | None] = SimpleQueue()
        self._targets = targets
        self._texts = 0  # done
        self._thread = threading.Thread(target=self._write_all, name="console-output", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait until all is written, or nothing was for PATIENCE seconds."""
        self.queue.put(None)
        before = -1
        while self._thread.is_alive() and (now := self._progress()) != before:
            before = now
            self._thread.join(PATIENCE)
        if self._thread.is_alive():
            for target in self._targets:
                target.give_up()

    def _progress(self) -> int:
        return self._texts + sum(target.chunks for target in self._targets)

    def _write_all(self) -> None:
        while (item := self.queue.get()) is not None:
            target, text, left_out = item
            target.write(text, left_out)
            self._texts += 1
        for target in self._targets:
            target.finish()


def _descriptor_of(stream: TextStream) -> int | None:
    """The file descriptor of a plain stream; None for one that does something else with its text, in a notebook say."""
    if not isinstance(stream, io.TextIOWrapper) or stream.closed:
        return None
    if not isinstance(getattr(stream.buffer, "raw", stream.buffer), io.FileIO):
        return None
    return stream.fileno()


def _lines(text: str) -> int:
    return text.count("\n") + (text[-1:] not in ("", "\n"))


def occupy_closed_descriptors() -> None:
    """Open /dev/null in place of a standard stream that this process was started without (`>&-`).

    Otherwise the next file that is opened, a checkpoint say, gets its number, and what libraries print goes into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            _point_to_null(descriptor)


def _point_to_null(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)
    else:
        os.set_inheritable(descriptor, True)
