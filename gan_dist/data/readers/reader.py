"""What a reader is. Readers use numpy, not torch: a command reports missing data within a fraction of a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from jaxtyping import Int64, UInt8
from numpy import ndarray

from gan_dist.config import DataConfig, InputError
from gan_dist.data.spec import DataSpec, Split

MIN_COMPARED = 20  # images; comparisons need at least this many: the kernel distance uses 10 blocks of 2


class NoHeldOut(InputError):
    """There are no held-out images, or too few. Callers may skip what needs them."""


@dataclass(frozen=True)
class Provenance:
    """The entry of environment.json about the data."""

    name: str
    source: str
    """local, download or sample."""
    file: str
    count: int
    sha256: str
    """Of the pixels, image by image."""
    verified: str
    fallback: str | None = None
    """Why a source was used that was not the first choice; None if it was."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class RawImages:
    """The images of one split, as a reader returns them."""

    pixels: UInt8[ndarray, "n c h w"]
    """From 0, black, to 255, white. Contiguous. May be a np.memmap of this split alone (filename, offset and shape say
    where it is), opened copy-on-write, since torch warns about read-only arrays."""
    labels: Int64[ndarray, " n"] | None
    """The class of each image, from 0; None if the images have no labels."""
    spec: DataSpec
    """Of the whole data set, the same for both splits."""
    provenance: Provenance
    """Of this split."""
    stack: int = 1
    """Number of stored images that are combined into one as its channels."""
    notes: tuple[str, ...] = ()
    """What `gan-dist data` says about the files, one line each."""


@dataclass(frozen=True)
class Context:
    """What a reader may use while it reads."""

    announce: Callable[[str], None]
    """Called with one line per fact that the user may not expect."""
    stop_requested: Callable[[], bool] = lambda: False
    """Polled several times per second during a download or a preparation. If it returns True, the reader raises Stopped
    and keeps nothing."""


class Reader(NamedTuple):
    """A format of data sets."""

    read: Callable[[DataConfig, Split, Context], RawImages]
    """Reads one split. Raises InputError if the data can't be used, NoHeldOut if there is no such split or it has fewer
    images than MIN_COMPARED, and Stopped."""
    check: Callable[[DataConfig], None]
    """Raises InputError if the data are certainly missing. Takes a fraction of a second and imports no torch."""
