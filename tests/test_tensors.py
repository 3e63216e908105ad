"""Reading untrusted safetensors files."""

from __future__ import annotations

import json
import re
import struct
from typing import Any

import pytest
import torch
from safetensors.torch import save

from gan_dist.files import BadFile
from gan_dist.tensors import check_tensors, read_tensors

NETWORK = {"weight": torch.arange(12.0).view(3, 4), "bias": torch.arange(4)}
CONTENT = save(NETWORK, {"step": "3"})


def file_of(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype: str = "F32", shape: list[int] | None = None, size: int = 0) -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": [0] if shape is None else shape, "data_offsets": [0, size]}}


def test_tensors_and_metadata_come_back() -> None:
    tensors, metadata = read_tensors(CONTENT)
    assert metadata == {"step": "3"}
    assert tensors.keys() == NETWORK.keys()
    assert all(torch.equal(tensors[name], NETWORK[name]) for name in NETWORK)
    assert read_tensors(save(NETWORK))[1] == {}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not a safetensors file, or is truncated"),
        (CONTENT[:20], "truncated"),
        (CONTENT[:-1], "damaged"),
        (CONTENT + b"x", "damaged"),
        (b"\xff" * 100, "truncated"),
        (file_of(b"[" * 100_000), "is not valid JSON"),
        (file_of(b"[]"), "does not hold a JSON object"),
        (file_of({"__metadata__": []}), "not an object of strings"),
        (file_of({"__metadata__": {"step": 3}}), "not an object of strings"),
        (file_of({"a": 1}), "damaged"),
        (file_of(tensor("F4", [2], 1), b"x"), r"can't be read \('F4'\)"),  # torch has no such dtype
        (file_of(tensor(shape=[2**40, 2**40])), "damaged"),  # claims more than there is
        (file_of(tensor(shape=[0, 2**40, 2**40])), "can't be read"),  # torch's strides overflow
        (file_of(tensor(shape=[-1])), "damaged"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(content: bytes, says: str) -> None:
    with pytest.raises(BadFile, match=says) as refusal:
        read_tensors(content)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bias": None}, "lacks the tensor bias"),
        ({"weight": torch.zeros(4, 3)}, "holds weight of shape [4, 3] instead of [3, 4]"),
        ({"bias": torch.zeros(4)}, "holds bias as torch.float32 instead of torch.int64"),
        ({"more": torch.zeros(1)}, "holds an unexpected tensor 'more'"),
    ],
)
def test_the_first_tensor_that_differs_is_named(change: dict[str, torch.Tensor | None], says: str) -> None:
    expected = {name: value.to("meta") for name, value in NETWORK.items()}
    check_tensors(NETWORK, expected)
    changed = {name: value for name, value in (NETWORK | change).items() if value is not None}
    with pytest.raises(BadFile, match=re.escape(says)):
        check_tensors(changed, expected)
