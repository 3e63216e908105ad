"""A run's generator as one HTML file, which runs it in a browser, from disk and without a network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path

from gan_dist.config import Weights
from gan_dist.results.export.explorer import TEMPLATES, explorer
from gan_dist.results.export.request import ExportRequest, write_output


def export_html(request: ExportRequest, announce: Callable[[str], None]) -> str:
    """Write the page. For the arguments, see `formats.Exporter`."""
    content, facts = generator_page(request.run, request.weights, request.discriminator, announce)
    write_output(request, content.encode())
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
        policy=security_policy(style, parts.script),
        style=style,
        body=parts.body,
        script=parts.script,
        facts=parts.facts.items(),
    )
    return document, parts.facts


def security_policy(style: str, script: str) -> str:
    """A Content-Security-Policy that allows this style and this script, and no request."""
    allowed = f"script-src {source_hash(script)}; style-src {source_hash(style)}; img-src data:"
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


def source_hash(text: str) -> str:
    """An inline style or script, for a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
