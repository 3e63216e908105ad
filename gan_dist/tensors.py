"""Safetensors files: their content, and reading untrusted ones, where every error is a BadFile."""

from __future__ import annotations

from collections.abc import Mapping

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from gan_dist.files import BadFile, first_line, parse_json_object

HEADER_SIZE_BYTES = 8  # a little-endian integer before the JSON header
METADATA = "__metadata__"  # entry of the header; each other entry is a tensor


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The content of a safetensors file.

    Args:
        tensors: by name, on any device.
        metadata: by name.
    """
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(contiguous, dict(metadata) if metadata else None)


def read_tensors(content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Parse the content of a safetensors file. Executes no code and allocates no more memory than its size.

    Args:
        content: the whole file, as `read_file` returns it.

    Returns:
        Name -> tensor, on the CPU, and name -> metadata, both in no particular order.

    Raises:
        BadFile: it is not a safetensors file, or is damaged.
    """
    size = int.from_bytes(content[:HEADER_SIZE_BYTES], "little")
    if len(content) < HEADER_SIZE_BYTES or size > len(content) - HEADER_SIZE_BYTES:
        raise BadFile("is not a safetensors file, or is truncated")
    header = parse_json_object(content[HEADER_SIZE_BYTES : HEADER_SIZE_BYTES + size])
    metadata = header.get(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BadFile(f"is not a safetensors file ({METADATA} is not an object of strings)")
    try:
        return safetensors.torch.load(content), metadata
    except SafetensorError as error:
        raise BadFile(f"is not a safetensors file, or is damaged ({first_line(error)})") from None
    # A dtype is unknown to torch, or the shape of an empty tensor overflows or is not empty.
    except (KeyError, AssertionError, RuntimeError, ValueError, TypeError) as error:
        raise BadFile(f"holds a tensor that can't be read ({first_line(error)})") from None


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Check that tensors have the expected names, shapes and dtypes, so that a network or optimizer can load them.

    Args:
        tensors: as `read_tensors` returns them.
        expected: name -> tensor of that shape and dtype, such as the state_dict of a network on the meta device.

    Raises:
        BadFile: with the name of the first tensor that differs.
    """
    for name, tensor in expected.items():
        if name not in tensors:
            raise BadFile(f"lacks the tensor {name}")
        found = tensors[name]
        if found.shape != tensor.shape:
            raise BadFile(f"holds {name} of shape {list(found.shape)} instead of {list(tensor.shape)}")
        if found.dtype != tensor.dtype:
            raise BadFile(f"holds {name} as {found.dtype} instead of {tensor.dtype}")
    for name in tensors:
        if name not in expected:
            raise BadFile(f"holds an unexpected tensor {name[:100]!r}")
