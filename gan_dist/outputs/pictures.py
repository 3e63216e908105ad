"""Image grids: generated samples of each epoch, real images, and a panel that compares epochs."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from gan_dist.data.pixels import quantize
from gan_dist.files import read_file, replacing
from gan_dist.outputs.folder import RunFolder

COLUMNS = 8
COUNT = COLUMNS * COLUMNS
GAP = 2  # pixels around each image
BACKGROUND = 128  # gray
PANEL_EPOCHS = (10, 50, 100, 300)
MAX_PICTURE_BYTES = 2**28


def save_grid(images: Float[Tensor, "n c h w"], file: Path) -> None:
    """Save up to 64 images in [-1, 1] as a PNG with 8 columns, atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        save_picture(quantize(images[:COUNT].float().cpu()), COLUMNS, temporary)


def save_picture(pixels: UInt8[Tensor, "n c h w"], columns: int, file: Path) -> None:
    """Save images as a grid on a gray background.

    Does not use torchvision's make_grid and save_image: importing torchvision loads torch's compiler, which doubles the
    processor time that a process takes to start.

    Args:
        pixels: n > 0 images with one or three channels.
        columns: images per row.
        file: its suffix selects one of Pillow's formats.
    """
    count, _, height, width = pixels.shape
    columns = min(columns, count)
    rows = -(-count // columns)  # rounded up
    canvas = torch.full((3, rows * (height + GAP) + GAP, columns * (width + GAP) + GAP), BACKGROUND, dtype=torch.uint8)
    for position, image in enumerate(pixels):
        top, left = ((height + GAP) * (position // columns) + GAP, (width + GAP) * (position % columns) + GAP)
        canvas[:, top : top + height, left : left + width] = image
    Image.fromarray(canvas.permute(1, 2, 0).contiguous().numpy()).save(file)


def save_samples(generator: nn.Module, latents: Float[Tensor, "n latent"], file: Path) -> None:
    """Save a grid of generated images. The latents of a run are fixed, so that its epochs can be compared."""
    with torch.no_grad():
        save_grid(generator(latents), file)


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
