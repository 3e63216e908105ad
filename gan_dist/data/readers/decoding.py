"""Decodes pictures in parallel processes, into one file."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import gan_dist
from gan_dist.config import Stopped
from gan_dist.data.readers.decoder import Job
from gan_dist.data.readers.listing import File

MAX_PROCESSES = 32
FILES_PER_PROCESS = 200  # fewer are decoded sooner than another process starts
_POLL = 0.1  # seconds between two calls of stop_requested

# Limits of a chunk, the work between two messages.
_MAX_FILES = 64
_MAX_INPUT_BYTES = 2 * 2**20
_MAX_OUTPUT_BYTES = 16 * 2**20

# -P and the path of this process: the working folder could contain modules of any name.
_SCRIPT = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from gan_dist.data.readers.decoder import main
main()
"""


class Chunk(NamedTuple):
    """Consecutive files."""

    first: int
    files: Sequence[File]


def decode_all(
    job: Job, files: Sequence[File], stop_requested: Callable[[], bool], processes: int | None = None
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Decode files into the output of a job, in any order, and yield the answers as they arrive.

    A file that ends its decoder, by a fault in an image library or for lack of memory, is refused like a damaged one.

    Args:
        job: the job; its output exists.
        files: the pictures, in the order of the output.
        stop_requested: polled several times per second.
        processes: number of processes; None: one per core that this process may use.

    Yields:
        The place of the first file of a chunk, and what `decoder.answer` found for each of its files.

    Raises:
        OSError: the output can't be written.
        Stopped: `stop_requested` returned True.
    """
    count = processes or min(MAX_PROCESSES, _cores(), 1 + len(files) // FILES_PER_PROCESS)
    pool = _Pool(job, files)
    try:
        threads = [threading.Thread(target=pool.serve, daemon=True) for _ in range(count)]
        pool.threads += threads
        for thread in threads:
            thread.start()
        left = len(files)
        while left:
            if stop_requested():
                raise Stopped("the preparation of the pictures was stopped; nothing of it was kept")
            try:
                answer = pool.answers.get(timeout=_POLL)
            except queue.Empty:
                continue
            if isinstance(answer, BaseException):
                raise answer
            left -= len(answer[1])
            yield answer
    finally:
        pool.close()


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def _chunks(files: Sequence[File], picture_bytes: int) -> Iterator[Chunk]:
    first, size = 0, 0
    longest = max(1, min(_MAX_FILES, _MAX_OUTPUT_BYTES // picture_bytes))
    for place, file in enumerate(files):
        if place > first and (place - first == longest or size + file.size > _MAX_INPUT_BYTES):
            yield Chunk(first, files[first:place])
            first, size = place, 0
        size += file.size
    yield Chunk(first, files[first:])


class _Pool:
    """Decoder processes, each served by a thread that waits for its answers."""

    def __init__(self, job: Job, files: Sequence[File]) -> None:
        self.job = job
        self.chunks = deque(_chunks(files, job.shape[0] * job.shape[1] * job.shape[2]))
        self.answers: queue.Queue[tuple[int, list[dict[str, Any]]] | BaseException] = queue.Queue()
        self.threads: list[threading.Thread] = []
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._closed = False

    def serve(self) -> None:
        """Start a process and give it chunks until there are no more. Start another one if it ends."""
        try:
            while self.chunks:
                with self._process() as process:
                    while (chunk := self._next()) is not None:
                        if not self._ask(process, chunk):
                            self._retry(chunk, process.wait())
                            break
        except BaseException as error:
            self.answers.put(error)

    def close(self) -> None:
        """End all processes and threads."""
        self.chunks.clear()
        with self._lock:
            self._closed = True
            for process in self._running:
                process.kill()
        for thread in self.threads:
            if thread.ident is not None:
                thread.join()

    @contextlib.contextmanager
    def _process(self) -> Iterator[subprocess.Popen[str]]:
        """A process that is ready for chunks."""
        path = json.dumps([str(Path(gan_dist.__file__).parent.parent), *sys.path])
        with tempfile.TemporaryFile("w+", errors="replace") as errors:  # a pipe would block when it is full
            with self._lock:
                if self._closed:
                    raise Stopped("the preparation ended")
                process = _start(path, errors)
                self._running.add(process)
            try:
                if not self._tell(process, self.job.to_json()):
                    errors.seek(0)
                    last = (errors.read().strip().splitlines() or ["no message"])[-1]
                    raise RuntimeError(f"a process that decodes pictures did not start: {last}")
                yield process
            finally:
                with self._lock:
                    self._running.discard(process)
                process.kill()
                process.communicate()

    def _next(self) -> Chunk | None:
        try:
            return self.chunks.popleft()
        except IndexError:
            return None

    def _tell(self, process: subprocess.Popen[str], line: str) -> Any:
        """Send a line; returns the decoded answer, or None if the process has ended."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
        except OSError:  # a broken pipe
            return None
        answer = process.stdout.readline()
        return json.loads(answer) if answer.endswith("\n") else None

    def _ask(self, process: subprocess.Popen[str], chunk: Chunk) -> bool:
        """Have a chunk decoded; returns False if the process has ended."""
        answer = self._tell(process, json.dumps(chunk._asdict()))
        if answer is None:
            return False
        if "errno" in answer:
            raise OSError(answer["errno"], os.strerror(answer["errno"]))
        self.answers.put((chunk.first, answer["pictures"]))
        return True

    def _retry(self, chunk: Chunk, code: int) -> None:
        """Find the file of a chunk that ended its decoder: each is given to a process alone."""
        if len(chunk.files) > 1:
            self.chunks.extendleft(Chunk(chunk.first + i, [file]) for i, file in enumerate(chunk.files))
        elif not self._closed:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            self.answers.put((chunk.first, [{"refused": f"can't be decoded: its decoder ended with {how}"}]))


def _start(path: str, errors: IO[str]) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", _SCRIPT, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
            start_new_session=True,  # a terminal's Ctrl-C reaches only this process
        )
    except OSError as error:
        raise RuntimeError(f"no process that decodes pictures could be started: {error.strerror}") from error
