"""Reads a growing file with one JSON object per line repeatedly, each time only what was appended."""

from __future__ import annotations

import io
import os
from pathlib import Path

from gan_dist.config import InputError
from gan_dist.files import BadFile, open_regular_file
from gan_dist.outputs.records import MAX_ROWS_BYTES, DamagedLine, Records, Row, by_step, parse_row

REMEMBERED = 1_024  # bytes before the position, compared to notice that the file is another one


class RecordReader:
    """Reads metrics.jsonl or evaluations.jsonl as `read_records` does, repeatedly.

    A file that was replaced, truncated or removed since the last time is read from its beginning. A last line without a
    newline is being written: it is read again the next time.

    Args:
        file: its path.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._before = b""  # the last bytes before the position
        self._forget()

    def read(self) -> Records:
        """Read what was appended since the last time.

        Returns:
            All records of the file; none if it is missing.

        Raises:
            InputError: the file is not a regular file, cannot be read, or is too large.
        """
        if not os.path.lexists(self.file):
            self._forget()
            return Records([], [])
        try:
            with open_regular_file(self.file) as stream:
                if not self._continues(stream):
                    self._forget()
                content = self._read_rest(stream)
        except BadFile as error:
            self._forget()
            raise InputError(f"{self.file} {error}; move it away, or choose another folder") from error
        end = content.rfind(b"\n") + 1
        lines = io.BytesIO(content)  # does not copy the content
        while lines.tell() < end:
            self._lines += 1
            self._add(lines.readline().removesuffix(b"\n"), self._rows, self._damaged)
        self._position += end
        self._before = (self._before + content[max(end - REMEMBERED, 0) : end])[-REMEMBERED:]
        rows, damaged = self._rows, list(self._damaged)
        if rest := content[end:]:
            unfinished: dict[int, Row] = {}
            self._lines += 1
            self._add(rest, unfinished, damaged)
            self._lines -= 1
            rows = self._rows | unfinished
        return Records(by_step(rows), damaged, complete=not rest)

    def _forget(self) -> None:
        self._rows: dict[int, Row] = {}
        self._damaged: list[DamagedLine] = []
        self._lines = self._position = 0
        self._file_id: tuple[int, int] | None = None
        self._before = b""

    def _continues(self, stream: io.BufferedReader) -> bool:
        """Whether the file begins with what was read before. The inode alone does not tell: it may be used again."""
        status = os.fstat(stream.fileno())
        if self._file_id != (status.st_dev, status.st_ino):
            return False
        try:
            stream.seek(self._position - len(self._before))
            return stream.read(len(self._before)) == self._before
        except OSError as error:
            raise BadFile(f"can't be read ({error.strerror})") from error

    def _read_rest(self, stream: io.BufferedReader) -> bytes:
        status = os.fstat(stream.fileno())
        if status.st_size > MAX_ROWS_BYTES:
            raise BadFile(f"is too large: {status.st_size:,} bytes; the maximum is {MAX_ROWS_BYTES:,}")
        self._file_id = status.st_dev, status.st_ino
        try:
            stream.seek(self._position)
            return stream.read(status.st_size - self._position)
        except OSError as error:
            raise BadFile(f"can't be read ({error.strerror})") from error

    def _add(self, line: bytes, rows: dict[int, Row], damaged: list[DamagedLine]) -> None:
        """Add line number `_lines` to the rows, or to the damaged lines."""
        try:
            row = parse_row(line, self.file.name, self._rows)
            rows[row["step"]] = row
        except BadFile as error:
            damaged.append(DamagedLine(self._lines, line, str(error)))
