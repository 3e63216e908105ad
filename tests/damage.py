"""Hypothesis strategies that damage files, for tests of readers."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies

Damage = Callable[[bytes], bytes]

JSON_VALUES = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers(-(10**30), 10**30)
    | strategies.floats()
    | strategies.text(max_size=10)
    | strategies.sampled_from([0, 1, -1, 10**12, 10**400, 0.5, "conv", "F64", "__metadata__"]),
    lambda inner: strategies.lists(inner, max_size=4) | strategies.dictionaries(strategies.text(max_size=8), inner),
    max_leaves=8,
)


@strategies.composite
def damages(draw: strategies.DrawFn) -> Damage:
    """Damages a safetensors file: its bytes, its header, or the JSON texts in its metadata."""
    kind = draw(strategies.sampled_from(["cut", "bytes", "header", "metadata", "metadata"]))
    if kind == "cut":
        share = draw(strategies.floats(0, 1))
        return lambda content: content[: int(share * len(content))]
    if kind == "bytes":
        changes = draw(strategies.lists(strategies.tuples(strategies.floats(0, 1), strategies.binary(max_size=3))))
        near = draw(strategies.sampled_from([64, 2000, None]))  # bytes from the start
        return lambda content: _overwritten(content, changes, near or len(content))
    path = draw(strategies.lists(strategies.integers(0, 2**16), min_size=1, max_size=5))
    value = draw(JSON_VALUES)
    return lambda content: _with_header(content, path, value, kind == "metadata")


def loads_or_is_refused(load: Callable[[], object], refusal: type[Exception]) -> bool:
    """Returns whether a reader succeeds or refuses in one line. Raises any other exception."""
    try:
        load()
    except refusal as error:
        return "\n" not in str(error) and len(str(error)) < 1000
    return True


def _overwritten(content: bytes, changes: Sequence[tuple[float, bytes]], near: int) -> bytes:
    changed = bytearray(content)
    for share, new in changes:
        start = int(share * min(near, len(content) - 1))
        changed[start : start + len(new)] = new
    return bytes(changed)


def _with_header(content: bytes, path: Sequence[int], value: Any, in_metadata: bool) -> bytes:
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    if in_metadata:
        metadata = header["__metadata__"]
        name = sorted(metadata)[path[0] % len(metadata)]
        metadata[name] = json.dumps(_replaced(json.loads(metadata[name]), path[1:], value))
    else:
        header = _replaced(header, path, value)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def _replaced(inside: Any, path: Sequence[int], value: Any) -> Any:
    """Returns the JSON with the value at a path replaced. A path has the index of a child for each level."""
    if not path or not isinstance(inside, dict | list) or not inside:
        return value
    if isinstance(inside, list):
        child = path[0] % len(inside)
        return [_replaced(item, path[1:], value) if i == child else item for i, item in enumerate(inside)]
    names = list(inside)
    name = names[path[0] % len(names)]
    return inside | {name: _replaced(inside[name], path[1:], value)}
