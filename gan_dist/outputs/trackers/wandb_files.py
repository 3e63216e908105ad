"""Which steps W&B's own files have: a killed process leaves less in them than it has logged.

The files are sequences of protobuf messages in LevelDB's log format: after a header of 7 bytes, blocks of 32 KiB, whose
chunks have a checksum, a length and a type.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gan_dist.files import BadFile, read_file

STEP = "train/step"  # the key of the steps on the dashboard
MAX_BYTES = 2**30
_MAGIC = b":W&B"
_BLOCK = 32 * 1024
_HEADER = 7  # of the file and of each chunk: checksum (4 bytes), length (2), type (1)
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def last_recorded_step(folder: Path, run_id: str) -> int | None:
    """The last step with figures in the files of a run, of all its sessions; None if there is no file of it.

    The last message of a killed session may be incomplete. It is removed: `wandb sync` would upload neither the rest of
    that file nor those of later sessions.

    Args:
        folder: in which W&B keeps its files; no process writes the files of the run.
        run_id: W&B's.
    """
    files = [file for file in folder.glob("*/run-*.wandb") if file.name == f"run-{run_id}.wandb"]
    return max((_repair(file) for file in files), default=0) if files else None


def _repair(file: Path) -> int:
    """Remove an incomplete message at the end of a file. Returns the last step in it, 0 if there is none."""
    try:
        content = read_file(file, MAX_BYTES)
    except BadFile:
        return 0
    last, end = 0, len(content)
    for message, end in _messages(content):  # noqa: B007, the last one is used
        last = max(last, _step(message))
    if _HEADER < end < len(content):
        os.truncate(file, end)
    return last


def _step(message: bytes) -> int:
    """The step of a message; 0 if it has none."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    try:
        items = Record.FromString(message).history.item
        step: Any = next((json.loads(item.value_json) for item in items if STEP in (item.key, *item.nested_key)), 0)
    except Exception:  # protobuf's errors are not documented
        return 0
    return step if isinstance(step, int) else 0


def _messages(content: bytes) -> Iterator[tuple[bytes, int]]:
    """The messages up to the first damage, each with the position of its end."""
    if content[:4] != _MAGIC:
        return
    parts, at = b"", _HEADER
    while at + _HEADER <= len(content):
        if _BLOCK - at % _BLOCK < _HEADER:  # no space for a chunk: the rest of the block is padding
            at += _BLOCK - at % _BLOCK
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        chunk = content[at + _HEADER : at + _HEADER + length]
        if kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or len(chunk) < length:
            return
        parts = chunk if kind in (_FULL, _FIRST) else parts + chunk
        at += _HEADER + length
        if kind in (_FULL, _LAST):
            yield parts, at
            parts = b""
