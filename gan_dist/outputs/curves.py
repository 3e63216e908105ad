"""Draws the losses and scores of a run from metrics.jsonl."""

from __future__ import annotations

import math

from gan_dist.files import replacing
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json_lines


def draw_curves(folder: RunFolder) -> None:
    """Draw both losses, and the discriminator's mean score of real and of generated images, over the epochs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_json_lines(folder.metrics)
    epochs = [row["epoch"] for row in rows]

    def figures(name: str) -> list[float]:
        return [math.nan if row.get(name) is None else float(row[name]) for row in rows]

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    losses, scores = figure.subplots(1, 2)
    losses.plot(epochs, figures("loss/discriminator"), label="discriminator")
    losses.plot(epochs, figures("loss/generator"), label="generator")
    losses.set(title="losses", xlabel="epoch", ylim=(0, None))
    scores.plot(epochs, figures("score/real"), label="real_score: D(x)")
    scores.plot(epochs, figures("score/fake"), label="fake_score: D(G(z))")
    scores.axhline(0.5, color="gray", linewidth=0.8, linestyle="--")
    scores.set(title="scores", xlabel="epoch", ylim=(0, 1))
    for axis in (losses, scores):
        axis.legend()
        axis.grid(alpha=0.3)
    with replacing(folder.curves) as temporary:
        figure.savefig(temporary, dpi=100)
