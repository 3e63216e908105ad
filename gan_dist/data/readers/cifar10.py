"""CIFAR-10 (Krizhevsky 2009), as its Python version stores it: 32x32 in colour, ten classes."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from gan_dist.data.readers.published import Content, Published, make_reader
from gan_dist.files import BadFile, first_line

SHAPE = (3, 32, 32)


class _OnlyArrays(pickle.Unpickler):
    """Unpickles dictionaries, lists, strings, numbers and arrays of numbers, and nothing that could execute code."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("multiarray", "_reconstruct"): _empty_array,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): _plain_dtype,
            ("_codecs", "encode"): _encode,
        }
        try:
            return allowed[module.rpartition(".")[2] if name == "_reconstruct" else module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}") from None


def _empty_array(kind: Any, shape: Any, dtype: Any) -> np.ndarray:
    """What numpy's pickles begin an array with; its state, including the shape, follows."""
    if kind is not np.ndarray or shape != (0,):
        raise pickle.UnpicklingError("it holds an array that numpy did not write")
    return np.ndarray((0,), np.uint8)


def _plain_dtype(name: Any, *flags: Any) -> np.dtype:
    if name not in ("u1", b"u1"):
        raise pickle.UnpicklingError("it holds numbers that are not 8-bit pixels")
    return np.dtype("u1", False, True)  # a copy: the state that follows is set on it


def _encode(text: Any, encoding: Any) -> bytes:
    """How Python 3 writes bytes for Python 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("it holds text in an unknown encoding")
    return text.encode("latin1")


def parse(content: bytes) -> Content:
    """The images and labels of a batch file: a pickled dictionary with b"data", (n, 3072), and b"labels".

    Raises:
        BadFile: it holds anything else.
    """
    try:
        batch = _OnlyArrays(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # unpickling damaged content may raise anything
        raise BadFile(f"is not a batch of CIFAR-10 ({first_line(error)})") from None
    pixels, labels = (batch.get(name) for name in (b"data", b"labels")) if isinstance(batch, dict) else (None, None)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 2 or not len(pixels):
        raise BadFile("is not a batch of CIFAR-10: it has no array of pixels under 'data'")
    if pixels.shape[1] != np.prod(SHAPE):
        raise BadFile(f"holds images of {pixels.shape[1]} pixels instead of 3 x 32 x 32")
    if not isinstance(labels, list) or len(labels) != len(pixels) or not all(type(label) is int for label in labels):
        raise BadFile("is not a batch of CIFAR-10: it has no list of one label per image under 'labels'")
    if not all(0 <= label < 2**31 for label in labels):
        raise BadFile("holds labels out of range")
    return np.ascontiguousarray(pixels).reshape(-1, *SHAPE), np.array(labels, np.int64)


READER = make_reader(
    Published(
        torchvision_class="CIFAR10",
        split_argument="train",
        folder="cifar-10-batches-py",
        files={
            "train": {
                "data_batch_1": "c99cafc152244af753f735de768cd75f",
                "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
                "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
                "data_batch_4": "634d18415352ddfa80567beed471001a",
                "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            },
            "test": {"test_batch": "40351d587109b95175f43aff81a1287e"},
        },
        counts={"train": 50_000, "test": 10_000},
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        parse=parse,
    )
)
