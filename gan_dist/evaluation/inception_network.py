"""The Inception network of torch-fidelity, with weights from an untrusted file."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gan_dist.evaluation.inception_file import bad_weights, check_inception, inception_file
from gan_dist.files import BadFile, first_line, read_file
from gan_dist.tensors import check_tensors

MAX_BYTES = 256 * 2**20  # of the file of the weights, whose usual size is 96 MB
PUBLISHED = "6726825d"  # the sha256 of the published file begins with it, as its name says
COUNTER = "num_batches_tracked"  # of batch normalization, which only training uses; older versions of torch had none


@dataclass(frozen=True)
class Inception:
    """The network, in eval mode, without gradients."""

    network: nn.Module
    """Maps pixels, uint8 (n, 3, H, W), to a tuple with the features (n, 2048)."""
    sha256: str
    """Of the file of its weights."""

    @property
    def id(self) -> str:
        """The first 12 hex digits of the sha256."""
        return self.sha256[:12]

    @property
    def published(self) -> bool:
        """Whether the weights are those of papers."""
        return self.sha256.startswith(PUBLISHED)


def load_inception(features: Path) -> Inception:
    """Load the network, on the CPU.

    torch-fidelity unpickles the file that it is given, which may execute code. It is therefore given none: the file is
    read with torch's restricted unpickler, and its tensors are compared with those of the network.

    Args:
        features: evaluate.features, inception:FILE.

    Raises:
        InputError: torch-fidelity is missing, or the file is missing, damaged or of another network.
    """
    check_inception(features)
    file = inception_file(features)
    assert file is not None
    network = _without_weights()
    try:
        content = read_file(file, MAX_BYTES)
        tensors = read_weights(content, network.state_dict())
    except BadFile as error:
        raise bad_weights(features, error) from error
    network.to_empty(device="cpu")
    nn.Module.load_state_dict(network, tensors)
    return Inception(network, hashlib.sha256(content).hexdigest())


def read_weights(content: bytes, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in the content of a file that torch.save wrote. Executes no code of the file.

    Args:
        content: of the file.
        expected: name -> tensor of the expected shape and type.

    Raises:
        BadFile: it is damaged, holds anything but tensors, or those of another network.
    """
    stream = io.BytesIO(content)
    try:
        if zipfile.is_zipfile(stream):
            with zipfile.ZipFile(stream) as archive:
                size = sum(member.file_size for member in archive.infolist())
            if size > MAX_BYTES:  # compressed, which torch.save never does
                raise BadFile(f"is too large: {size:,} bytes when unpacked; the maximum is {MAX_BYTES:,}")
        stream.seek(0)
        loaded = torch.load(stream, map_location="cpu", weights_only=True)
    except BadFile:
        raise
    except Exception as error:  # the unpickler raises many kinds of errors
        raise BadFile(f"does not hold weights that torch can load safely ({first_line(error)})") from None
    if not isinstance(loaded, dict) or not all(
        isinstance(item, str | Tensor) for pair in loaded.items() for item in pair
    ):
        raise BadFile("does not hold a dictionary of tensors")
    tensors: dict[str, Tensor] = {
        name: torch.zeros((), dtype=torch.int64) for name in expected if name.endswith(COUNTER)
    } | loaded
    check_tensors(tensors, expected)
    infinite = next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)
    if infinite is not None:
        raise BadFile(f"holds {infinite} with values that are not finite")
    return tensors


def _without_weights() -> nn.Module:
    """The network on the meta device."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class WithoutWeights(FeatureExtractorInceptionV3):
        """Its constructor loads nothing."""

        def load_state_dict(self, *args: Any, **kwargs: Any) -> None:
            pass

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    with torch.device("meta"):
        network: nn.Module = WithoutWeights("inception-v3-compat", ["2048"], nothing)
    return network
