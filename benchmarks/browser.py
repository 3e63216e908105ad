"""Generators in a browser: the size of the page of `gan-dist export`, its opening time, and images per second.

    python benchmarks/browser.py [--repeats 5] [--seconds 3] [--picture FILE.png] [RUN …]

Without RUN, one page is made for each preset, with untrained networks of its sizes (pictures: 64 x 64 in colour;
cifar10: 32 to 128 channels instead of 768). Each is opened in headless Chromium.

- weights: their number, and the precision that the export chose. It depends on the weights: for the sizes that matter,
  give runs that were trained.
- opened: median time from the start of the navigation to the first image, in milliseconds.
- ms per image: of the generator alone, in a loop.
- frames/s: of a walk as the page plays it. Chromium draws at most 60 per second.

--picture saves a screenshot of the last page.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from gan_dist import cli
from gan_dist.config import PRESETS, Config, to_dict
from gan_dist.config.derived import derive
from gan_dist.data.spec import DataSpec
from gan_dist.models import build_pair
from gan_dist.outputs.checkpoint import save_generator
from gan_dist.results.generator import load_generator

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from chromium import browsing, open_page

SHAPES = {"stacked": (3, 28, 28), "pictures": (3, 64, 64), "cifar10": (3, 32, 32)}
CLASSES = tuple("0123456789")
LOOP = """
const {explorer} = document.querySelector(".gan-explorer"), started = performance.now();
const latent = new Float32Array(explorer.data.latent_dim).fill(0.5);
let images = 0;
while (performance.now() - started < arguments[0]) { explorer.generate(latent); images++; }
return (performance.now() - started) / images;
"""
WALK = """
const [milliseconds, done] = arguments, started = performance.now();
let frames = 0;
document.querySelector('[data-action="walk"]').click();
const count = () => {
  frames++;
  const passed = performance.now() - started;
  passed < milliseconds ? requestAnimationFrame(count) : done(1000 * frames / passed);
};
requestAnimationFrame(count);
"""
READY = 'return performance.getEntriesByName("explorer-ready").map((mark) => mark.startTime)[0] ?? null'


def sized(name: str, shape: tuple[int, int, int]) -> Config:
    """A preset with the settings that follow from its data."""
    config = PRESETS[name]()
    if name == "cifar10":
        config = dataclasses.replace(
            config, model=dataclasses.replace(config.model, channels=32, max_channels=128, label_dim=16)
        )
    return derive(config, shape, 10_000)[0]


def untrained(name: str, folder: Path) -> Path:
    """A generator's file with the initial weights of a preset."""
    shape = SHAPES.get(name, (1, 28, 28))
    config = sized(name, shape)
    classes = CLASSES if config.model.conditional else None
    generator, _ = build_pair(config.model, shape, 0, len(classes or ()))
    spec = DataSpec(config.data.name, shape, classes, 10_000, 0, "digits")
    metadata = {"config": json.dumps(to_dict(config)), "data": json.dumps(spec.to_dict()), "step": "0"}
    file = folder / f"{name}.safetensors"
    save_generator(file, generator.state_dict(), metadata | {"class_counts": json.dumps([1_000] * 10)})
    return file


def measure(driver: Any, page: Path, repeats: int, seconds: float) -> tuple[float, float, float]:
    """Milliseconds until the first image, milliseconds per image, and frames per second of a walk."""
    opened = []
    for _ in range(repeats):
        open_page(driver, page)
        while (ready := driver.execute_script(READY)) is None:
            time.sleep(0.02)
        opened.append(ready)
    each = driver.execute_script(LOOP, 1000 * seconds)
    return median(opened), each, driver.execute_async_script(WALK, 1000 * seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    table = Table("generator", "image", "weights", "page, MB", "opened, ms", "ms per image", "frames/s")
    with tempfile.TemporaryDirectory() as folder, browsing() as driver:
        for run in arguments.runs or [untrained(name, Path(folder)) for name in PRESETS]:
            page = Path(folder) / f"{run.stem}.html"
            with contextlib.redirect_stdout(io.StringIO()) as output:
                words = [] if run.suffix else ["--discriminator"]
                assert cli.main(["export", str(run), "--output", str(page), *words]) == 0
            precision = "float16" if "float16" in output.getvalue() else "float32"
            generator = load_generator(run)
            weights = sum(tensor.numel() for tensor in generator.parameters())
            channels, height, width = generator.shape  # type: ignore[misc]
            opened, each, frames = measure(driver, page, arguments.repeats, arguments.seconds)
            size = f"{page.stat().st_size / 1e6:.2f}"
            described = f"{weights:,} {precision}", size, f"{opened:.0f}", f"{each:.2f}", f"{frames:.0f}"
            table.add_row(run.stem, f"{width}x{height}x{channels}", *described)
        if arguments.picture is not None:
            open_page(driver, page)
            time.sleep(2)  # until the pad has its images
            driver.save_screenshot(str(arguments.picture))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
