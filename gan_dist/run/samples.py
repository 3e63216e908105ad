"""Pictures of what the generator makes: the grid of each epoch, the real images beside it, the panel of milestones."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.utils import make_grid, save_image

from gan_dist.data.dataset import denormalize
from gan_dist.files import read_file, replacing
from gan_dist.run.folder import RunFolder

COLUMNS = 8
COUNT = COLUMNS * COLUMNS
MILESTONES = (10, 50, 100, 300)
MAX_PICTURE_BYTES = 2**28


def save_grid(images: Float[Tensor, "n c h w"], file: Path) -> None:
    """Save images in [-1, 1] as a PNG, 8 in a row, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    grid = make_grid(denormalize(images[:COUNT].float().cpu()), nrow=COLUMNS, padding=2, pad_value=0.5)
    with replacing(file) as beside:
        save_image(grid, beside)


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
