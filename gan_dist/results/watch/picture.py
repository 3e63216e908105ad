"""A grid of images as text: half blocks with colours, Braille dots without; or ASCII characters, dense where bright."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from PIL import Image
from rich.style import Style
from rich.text import Text

from gan_dist.outputs.pictures import COLUMNS, GAP
from gan_dist.results.watch.plot import BRAILLE, DOTS
from gan_dist.results.watch.text import Abilities, Size, styled

RAMP = " .:-=+*#%@"  # from dark to bright
SEPARATION = 1  # pixels between images


@dataclass(frozen=True)
class Grid:
    """A grid of images from a run folder."""

    picture: Image.Image
    """Grey or RGB."""
    side: tuple[int, int] | None
    """Width and height of a single image in pixels; None: unknown."""
    by_class: bool
    """Whether each row is of a class."""

    @property
    def rows(self) -> int:
        """Rows of images; 0 if the picture is no grid of such images."""
        if self.side is None or self.picture.width != COLUMNS * (self.side[0] + GAP) + GAP:
            return 0
        rows, rest = divmod(self.picture.height - GAP, self.side[1] + GAP)
        return rows if rest == 0 else 0


@dataclass(frozen=True)
class Drawing:
    """A way to draw pixels as text."""

    across: int
    down: int
    """Pixels of a character."""
    smallest: int
    """Pixels of an image below which it can't be recognized."""
    draw: Callable[[Image.Image, Size], list[Text]]
    """Draws a picture of exactly across x down pixels for each character of the size."""


def draw_grid(grid: Grid, size: Size, abilities: Abilities) -> list[Text]:
    """Draw as many images of a grid as can be recognized: in large terminals all of them, in their places.

    Where only some fit, these are the first ones; of a grid with a row per class, the first ones of as many classes as
    possible.
    """
    if size.columns < 1 or size.rows < 1:
        return []
    drawing = HALF_BLOCKS if abilities.colours and abilities.unicode else DITHERED if abilities.unicode else DENSITY
    width, height = size.columns * drawing.across, size.rows * drawing.down
    canvas = _arrange(grid, width, height, drawing.smallest) if grid.rows else _reduce(grid.picture, width, height)
    columns, rows = -(-canvas.width // drawing.across), -(-canvas.height // drawing.down)  # rounded up
    whole = Image.new(canvas.mode, (columns * drawing.across, rows * drawing.down))
    whole.paste(canvas)
    return drawing.draw(whole, Size(columns, rows))


def _arrange(grid: Grid, width: int, height: int, smallest: int) -> Image.Image:
    """The images of a grid that fit into so many pixels, each with at least `smallest` pixels per side."""
    assert grid.side is not None
    room = [min(max((pixels + SEPARATION) // (smallest + SEPARATION), 1), most)
            for pixels, most in ((width, COLUMNS), (height, grid.rows))]  # fmt: skip
    across, down = room
    scale = min(
        ((width + SEPARATION) // across - SEPARATION) / grid.side[0],
        ((height + SEPARATION) // down - SEPARATION) / grid.side[1],
        1.0,
    )
    tile = Size(max(int(grid.side[0] * scale), 1), max(int(grid.side[1] * scale), 1))
    canvas = Image.new(
        grid.picture.mode,
        (across * (tile.columns + SEPARATION) - SEPARATION, down * (tile.rows + SEPARATION) - SEPARATION),
    )
    for place in range(across * down):
        row, column = divmod(place, across)
        if (across, down) == (COLUMNS, grid.rows):
            source = column, row
        elif grid.by_class:
            source = divmod(place, grid.rows)
        else:
            source = place % COLUMNS, place // COLUMNS
        left, top = (i * (side + GAP) + GAP for i, side in zip(source, grid.side, strict=True))
        image = grid.picture.crop((left, top, left + grid.side[0], top + grid.side[1]))
        canvas.paste(
            image.resize((tile.columns, tile.rows), Image.Resampling.BILINEAR),
            (column * (tile.columns + SEPARATION), row * (tile.rows + SEPARATION)),
        )
    return canvas


def _reduce(picture: Image.Image, width: int, height: int) -> Image.Image:
    """A picture in so many pixels, at most in its own size."""
    scale = min(width / picture.width, height / picture.height, 1.0)
    size = max(int(picture.width * scale), 1), max(int(picture.height * scale), 1)
    return picture.resize(size, Image.Resampling.BILINEAR)


def half_blocks(picture: Image.Image, size: Size) -> list[Text]:
    """Two pixels a character: the upper one is its colour, the lower one its background."""
    pixels = np.asarray(picture.convert("RGB")).reshape(size.rows, 2, size.columns, 3)
    lines = []
    for upper, lower in pixels.tolist():
        line = styled("")
        for (over, under), same in groupby(zip(upper, lower, strict=True)):
            style = Style.parse("rgb({},{},{}) on rgb({},{},{})".format(*over, *under))
            line.append("▀" * len([*same]), style)
        lines.append(line)
    return lines


def dithered(picture: Image.Image, size: Size) -> list[Text]:
    """Eight pixels a character, each a dot or none (Floyd & Steinberg 1976); bright pixels are dots."""
    dots = np.asarray(picture.convert("L").convert("1")).reshape(size.rows, 4, size.columns, 2)
    letters = BRAILLE + (dots * np.array(DOTS)[None, :, None, :]).sum(axis=(1, 3))
    # A space where there are no dots: some fonts draw the empty Braille character as circles.
    return [styled("".join(chr(code) if code > BRAILLE else " " for code in row)) for row in letters.tolist()]


def density(picture: Image.Image, size: Size) -> list[Text]:
    """Two pixels a character; bright pixels are dense characters."""
    means = np.asarray(picture.convert("L"), dtype=float).reshape(size.rows, 2, size.columns).mean(axis=1)
    levels = (means * len(RAMP) / 256).astype(int)
    return [styled("".join(RAMP[level] for level in row)) for row in levels.tolist()]


HALF_BLOCKS = Drawing(1, 2, 13, half_blocks)
DITHERED = Drawing(2, 4, 20, dithered)
DENSITY = Drawing(1, 2, 10, density)
