"""Reads the file of an offline W&B run: protobuf records in LevelDB's log format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32 * 1024
HEADER = 7  # of the file and of each chunk: crc32 (4), length (2), type (1)
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(file: Path) -> list[Record]:
    content = file.read_bytes()
    assert content[:4] == b":W&B"
    found, parts, at = [], b"", HEADER
    while at + HEADER <= len(content):
        if BLOCK - at % BLOCK < HEADER:  # no space for a header: the rest of the block is padding
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        if kind not in (FULL, FIRST, MIDDLE, LAST):
            break
        parts += content[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (FULL, LAST):
            found.append(Record.FromString(parts))
            parts = b""
    return found


def history(file: Path) -> list[dict[str, Any]]:
    """Returns the logged rows."""
    rows = []
    for record in records(file):
        if record.WhichOneof("record_type") == "history":
            rows.append(
                {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            )
    return rows


def config(file: Path) -> dict[str, Any]:
    """Returns the configuration that the dashboard shows."""
    values = {}
    for record in records(file):
        updates = record.run.config.update if record.HasField("run") else record.config.update
        values |= {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in updates}
    return values


def step_metrics(file: Path) -> dict[str, str]:
    """Returns metric or pattern -> the metric of its x axis, from define_metric."""
    metrics = [record.metric for record in records(file) if record.HasField("metric")]
    return {metric.name or metric.glob_name: metric.step_metric for metric in metrics}
