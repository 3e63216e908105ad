"""A generator that runs in a web page: its data, and a fragment of HTML with the controls.

`explorer` returns what any page can include. `html.py` makes a page of it that has nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jinja2
from torch import nn

from gan_dist.config import Config, InputError, Weights, package_version
from gan_dist.models.cost import count_weights
from gan_dist.results.classes import choose_labels
from gan_dist.results.export.directions import affordable_latents, principal_directions
from gan_dist.results.export.layers import describe_network
from gan_dist.results.export.opinion import pack_discriminator
from gan_dist.results.export.weights import MAX_GREY_LEVELS, choose_precision, encode, pack_network
from gan_dist.results.generator import generator_file, is_generator_file, read_generator
from gan_dist.results.sample import generate_images

DIRECTIONS = 8  # sliders
SEED = 1
CHECKED, FEWEST_CHECKED = 1_000, 16  # images whose pixels must not depend on the precision of the weights
AFFORDABLE = 2e11  # products for such a check: seconds
SLOW = 2e8  # products for one image; a browser computes about 1e9 per second

SCRIPTS = ("network.js", "kernels.js", "operations.js", "latents.js", "views.js", "pad.js", "explorer.js")
TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("gan_dist.results.export"),
    autoescape=jinja2.select_autoescape(("html.j2",), default=False),  # card.md.j2 escapes for Markdown
    undefined=jinja2.StrictUndefined,
)


@dataclass(frozen=True)
class Explorer:
    """The parts of a page in which a generator runs. They need no network and no other file."""

    body: str
    """HTML: one <section>, with the weights in a block of JSON. A page may have several, also hidden ones: each starts
    when it becomes visible."""
    style: str
    """CSS for a <style> of the page. Its rules apply inside of the section. Colours follow `color-scheme`."""
    script: str
    """JavaScript for a <script> after the last section."""
    facts: dict[str, str]
    """What the generator is: name -> value, as plain text that is not escaped."""


def explorer(
    run: Path, weights: Weights = "average", discriminator: bool = False, announce: Callable[[str], None] = print
) -> Explorer:
    """The parts of a page in which a run's generator runs.

    Args:
        run: the run's folder, which may still be training; or one of its .safetensors files.
        weights: which of the run's generators, as in `load_generator`.
        discriminator: whether the discriminator of the newest checkpoint judges the images.
        announce: called with one line per fact that the user may not expect.

    Raises:
        InputError: there is no such generator or discriminator, or it can't run in a page.
    """
    generator, config, step = read_generator(generator_file(run, weights))
    operations = describe_network(generator, f"run={run}")
    products = sum(operation.multiplications() for operation in operations)
    if products > SLOW:
        announce(f"an image takes {products / 1e9:.1f} billion multiplications, which are seconds in a browser")
    count = int(max(FEWEST_CHECKED, min(CHECKED, AFFORDABLE / products)))
    labels = choose_labels(generator, count, SEED)
    images = generate_images(generator, count, SEED, labels)
    _check_images(run, images.shape[1], bool(images.isfinite().all()))
    precision, change = choose_precision(
        generator, lambda: 127.5 * generate_images(generator, count, SEED, labels), MAX_GREY_LEVELS
    )
    latents = affordable_latents(config.model.latent_dim, products)
    directions = principal_directions(generator, DIRECTIONS, choose_labels(generator, latents, SEED), latents)
    opinion, described = None, ""
    if discriminator:
        classes = 0 if labels is None else len(generator.classes)  # type: ignore[arg-type]
        opinion, described = pack_discriminator(run, config, images, labels, classes, announce)
    data = {
        "shape": list(images.shape[1:]),
        "latent_dim": config.model.latent_dim,
        "classes": generator.classes,
        "generator": pack_network(operations, precision),
        "directions": {"precision": "float32", "numbers": encode([directions.vectors])},
        "shares": directions.shares.tolist(),
        "discriminator": opinion,
    }
    facts = _facts(run, weights, config, step, generator) | {
        "Weights": precision + (f", which changes {count:,} images by at most {change:.2g} of 255" if change else ""),
        "Directions": f"eigenvectors of the mean of JᵀJ over {latents} latents (arXiv:2101.06006)",
        **({"Discriminator": described} if described else {}),
    }
    script = "".join(TEMPLATES.get_template(name).render() for name in SCRIPTS)
    return Explorer(
        body=TEMPLATES.get_template("explorer.html.j2").render(data=data),
        style=TEMPLATES.get_template("explorer.css").render(),
        script=f'(() => {{\n"use strict";\n{script}\n}})();\n',
        facts=facts,
    )


def _check_images(run: Path, channels: int, finite: bool) -> None:
    if channels not in (1, 3):
        raise InputError(f"run={run} has images of {channels} channels, and format=html supports 1 and 3")
    if not finite:
        raise InputError(f"run={run} generates images that are not finite; choose another --weights")


def _facts(run: Path, weights: Weights, config: Config, step: int, generator: nn.Module) -> dict[str, str]:
    channels, height, width = generator.shape  # type: ignore[misc]
    source = run.name if is_generator_file(run) else weights
    return {
        "Data": config.data.name,
        "Images": f"{width} x {height}, {'grey' if channels == 1 else 'colour'}",
        "Generator": f"{config.model.architecture}, {count_weights(generator):,} weights",
        "Trained": f"{step:,} steps ({source})",
        "Made by": f"gan_dist {package_version()}",
    }
