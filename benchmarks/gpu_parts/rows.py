"""The rows of the table, and the files that hold them: gpu.json and gpu.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OK, FAILED, MEASURED, NOT_RUN = "ok", "failed", "measured", "not run"
STATES = (OK, FAILED, MEASURED, NOT_RUN)
Value = str | int | float | None


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    part: str
    name: str
    """What was checked or measured."""
    state: str
    """ok or failed: a check. measured: figures without a check. not run: `note` says why."""
    values: dict[str, Value] = field(default_factory=dict)
    """Column -> figure."""
    note: str = ""

    def __post_init__(self) -> None:
        assert self.state in STATES, self.state


def checked(part: str, name: str, problem: str, values: Mapping[str, Value] | None = None, note: str = "") -> Row:
    """The row of a check: failed if there is a problem, else ok."""
    return Row(part, name, FAILED if problem else OK, dict(values or {}), problem or note)


class RowFile:
    """Rows of one part, one line each. They are on disk before the next one is measured."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def add(self, row: Row) -> None:
        with open(self.file, "a") as stream:
            stream.write(json.dumps(asdict(row)) + "\n")

    def read(self) -> list[Row]:
        """The complete lines: the process that writes may have been killed inside one."""
        lines = self.file.read_text().split("\n")[:-1] if self.file.exists() else []
        return [Row(**json.loads(line)) for line in lines]


def write_tables(folder: Path, about: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write gpu.json and gpu.md, each complete or as it was before.

    Args:
        folder: of both files.
        about: the machine and the arguments.
        rows: of all parts so far.
    """
    content = json.dumps({**about, "rows": [asdict(row) for row in rows]}, indent=1)
    for name, text in (("gpu.json", content + "\n"), ("gpu.md", markdown(about, rows))):
        beside = folder / f".{name}"
        beside.write_text(text)
        beside.replace(folder / name)


def markdown(about: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """The tables: the machine, then one for each part."""
    lines = ["# benchmarks/gpu.py", "", "| | |", "| --- | --- |"]
    lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in about.items()]
    for part in dict.fromkeys(row.part for row in rows):
        own = [row for row in rows if row.part == part]
        columns = list(dict.fromkeys(name for row in own for name in row.values))
        lines += ["", f"## {part}", "", f"| {' | '.join(['', 'state', *columns, 'note'])} |"]
        lines.append("| --- " * (len(columns) + 3) + "|")
        for row in own:
            figures = [row.values.get(name) for name in columns]
            lines.append(f"| {' | '.join(map(_cell, [row.name, row.state, *figures, row.note]))} |")
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_cell(item)}" for name, item in value.items())
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return " ".join(text.split()).replace("|", "\\|")
