"""SVHN, Street View House Numbers (Netzer et al. 2011), cropped digits: 32x32 in colour, in MATLAB's format."""

from __future__ import annotations

import io

import numpy as np

from gan_dist.config import InputError
from gan_dist.data.readers.published import Content, Published, make_reader
from gan_dist.files import BadFile, first_line


def parse(content: bytes) -> Content:
    """The images and labels of a file: "X", (32, 32, 3, n) uint8, and "y", (n, 1), where 10 is the digit 0.

    Raises:
        BadFile: it holds anything else.
        InputError: scipy, which reads the format, is not installed.
    """
    try:
        from scipy.io import loadmat  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise InputError("data.name=svhn needs scipy to read MATLAB's format: pip install scipy") from error
    try:
        found = loadmat(io.BytesIO(content), variable_names=["X", "y"])
    except Exception as error:  # scipy raises many kinds of errors for damaged content
        raise BadFile(f"is not a MATLAB file ({first_line(error)})") from None
    pixels, labels = found.get("X"), found.get("y")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[:3] != (32, 32, 3):
        raise BadFile("holds no images of 32x32 in colour under 'X'")
    if pixels.ndim != 4 or not pixels.shape[3]:
        raise BadFile("holds no images under 'X'")
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu" or labels.size != pixels.shape[3]:
        raise BadFile("does not hold one label per image under 'y'")
    classes = labels.reshape(-1).astype(np.int64)
    return np.ascontiguousarray(pixels.transpose(3, 2, 0, 1)), np.where(classes == 10, 0, classes)


READER = make_reader(
    Published(
        torchvision_class="SVHN",
        split_argument="split",
        folder=".",
        files={
            "train": {"train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373"},
            "test": {"test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3"},
        },
        counts={"train": 73_257, "test": 26_032},
        classes=tuple("0123456789"),
        parse=parse,
    )
)
