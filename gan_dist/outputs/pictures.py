"""Image grids: generated samples of each epoch, real images, and a panel that compares epochs."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor, nn

from gan_dist.data.pixels import quantize
from gan_dist.files import read_file, replacing
from gan_dist.outputs.folder import RunFolder

COLUMNS = 8
COUNT = COLUMNS * COLUMNS
MAX_ROWS = 40  # classes in a grid
GAP = 2  # pixels around each image
BACKGROUND = 128  # gray
PANEL_EPOCHS = (10, 50, 100, 300)
MAX_PICTURE_BYTES = 2**28


def save_grid(images: Float[Tensor, "n c h w"], file: Path) -> None:
    """Save images in [-1, 1] as a PNG with 8 columns, atomically."""
    save_pixels(quantize(images.float().cpu()), file)


def save_pixels(pixels: UInt8[Tensor, "n c h w"], file: Path) -> None:
    """The same for pixels in 0..255, on the host."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        save_picture(pixels, COLUMNS, temporary)


def first_of_classes(labels: Int64[Tensor, " n"], classes: int) -> Int64[Tensor, " selected"]:
    """Indices of images for a grid with one row per class: the first 8 of each of the first 40 classes.

    A class with fewer images repeats them; one without images has no row.

    Args:
        labels: of the images, in the order in which they are wanted.
        classes: number of classes.
    """
    rows = [(labels == label).nonzero().flatten() for label in range(min(classes, MAX_ROWS))]
    return torch.cat([row[torch.arange(COLUMNS) % len(row)] for row in rows if len(row)])


def save_picture(pixels: UInt8[Tensor, "n c h w"], columns: int, file: Path) -> None:
    """Save the grid of `draw_grid`. The suffix of the file selects one of Pillow's formats."""
    draw_grid(pixels, columns).save(file)


def draw_grid(pixels: UInt8[Tensor, "n c h w"], columns: int) -> Image.Image:
    """Draw images as a grid on a gray background.

    Does not use torchvision's make_grid and save_image: importing torchvision loads torch's compiler, which doubles the
    processor time that a process takes to start.

    Args:
        pixels: n > 0 images with one or three channels.
        columns: images per row.
    """
    count, _, height, width = pixels.shape
    columns = min(columns, count)
    rows = -(-count // columns)  # rounded up
    canvas = torch.full((3, rows * (height + GAP) + GAP, columns * (width + GAP) + GAP), BACKGROUND, dtype=torch.uint8)
    for position, image in enumerate(pixels):
        top, left = ((height + GAP) * (position // columns) + GAP, (width + GAP) * (position % columns) + GAP)
        canvas[:, top : top + height, left : left + width] = image
    return Image.fromarray(canvas.permute(1, 2, 0).contiguous().numpy())


def generate_pixels(
    generator: nn.Module, latents: Float[Tensor, "n latent"], labels: Int64[Tensor, " n"] | None
) -> UInt8[Tensor, "n c h w"]:
    """The pixels of generated images, on the device. The inputs of a run are fixed, so its epochs can be compared."""
    with torch.no_grad():
        return quantize(generator(latents, labels).float())


def draw_panel(folder: RunFolder) -> None:
    """Draw the real images and the grids of epochs 10, 50, 100 and 300, as far as the run reached them.

    If it reached none of them, draw the grid of its last epoch.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    reached = folder.epochs_with_samples()
    epochs = [epoch for epoch in PANEL_EPOCHS if epoch in reached] or reached[-1:]
    pictures = [("real images", folder.real_samples)]
    pictures += [(f"epoch {epoch}", folder.epoch_samples(epoch)) for epoch in epochs]
    figure = Figure(figsize=(3 * len(pictures), 3.3), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (title, file) in zip(figure.subplots(1, len(pictures), squeeze=False)[0], pictures, strict=True):
        axis.imshow(imread(io.BytesIO(read_file(file, MAX_PICTURE_BYTES))), cmap="gray")
        axis.set_title(title)
        axis.axis("off")
    with replacing(folder.panel) as temporary:
        figure.savefig(temporary, dpi=100)
