"""Decodes one picture of any common format to uint8."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import UInt8

from gan_dist.files import BadFile, first_line

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
MAX_PIXELS = 64 * 2**20  # of a picture, from its header; a few kilobytes can declare billions
MAX_FILE_BYTES = 4 * MAX_PIXELS + 2**20  # the largest uncompressed BMP
BACKGROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0), "gray": (128, 128, 128)}  # as in CSS

# A reduction by a whole factor comes first, if the result is at least this many times the wanted size: that of the
# JPEG decoder, else a box filter. Lanczos does the rest. Compared with Lanczos alone, 1024 to 64 pixels take a fifth of
# the time in photographs and differ by 0.2 grey levels on average (56 dB), in drawings with sharp edges by 0.7 (47 dB).
# A factor of 2 would differ by up to 2.2 (39 dB).
REDUCING_GAP = 3.0

_ORIENTATION = 0x0112  # the EXIF tag
_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_GREY = ("1", "L")
_SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True)
class Rendering:
    """How pictures become pixels."""

    size: int | None
    """Side of the square result; None keeps the size of each picture."""
    background: tuple[int, int, int]
    """Colour behind transparent pixels, from 0 to 255."""


class Picture(NamedTuple):
    """A decoded picture."""

    pixels: UInt8[np.ndarray, "c h w"]
    """One channel if the file has only grey levels, else three, which may be equal."""
    width: int
    """Of the picture as it is shown, before it was resized."""
    height: int


def decode(content: bytes, rendering: Rendering) -> Picture:
    """Decode a picture: the first frame, rotated as its EXIF says, over the background, then resized and cropped.

    With a size, the short side is resized with antialiasing (Lanczos), then the center is cropped. A picture that
    already has this size keeps its pixels. 16 bits of grey are rounded to 8; of 16 bits in colour, Pillow keeps the
    upper 8. Colour profiles are not applied.

    Args:
        content: of the file. Its name does not matter.
        rendering: size and background.

    Raises:
        BadFile: the content is not a picture of FORMATS, is damaged or truncated, or has more than MAX_PIXELS.
    """
    try:
        return _decode(content, rendering)
    except BadFile:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything for damaged files
        raise BadFile(f"is damaged ({first_line(error)})") from error


def measure(content: bytes) -> tuple[int, int]:
    """Width and height of a picture as it is shown, from its header.

    Raises:
        BadFile: as in `decode`, as far as the header shows it.
    """
    try:
        image = _open(content)
        return _turned(image.size, _orientation(image))
    except BadFile:
        raise
    except Exception as error:
        raise BadFile(f"is damaged ({first_line(error)})") from error


def is_grey(pixels: UInt8[np.ndarray, "c h w"]) -> bool:
    """Whether all channels are equal."""
    return all(np.array_equal(pixels[0], channel) for channel in pixels[1:])


def to_channels(pixels: UInt8[np.ndarray, "c h w"], channels: int) -> UInt8[np.ndarray, "d h w"]:
    """Convert between one channel and three. Colours become luma (ITU-R BT.601), by which equal channels are kept."""
    if len(pixels) == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=0)
    if is_grey(pixels):
        return pixels[:1]
    red, green, blue = pixels.astype(np.uint32)
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).astype(np.uint8)[None]


def resize_square(pixels: UInt8[np.ndarray, "c h w"], size: int) -> UInt8[np.ndarray, "c size size"]:
    """Resize and crop an image of one or three channels as `decode` does with a size."""
    from PIL import Image

    resized = np.asarray(_square(Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)), size))
    return resized[None] if resized.ndim == 2 else resized.transpose(2, 0, 1)


def _decode(content: bytes, rendering: Rendering) -> Picture:
    image = _open(content)
    orientation = _orientation(image)
    width, height = _turned(image.size, orientation)
    if rendering.size is not None:
        gap = round(REDUCING_GAP * rendering.size)
        image.draft(None, (gap, gap))  # only JPEG's decoder can reduce; the others ignore it
    image.load()  # raises if the file is truncated
    flat = _turn(_flatten(image, rendering.background), orientation)
    if rendering.size is not None:
        flat = _square(flat, rendering.size)
    pixels = np.asarray(flat)
    return Picture(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1), width, height)


def _open(content: bytes) -> Image.Image:
    """Read the header."""
    from PIL import Image, UnidentifiedImageError

    if not content:
        raise BadFile("is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures, which are refused below, and of odd metadata
            image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise BadFile("is not a PNG, JPEG, WebP, BMP or GIF, or its header is damaged") from None
    except Image.DecompressionBombError:
        raise BadFile(f"has more than the {MAX_PIXELS:,} pixels that are supported") from None
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width:,}x{image.height:,}"
        raise BadFile(f"has {size} pixels, more than the {MAX_PIXELS:,} that are supported")
    return image


def _orientation(image: Image.Image) -> int:
    """From 1, upright, to 8. Damaged EXIF data count as upright, as in browsers."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1
    return value if value in range(1, 9) else 1


def _turned(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Width and height after `_turn`."""
    return size if orientation < 5 else (size[1], size[0])


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    """Rotate and mirror an image so that it is upright."""
    from PIL.Image import Transpose

    if orientation == 1:
        return image
    methods = (
        *(Transpose.FLIP_LEFT_RIGHT, Transpose.ROTATE_180, Transpose.FLIP_TOP_BOTTOM, Transpose.TRANSPOSE),
        *(Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90),
    )
    return image.transpose(methods[orientation - 2])


def _flatten(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Convert any mode to L (grey) or RGB, over the background."""
    from PIL import Image

    if image.mode in _SIXTEEN_BIT:
        values = np.asarray(image).astype(np.int64).clip(0, 65_535)
        return Image.fromarray(((values * 255 + 32_767) // 65_535).astype(np.uint8))
    transparent = image.mode in _WITH_ALPHA or "transparency" in image.info
    if not transparent:
        return image.convert("L" if image.mode in _GREY else "RGB")
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    # Pasting keeps opaque pixels exactly. Where all are opaque, grey stays grey.
    if image.mode in (*_GREY, "LA", "La") and len({*background}) == 1:
        flat = Image.new("L", image.size, background[0])
        flat.paste(rgba.getchannel("R"), (0, 0), alpha)
        return flat
    flat = Image.new("RGB", image.size, background)
    flat.paste(rgba.convert("RGB"), (0, 0), alpha)
    return flat


def _square(image: Image.Image, size: int) -> Image.Image:
    """Resize the short side to `size` and crop the center."""
    from PIL.Image import Resampling

    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    box = (left, top, left + short, top + short)
    if short == size:
        return image.crop(box)
    # The filter also reads beyond the box, as if the whole image were resized and then cropped.
    return image.resize((size, size), Resampling.LANCZOS, box, REDUCING_GAP)
