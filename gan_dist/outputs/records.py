"""Reads and writes a run's JSON files, with checks: single objects, and files with one object per line."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gan_dist.config import Config, InputError, from_dict, validate
from gan_dist.config.text import in_message
from gan_dist.files import MAX_JSON_BYTES, BadFile, is_whole, parse_json_object, read_file, replacing, sync

Row = dict[str, Any]
MAX_ROWS_BYTES = 2**30  # 2 million lines of metrics
MAX_LINE_BYTES = MAX_JSON_BYTES  # an evaluation of 10,000 classes takes 4 MB
MAX_STEP = 2**53  # largest integer that JSON numbers represent exactly


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: the file cannot be read or is not a JSON object.
    """
    try:
        return parse_json_object(read_file(file, MAX_JSON_BYTES))
    except BadFile as error:
        raise InputError(f"{file} {error}; restore it, or choose another folder") from error


def read_optional_json(file: Path) -> tuple[dict[str, Any], str]:
    """Read a JSON object that a run does not require.

    Returns:
        The object, empty if the file is missing or damaged; and the damage, empty if there is none.
    """
    if not os.path.lexists(file):
        return {}, ""
    try:
        return parse_json_object(read_file(file, MAX_JSON_BYTES)), ""
    except BadFile as error:
        return {}, str(error)


def read_config(file: Path) -> Config:
    """Read the configuration of a run.

    Raises:
        InputError: the file cannot be read, or is not a valid configuration of this version.
    """
    values = read_json(file)
    try:
        config = from_dict(values)
        validate(config)
    except (InputError, TypeError) as error:  # TypeError: a value of another type
        why = (str(error).splitlines() or ["a value of another type"])[0]
        raise InputError(f"{file} can't be used ({why}); restore it, or choose another folder") from error
    return config


def read_floor(file: Path) -> dict[str, float]:
    """Returns the figures of real images in floor.json, without entries that are not numbers."""
    return numbers_of(read_optional_json(file)[0])


def numbers_of(values: Mapping[str, Any]) -> dict[str, float]:
    """Returns the entries of a JSON object that are numbers."""
    return {name: float(value) for name, value in values.items() if is_number(value)}


@dataclass(frozen=True)
class DamagedLine:
    """A line that no run writes."""

    number: int
    """Line number, from 1."""
    content: bytes
    reason: str


@dataclass(frozen=True)
class Records:
    """The content of a file with one JSON object per line."""

    rows: list[Row]
    """The valid lines, ordered by their "step", which is unique and an int."""
    damaged: list[DamagedLine]
    complete: bool = True
    """Whether the last line ends with a newline, so that another one can be appended."""


def read_records(file: Path) -> Records:
    """Read metrics.jsonl, evaluations.jsonl or hashes.jsonl. A damaged line does not affect the others.

    Returns:
        The rows, ordered by their step; none if the file is missing.

    Raises:
        InputError: the file is not a regular file, cannot be read, or is too large.
    """
    if not os.path.lexists(file):
        return Records([], [])
    try:
        content = read_file(file, MAX_ROWS_BYTES)
    except BadFile as error:
        raise InputError(f"{file} {error}; move it away, or choose another folder") from error
    rows: dict[int, Row] = {}
    damaged = []
    for number, ended in enumerate(io.BytesIO(content), 1):
        line = ended.removesuffix(b"\n")
        try:
            row = parse_row(line, file.name, rows)
            rows[row["step"]] = row
        except BadFile as error:
            damaged.append(DamagedLine(number, line, str(error)))
    return Records(by_step(rows), damaged, complete=content.endswith(b"\n") or not content)


def by_step(rows: Mapping[int, Row]) -> list[Row]:
    """Rows in the order of their steps, which is that of the file, unless something else has written to it."""
    ordered = sorted(rows)
    return list(rows.values()) if ordered == list(rows) else [rows[step] for step in ordered]


def parse_row(line: bytes, name: str, earlier: Container[int]) -> Row:
    """Parse and check a line of a file with one JSON object per line.

    Args:
        line: without its newline.
        name: of the file, which determines the checks.
        earlier: the steps of the rows before it.

    Raises:
        BadFile: no run writes such a line there.
    """
    if len(line) > MAX_LINE_BYTES:
        raise BadFile(f"is too long: {len(line):,} bytes; the maximum is {MAX_LINE_BYTES:,}")
    row = parse_json_object(line)
    step = row.get("step")
    if not (is_whole(step) and 0 <= step <= MAX_STEP):
        raise BadFile("has no step")
    if step in earlier:
        raise BadFile(f"has step {step}, which an earlier line has")
    _CHECKS.get(name, _no_check)(row)
    return row


def read_json_lines(file: Path) -> list[Row]:
    """Returns the valid lines of a file with one JSON object per line."""
    return read_records(file).rows


class StepLines:
    """A file such as metrics.jsonl: one JSON object per line, one line per logged step, no step twice."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def read(self) -> Records:
        """Read the file with `read_records`."""
        return read_records(self.file)

    def rewrite(self, read: Records, kept: Sequence[Row], announce: Callable[[str], None]) -> None:
        """Keep only some of the rows. Damaged lines are moved to FILE.damaged.

        Args:
            read: the result of `read`.
            kept: the rows to keep.
            announce: called with one line if there are damaged lines.
        """
        if read.damaged:
            aside = self.file.with_name(f"{self.file.name}.damaged")
            with open(aside, "ab") as stream:
                stream.write(b"".join(line.content + b"\n" for line in read.damaged))
                stream.flush()
                os.fsync(stream.fileno())
            numbers = ", ".join(str(line.number) for line in read.damaged[:5]) + (", …" if read.damaged[5:] else "")
            announce(
                f"{self.file}: {len(read.damaged)} damaged line(s) moved to {aside.name} "
                f"(line {numbers}: the first {read.damaged[0].reason}); the other {len(read.rows)} are used"
            )
        if read.damaged or len(kept) < len(read.rows) or not read.complete:
            with replacing(self.file) as temporary:
                temporary.write_text("".join(_line(row) for row in kept))

    def append(self, row: Mapping[str, Any]) -> None:
        """Append a row."""
        with open(self.file, "a") as stream:
            stream.write(_line(row))

    def sync(self) -> None:
        """Sync the lines to the disk, so that they survive a power failure."""
        if self.file.exists():
            sync(self.file)
            sync(self.file.parent)


def is_number(value: Any) -> bool:
    """Returns whether a JSON value is a number that fits in a float. NaN and infinity, which Python writes, do."""
    return isinstance(value, float) or (is_whole(value) and abs(value) < 2**1000)


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row) + "\n"


def _no_check(row: Row) -> None:
    pass


def _check_metrics(row: Row) -> None:
    _require_numbers(row, ("epoch",))


def _check_evaluation(row: Row) -> None:
    _require_numbers(row, ("epoch",), other=("classifier", "inception", "intervals"))
    intervals = row.get("intervals", {})
    if not (isinstance(intervals, dict) and all(map(_is_interval, intervals.values()))):
        raise BadFile("has intervals that are not pairs of numbers")
    for name in ("classifier", "inception"):
        if not isinstance(row.get(name, ""), str):
            raise BadFile(f"has a {name} that is not a string")


def _check_hashes(row: Row) -> None:
    hashes, differ = row.get("hashes"), row.get("ranks_differ", [])
    if not (isinstance(hashes, dict) and all(isinstance(value, str) for value in hashes.values())):
        raise BadFile("has no hashes")
    if not (isinstance(differ, list) and all(isinstance(name, str) for name in differ)):
        raise BadFile("has a ranks_differ that is not a list of names")


def _require_numbers(row: Row, required: Sequence[str], other: Sequence[str] = ()) -> None:
    """Check that every figure is a number or null, and that the required ones are finite."""
    for name in required:
        if not (is_number(row.get(name)) and abs(row[name]) < float("inf")):
            raise BadFile(f"has no number {name}")
    for name, value in row.items():
        if name not in other and value is not None and not is_number(value):
            raise BadFile(f"has a {in_message(name)} that is not a number")


def _is_interval(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(end is None or is_number(end) for end in value)


_CHECKS: dict[str, Callable[[Row], None]] = {
    "metrics.jsonl": _check_metrics,
    "evaluations.jsonl": _check_evaluation,
    "hashes.jsonl": _check_hashes,
}
