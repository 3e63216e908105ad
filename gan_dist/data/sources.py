"""Loads the images of a configuration with the reader of its data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from gan_dist.config import DataConfig
from gan_dist.data.images import ImageSet, to_image_set
from gan_dist.data.readers import reader_for
from gan_dist.data.readers.reader import Context


def load_images(
    config: DataConfig, announce: Callable[[str], None], stop_requested: Callable[[], bool] = lambda: False
) -> ImageSet:
    """Load the training images, with their labels if there are any.

    Args:
        config: the data set and its sources. If the source is not "auto", only this one is tried. Local files are not
            downloaded again.
        announce: called with one line per fact that the user may not expect, such as a fallback.
        stop_requested: polled several times per second during a download or a preparation.

    Raises:
        InputError: no source has the data, or a file is damaged.
        Stopped: `stop_requested` returned True. Nothing was kept.
    """
    return to_image_set(reader_for(config.name).read(config, "train", Context(announce, stop_requested)))


def load_held_out(config: DataConfig, announce: Callable[[str], None]) -> ImageSet:
    """Load the held-out images. For the arguments, see `load_images`.

    Raises:
        NoHeldOut: there are none, or fewer than MIN_COMPARED.
        InputError: as in `load_images`.
    """
    return to_image_set(reader_for(config.name).read(config, "test", Context(announce)))


def pin_source(config: DataConfig, source: str) -> DataConfig:
    """The configuration that loads the same images again, without a download: downloaded files are local by now.

    Args:
        config: as passed to `load_images`.
        source: of the returned provenance.
    """
    return dataclasses.replace(config, source="sample" if source == "sample" else "local")
