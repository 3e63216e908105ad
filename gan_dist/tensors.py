"""Reading safetensors files that may hold anything: everything that can be wrong with one is a BadFile."""

from __future__ import annotations

from collections.abc import Mapping

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from gan_dist.files import BadFile, first_line, parse_json_object

HEADER_SIZE_BYTES = 8  # a little-endian integer before the header, which is JSON
METADATA = "__metadata__"  # its entry of the header; each other one is a tensor's


def read_tensors(content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Parse the content of a safetensors file. No code in it can run, and nothing larger than it is allocated.

    Args:
        content: the whole file, as `read_file` gives it.

    Returns:
        The tensors, on the CPU, and the metadata: both by name, in no particular order.

    Raises:
        BadFile: it is no safetensors file, or a damaged one.
    """
    size = int.from_bytes(content[:HEADER_SIZE_BYTES], "little")
    if len(content) < HEADER_SIZE_BYTES or size > len(content) - HEADER_SIZE_BYTES:
        raise BadFile("is not a safetensors file, or is cut off")
    header = parse_json_object(content[HEADER_SIZE_BYTES : HEADER_SIZE_BYTES + size])
    metadata = header.get(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BadFile(f"is not a safetensors file ({METADATA} is not an object of strings)")
    try:
        return safetensors.torch.load(content), metadata
    except SafetensorError as error:
        raise BadFile(f"is not a safetensors file, or is damaged ({first_line(error)})") from None
    # torch does not know a dtype; an empty tensor's shape overflows, or is not empty.
    except (KeyError, AssertionError, RuntimeError, ValueError, TypeError) as error:
        raise BadFile(f"holds a tensor that can't be read ({first_line(error)})") from None


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Check that tensors are those that a network, or an optimizer, takes.

    Args:
        tensors: as `read_tensors` gives them.
        expected: name -> a tensor of the right shape and dtype, such as the state_dict of a network on the meta device.

    Raises:
        BadFile: names the first tensor that is missing, unexpected, or of another shape or dtype.
    """
    for name, wanted in expected.items():
        if name not in tensors:
            raise BadFile(f"lacks the tensor {name}")
        found = tensors[name]
        if found.shape != wanted.shape:
            raise BadFile(f"holds {name} of shape {list(found.shape)} instead of {list(wanted.shape)}")
        if found.dtype != wanted.dtype:
            raise BadFile(f"holds {name} as {found.dtype} instead of {wanted.dtype}")
    for name in tensors:
        if name not in expected:
            raise BadFile(f"holds a tensor {name[:100]!r} that does not belong there")
