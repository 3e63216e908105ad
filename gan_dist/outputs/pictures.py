"""Pictures of what the generator makes: the grid of each epoch, the real images beside it, the panel of milestones."""

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
GREY = 128
MILESTONES = (10, 50, 100, 300)
MAX_PICTURE_BYTES = 2**28


def save_grid(images: Float[Tensor, "n c h w"], file: Path) -> None:
    """Save up to 64 images in [-1, 1] as a PNG, 8 in a row, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as beside:
        save_picture(quantize(images[:COUNT].float().cpu()), COLUMNS, beside)


def save_picture(pixels: UInt8[Tensor, "n c h w"], columns: int, file: Path) -> None:
    """Save images side by side, on grey.

    Not torchvision's make_grid and save_image: importing torchvision loads torch's compiler, which doubles the
    processor time that a process takes to start.

    Args:
        pixels: n > 0 images of one channel or three.
        columns: images in a row.
        file: of any format that Pillow knows by its ending.
    """
    count, _, height, width = pixels.shape
    columns = min(columns, count)
    rows = -(-count // columns)  # rounded up
    canvas = torch.full((3, rows * (height + GAP) + GAP, columns * (width + GAP) + GAP), GREY, dtype=torch.uint8)
    for place, image in enumerate(pixels):
        top, left = ((height + GAP) * (place // columns) + GAP, (width + GAP) * (place % columns) + GAP)
        canvas[:, top : top + height, left : left + width] = image
    Image.fromarray(canvas.permute(1, 2, 0).contiguous().numpy()).save(file)


def save_samples(generator: nn.Module, latents: Float[Tensor, "n latent"], file: Path) -> None:
    """Save what `generator` makes of a fixed set of latents: the same ones every time, so that epochs compare."""
    with torch.no_grad():
        save_grid(generator(latents), file)


def draw_panel(folder: RunFolder) -> None:
    """Draw the real images and the grids after 10, 50, 100 and 300 epochs, those that the run reached, side by side.

    A run that reached none of them shows its last epoch.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    reached = folder.epochs_with_samples()
    epochs = [epoch for epoch in MILESTONES if epoch in reached] or reached[-1:]
    pictures = [("real images", folder.real_samples)]
    pictures += [(f"epoch {epoch}", folder.epoch_samples(epoch)) for epoch in epochs]
    figure = Figure(figsize=(3 * len(pictures), 3.3), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (title, file) in zip(figure.subplots(1, len(pictures), squeeze=False)[0], pictures, strict=True):
        axis.imshow(imread(io.BytesIO(read_file(file, MAX_PICTURE_BYTES))), cmap="gray")
        axis.set_title(title)
        axis.axis("off")
    with replacing(folder.panel) as beside:
        figure.savefig(beside, dpi=100)
