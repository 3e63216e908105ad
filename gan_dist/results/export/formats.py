"""The formats of `gan-dist export`. A new one is a file and a line in EXPORTERS."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from gan_dist.results.export.html import export_html
from gan_dist.results.export.hub import export_hub
from gan_dist.results.export.onnx import export_onnx
from gan_dist.results.export.request import ExportRequest


class Exporter(NamedTuple):
    """How one format is written."""

    export: Callable[[ExportRequest, Callable[[str], None]], str]
    """(request, announce) -> one line for the console about what was written. `announce` is called with one line per
    fact that the user may not expect. Raises InputError or ExportFailed; then nothing was written."""
    suffix: str
    """Of the output file; empty: the output is a folder."""
    flags: tuple[str, ...] = ()
    """The fields of ExportArguments that apply to this format only."""


EXPORTERS: dict[str, Exporter] = {
    "html": Exporter(export_html, ".html", ("discriminator",)),
    "onnx": Exporter(export_onnx, ".onnx"),
    "hub": Exporter(export_hub, "", ("repo", "license", "dry_run")),
}
