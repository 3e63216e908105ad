"""The tables of the GPU model: its predictions, and its errors where something is published.

    python benchmarks/gpu_tables.py [--write docs/scaling.md]

Prints Markdown, or replaces what a page has between its lines <!-- gpu-model --> and <!-- /gpu-model -->. See
gpu_model.py for the model.
"""

from __future__ import annotations

import argparse
import functools
import math
import textwrap
from collections.abc import Iterable
from pathlib import Path

from gpu_figures import ALL_REDUCES, COUNTS, PUBLISHED, SOURCES, Published
from gpu_model import LOCAL, OPERATIONS, all_reduce, efficiency, image_seconds, launch_bound, limits, step

from gan_dist.config import PRESETS

BATCHES = (1024, 8192)
LARGE = (8192, 65536)  # batches of 512 GPUs
DERIVED = 64  # the batch of pictures of 64 x 64 pixels, which is derived from the data


def published_step(row: Published, host: float, fixed: float, per_image: float) -> float:
    """Milliseconds of a step in the form of `step`: passes x max(host, fixed + images x time of an image)."""
    passes = row.batch // (row.gpus * row.images)
    return passes * max(host, fixed + per_image * row.images)


@functools.cache
def check(rows: tuple[Published, ...]) -> dict[Published, float]:
    """Relative errors of the model.

    `host` and `fixed` are fitted to the rows of 128 pixels and grow with the number of resolutions; the time of an
    image is that of one GPU at each resolution. The all-reduces (some 3 ms) are left out.
    """
    times = {row: row.batch * row.seconds for row in rows}
    small = [row for row in rows if row.side == 128]
    one = {row.side: row for row in rows if row.gpus == 1}

    def errors(some: Iterable[Published], host: float, fixed: float) -> dict[Published, float]:
        found = {}
        for row in some:
            levels = (math.log2(row.side) - 1) / 6  # 4 to 128 pixels are 6 resolutions
            alone = one[row.side]
            passes = alone.batch // alone.images
            per_image = (times[alone] / passes - levels * fixed) / alone.images
            found[row] = published_step(row, levels * host, levels * fixed, per_image) / times[row] - 1
        return found

    whole = times[one[128]] / (one[128].batch // one[128].images)
    grid = [(whole * h / 50, whole * f / 100) for h in range(50) for f in range(50)]
    host, fixed = min(grid, key=lambda pair: max(abs(error) for error in errors(small, *pair).values()))
    return errors(rows, host, fixed)


# --- the tables


def table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)] + [""]


def sections() -> list[str]:
    """The tables, as lines of Markdown."""
    lines = []
    for text, (head, rows) in (
        ("Numbers and sources:", (["part", "source"], [list(row) for row in SOURCES])),
        (
            "Time of a step on one H100, bf16. *Bound by launches*: the largest batch with which a step takes less "
            "than twice as long as an empty one. **Predicted**:",
            _one_gpu(),
        ),
        (
            f"GPUs that are useful, H100 in hosts of {LOCAL}, bf16: the most GPUs with an efficiency of 50 %; the "
            "GPUs beyond which a step gets no shorter, and the speedup there. *1*: a second GPU gains nothing. "
            "**Predicted**:",
            _useful(),
        ),
        ("512 GPUs, with graphs: time of a step, speedup over one GPU and efficiency. **Predicted**:", _large()),
        ("Error of NCCL's model against measured all-reduces:", _reduces()),
        ("Error of the time of a step against published runs; in italics, what was fitted:", _published()),
    ):
        lines += [*textwrap.wrap(text, 120), "", *table(head, rows)]
    return lines[:-1]


def digits(value: float) -> str:
    """Two significant digits."""
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"


def signed(error: float) -> str:
    """A relative error in percent."""
    percent = round(100 * error)
    return f"{percent:+d} %" if percent else "0 %"


def _one_gpu() -> tuple[list[str], Iterable[list[str]]]:
    head = ["preset", "operations", "GFLOP per image", "all-reduces (MB)", "batch 128: eager, graphs (ms)"]
    head += ["bound by launches: eager, graphs", "images/s from a file"]
    rows = []
    for preset, counts in COUNTS.items():
        row = [f"`{preset}`", str(OPERATIONS[preset, "bf16", "plain"][0]), digits(counts.flops / 1e9)]
        row += [f"{4e-6 * counts.discriminator:.1f}, {4e-6 * counts.generator:.1f}"]
        row += [", ".join(digits(1e3 * step(preset, 128, 1, graphs)) for graphs in (False, True))]
        row += [", ".join(f"{launch_bound(preset, graphs):,}" for graphs in (False, True))]
        rows.append([*row, digits(1 / image_seconds(preset))])
    return head, rows


def _useful() -> tuple[list[str], Iterable[list[str]]]:
    head = ["preset", "mode", "its own batch", *(f"batch {batch:,}" for batch in BATCHES)]
    rows = []
    for preset in COUNTS:
        for graphs, name in ((False, "eager"), (True, "graphs")):
            own = PRESETS[preset]().train.batch_size or DERIVED
            found = [limits(preset, batch, graphs) for batch in (own, *BATCHES)]
            cells = [f"{half}; {fastest} ({speedup:.1f} x)" if fastest > 1 else "1" for half, fastest, speedup in found]
            rows.append([f"`{preset}`", name, f"{own}: {cells[0]}", *cells[1:]])
    return head, rows


def _large() -> tuple[list[str], Iterable[list[str]]]:
    rows = []
    for preset in COUNTS:
        row = [f"`{preset}`"]
        for batch in LARGE:
            kept = efficiency(preset, batch, 512, True)
            row.append(f"{digits(1e3 * step(preset, batch, 512, True))} ms, {digits(512 * kept)} x ({kept:.0%})")
        rows.append(row)
    return ["preset", *(f"batch {batch:,}" for batch in LARGE)], rows


def _reduces() -> tuple[list[str], Iterable[list[str]]]:
    rows = []
    for machine, gpus, size, measured, source in ALL_REDUCES:
        predicted = 1e6 * all_reduce(size, gpus, machine)
        row = [machine.name, str(gpus), f"{size:,}", f"{measured:,.1f}", f"{predicted:,.1f}"]
        rows.append([*row, signed(predicted / measured - 1), source])
    return ["machine", "GPUs", "bytes", "measured (us)", "model (us)", "error", "source"], rows


def _published() -> tuple[list[str], Iterable[list[str]]]:
    rows = []
    for name, published in PUBLISHED.items():
        errors = check(published)
        for side in (128, 256, 512, 1024):
            here = {row.gpus: row for row in published if row.side == side}
            kept = here[1].seconds / here[8].seconds / 8
            shown = [signed(errors[row]) for row in here.values()]
            shown = [f"*{text}*" if side == 128 or i == 0 else text for i, text in enumerate(shown)]
            rows.append([name, str(side), f"{kept:.0%}", *shown])
    return ["run", "side", "efficiency on 8", "1 GPU", "2", "4", "8"], rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, default=None, help="a page whose tables are replaced")
    page = parser.parse_args().write
    text = "\n".join(sections())
    if page is None:
        print(text)
        return
    before, _, rest = page.read_text().partition("<!-- gpu-model -->\n")
    _, end, after = rest.partition("<!-- /gpu-model -->\n")
    if not end:
        parser.error(f"{page} lacks the lines <!-- gpu-model --> and <!-- /gpu-model -->")
    page.write_text(f"{before}<!-- gpu-model -->\n\n{text}\n\n{end}{after}")


if __name__ == "__main__":
    main()
