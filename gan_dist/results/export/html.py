"""A run's generator as one HTML file, which runs it in a browser, from disk and without a network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable

from gan_dist.results.export.explorer import TEMPLATES, explorer
from gan_dist.results.export.request import ExportRequest, write_output


def export_html(request: ExportRequest, announce: Callable[[str], None]) -> str:
    """Write the page. For the arguments, see `formats.Exporter`."""
    parts = explorer(request.run, request.weights, request.discriminator, announce)
    style = TEMPLATES.get_template("page.css").render() + parts.style
    content = TEMPLATES.get_template("page.html.j2").render(
        title=f"{request.run.absolute().name.removesuffix('.safetensors')}: generated images",
        introduction="This page computes each image from random numbers, the latent. Change it, and the image changes.",
        policy=security_policy(style, parts.script),
        style=style,
        body=parts.body,
        script=parts.script,
        facts=parts.facts.items(),
    )
    write_output(request, content.encode())
    return f"{request.output}: {len(content) / 1e6:.1f} MB, {parts.facts['Weights']}"


def security_policy(style: str, script: str) -> str:
    """A Content-Security-Policy that allows this style and this script, and no request."""
    allowed = f"script-src {source_hash(script)}; style-src {source_hash(style)}; img-src data:"
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


def source_hash(text: str) -> str:
    """An inline style or script, for a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
