"""The sample grids of a run as an animation: the same latents after each epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from gan_dist.config import InputError
from gan_dist.files import BadFile
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.pictures import BACKGROUND
from gan_dist.results.animation import Frame, check_size, enlarge
from gan_dist.results.report.pictures import read_picture, spread

TEXT = 16  # pixels: height of the captions' letters
LAST = 2.0  # seconds for which the last epoch is shown


def epochs_over_time(run: Path, count: int) -> tuple[RunFolder, list[int]]:
    """The epochs to show: at most `count`, more of the early ones.

    Args:
        run: its folder; it may still be training.
        count: number of epochs.

    Raises:
        InputError: it holds no run, or no sample grids yet.
    """
    folder = RunFolder(run)
    folder.check_holds_a_run()
    if not (epochs := folder.epochs_with_samples()):
        raise InputError(
            f"{run} holds no sample grids yet; they are written after an epoch (--samples.every-epochs), in samples/"
        )
    return folder, spread(epochs, count)


def readable_grids(
    folder: RunFolder, epochs: Sequence[int], announce: Callable[[str], None]
) -> list[tuple[int, Image.Image]]:
    """The grids of epochs, all of the size and mode of the last.

    Args:
        folder: of the run.
        epochs: in order.
        announce: called with one line for each grid that is skipped.

    Raises:
        InputError: there is no readable one, or they are too large for an animation.
    """
    found: list[tuple[int, Image.Image]] = []
    for epoch in reversed(epochs):
        file = folder.epoch_samples(epoch)
        try:
            picture = read_picture(file)
        except BadFile as error:
            announce(f"{file} {error}; it is skipped")
            continue
        if found and picture.size != found[0][1].size:
            announce(f"{file} has another size than the last grid; it is skipped")
            continue
        if not found:
            check_size(len(epochs), *picture.size)  # before all of them are in memory
        found.append((epoch, picture))
    if not found:
        raise InputError(f"{folder.samples} holds no readable grid; the files are damaged")
    mode = "RGB" if any(picture.mode == "RGB" for _, picture in found) else "L"
    return [(epoch, picture.convert(mode)) for epoch, picture in reversed(found)]


def caption_height(width: int) -> int:
    """Pixels below a picture of this width that its caption takes."""
    return 2 * TEXT if width >= 6 * TEXT else 0


def draw_over_time(grids: Sequence[tuple[int, Image.Image]], scale: int, seconds: float) -> Iterator[Frame]:
    """Draw each grid, enlarged, with its epoch below it."""
    font = ImageFont.load_default(TEXT)
    for epoch, grid in grids:
        picture = enlarge(grid, scale)
        canvas = Image.new(grid.mode, (picture.width, picture.height + caption_height(picture.width)))
        canvas.paste(BACKGROUND if grid.mode == "L" else (BACKGROUND,) * 3, (0, 0, *canvas.size))
        canvas.paste(picture)
        if canvas.height > picture.height:
            white = 255 if grid.mode == "L" else (255, 255, 255)
            place = (picture.width // 2, picture.height + TEXT)
            ImageDraw.Draw(canvas).text(place, f"epoch {epoch}", white, font, anchor="mm")
        yield Frame(canvas, LAST if epoch == grids[-1][0] else seconds)
