"""Animations as GIF, WebP or MP4."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from gan_dist.config import InputError
from gan_dist.config.extras import require_packages
from gan_dist.outputs.pictures import BACKGROUND
from gan_dist.results.output import output_file

WIDTH = 600  # pixels up to which small pictures are enlarged
MAX_PIXELS = 5 * 10**8  # of all frames, which Pillow needs at once
GIF_UNIT = 10  # milliseconds


class Frame(NamedTuple):
    """A frame of an animation. All frames of one have the same size and mode, L or RGB."""

    picture: Image.Image
    seconds: float


class AnimationFormat(NamedTuple):
    """How an animation is written."""

    write: Callable[[Iterator[Frame], Path, int], None]
    """(frames, file, frames per second)."""
    packages: tuple[str, ...] = ()
    """Modules that it needs, of the extra video."""


def check_format(output: Path) -> None:
    """Check that an output can be written.

    Raises:
        InputError: its suffix is unknown, or a package is not installed.
    """
    if output.suffix not in ANIMATIONS:
        raise InputError(f"output={output} must end in {' or '.join(ANIMATIONS)}")
    require_packages(f"output={output}", "video", ANIMATIONS[output.suffix].packages)


def write_animation(frames: Iterable[Frame], output: Path, fps: int) -> None:
    """Write an animation that repeats for ever, as far as its format can say so.

    Args:
        frames: are drawn as they are needed.
        output: the file to write.
        fps: frames per second of the fastest ones.

    Raises:
        InputError: it can't be written.
    """
    with output_file(output) as beside:
        ANIMATIONS[output.suffix].write(iter(frames), beside, fps)


def find_scale(width: int, scale: int | None) -> int:
    """By how much pictures are enlarged: the given factor, or the largest that keeps them within WIDTH."""
    return scale or max(1, WIDTH // width)


def check_size(frames: int, width: int, height: int) -> None:
    """Check that an animation is not too large.

    Raises:
        InputError: it is.
    """
    if frames * width * height > MAX_PIXELS:
        raise InputError(
            f"{frames:,} frames of {width:,} x {height:,} pixels are too large; use fewer --frames, or a lower --scale"
        )


def enlarge(picture: Image.Image, scale: int) -> Image.Image:
    """Repeat each pixel, horizontally and vertically."""
    return picture.resize((scale * picture.width, scale * picture.height), Image.Resampling.NEAREST)


def _write_gif(frames: Iterator[Frame], file: Path, fps: int) -> None:
    _write_by_pillow(frames, file, "GIF", GIF_UNIT)


def _write_webp(frames: Iterator[Frame], file: Path, fps: int) -> None:
    _write_by_pillow(frames, file, "WEBP", 1, quality=80, method=4)


def _write_by_pillow(frames: Iterator[Frame], file: Path, form: str, unit: int, **options: object) -> None:
    """Write a GIF or WebP.

    Args:
        frames: of the animation.
        file: to write.
        form: Pillow's name of the format.
        unit: milliseconds of which durations are multiples.
        options: of Pillow's writer.
    """
    drawn = list(frames)
    # Rounded ends, so that the errors of the durations do not add up.
    ends = [round(1000 * end / unit) * unit for end in itertools.accumulate(frame.seconds for frame in drawn)]
    durations = [end - before for before, end in itertools.pairwise([0, *ends])]
    first, *others = [frame.picture for frame in drawn]
    first.save(file, form, save_all=True, append_images=others, duration=durations, loop=0, **options)


def _write_mp4(frames: Iterator[Frame], file: Path, fps: int) -> None:
    import imageio_ffmpeg  # whose own writer does not tell when ffmpeg fails

    first = next(frames)
    width, height = (side + side % 2 for side in first.picture.size)  # as the codec requires
    pixels = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps}", "-i", "-"]
    # yuv420p and the index at the beginning are what browsers need.
    codec = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20", "-movflags", "+faststart", "-f", "mp4"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *pixels, *codec, f"file:{file}"]
    with tempfile.TemporaryFile() as messages:
        # ffmpeg has the reason for a closed pipe.
        with (
            contextlib.suppress(BrokenPipeError),
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=messages) as ffmpeg,
        ):
            assert ffmpeg.stdin is not None
            for frame in itertools.chain([first], frames):
                canvas = Image.new("RGB", (width, height), (BACKGROUND,) * 3)
                canvas.paste(frame.picture)
                for _ in range(max(1, round(frame.seconds * fps))):
                    ffmpeg.stdin.write(canvas.tobytes())
        if ffmpeg.returncode:
            messages.seek(0)
            reason = messages.read().decode(errors="replace").partition("\n")[0]
            raise OSError(f"ffmpeg: {reason.rpartition('] ')[2] or f'exit code {ffmpeg.returncode}'}")


# Suffix of the output -> format.
ANIMATIONS = {
    ".gif": AnimationFormat(_write_gif),
    ".webp": AnimationFormat(_write_webp),
    ".mp4": AnimationFormat(_write_mp4, ("imageio_ffmpeg",)),
}
