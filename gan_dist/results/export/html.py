"""A run's generator as one HTML file, which runs it in a browser, from disk and without a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gan_dist.config import Weights
from gan_dist.results.export.explorer import TEMPLATES, explorer
from gan_dist.results.export.request import ExportRequest
from gan_dist.results.output import output_file
from gan_dist.results.page_policy import security_policy


def export_html(request: ExportRequest, announce: Callable[[str], None]) -> str:
    """Write the page. For the arguments, see `formats.Exporter`."""
    content, facts = generator_page(request.run, request.weights, request.discriminator, announce)
    with output_file(request.output) as temporary:
        temporary.write_bytes(content.encode())
    return f"{request.output}: {len(content) / 1e6:.1f} MB, {facts['Weights']}"


def generator_page(
    run: Path, weights: Weights = "average", discriminator: bool = False, announce: Callable[[str], None] = print
) -> tuple[str, dict[str, str]]:
    """A self-contained document that runs a generator. It also works in a frame of another page.

    For the arguments and errors, see `explorer`.

    Returns:
        The document, and the facts that it shows about the generator: name -> value.
    """
    parts = explorer(run, weights, discriminator, announce)
    style = TEMPLATES.get_template("page.css").render() + parts.style
    document = TEMPLATES.get_template("page.html.j2").render(
        title=f"{run.absolute().name.removesuffix('.safetensors')}: generated images",
        introduction="This page computes each image from random numbers, the latent. Change it, and the image changes.",
        policy=security_policy([parts.script], [style]),
        style=style,
        body=parts.body,
        script=parts.script,
        facts=parts.facts.items(),
    )
    return document, parts.facts
