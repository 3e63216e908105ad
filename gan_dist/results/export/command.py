"""`gan-dist export`. Imports no torch, so --help is answered at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from tyro.conf import Positional, arg

from gan_dist.config import InputError, Weights
from gan_dist.config.arguments import read_arguments
from gan_dist.config.tables import keys_of

if TYPE_CHECKING:
    Format: TypeAlias = str
else:
    Format = Literal[keys_of("results/export/formats.py", "EXPORTERS")]


@dataclass(frozen=True)
class ExportArguments:
    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run folder, or one of its .safetensors files. The run may still be training."""
    format: Format = "html"
    """html: one page that runs the generator in a browser, from disk and without a network. onnx: a model for
    onnxruntime and others, with inputs "latents" and, of a conditional run, "labels"; needs the extra onnx."""
    output: Path | None = None
    """Output file. None: the name of the run, in the current folder."""
    weights: Weights = "average"
    """Which generator of the run. average: the exponential moving average if the run keeps one, else the trained
    generator. live: the trained generator. best: as average, at the best evaluation."""
    force: bool = False
    """Replace an existing output."""
    discriminator: bool = False
    """html: include the discriminator of the newest checkpoint, which judges each image."""


def export(arguments: Sequence[str]) -> int:
    """Write a run's generator in a format for other programs; return 1 if the result would be wrong."""
    parsed = read_arguments(
        ExportArguments,
        arguments,
        prog="gan-dist export",
        description="Write a run's generator in a format for other programs.",
    )
    from gan_dist.results.export.formats import EXPORTERS
    from gan_dist.results.export.request import ExportFailed, ExportRequest, check_output

    exporter = EXPORTERS[parsed.format]
    for name, other in ((name, other) for other, known in EXPORTERS.items() for name in known.flags):
        if name not in exporter.flags and getattr(parsed, name) != getattr(ExportArguments, name):
            raise InputError(f"{name.replace('_', '-')} is for format={other}, not format={parsed.format}; omit it")
    name = parsed.run.absolute().name.removesuffix(".safetensors")
    output = Path(f"{name or 'run'}{exporter.suffix}") if parsed.output is None else parsed.output
    if output.suffix != exporter.suffix:
        raise InputError(f"output={output} must end in {exporter.suffix}")
    options = {name: getattr(parsed, name) for name in exporter.flags}
    request = ExportRequest(parsed.run, output, parsed.weights, parsed.force, **options)
    check_output(request)
    try:
        print(exporter.export(request, print))
    except ExportFailed as error:
        print(f"gan-dist: {error}", file=sys.stderr)
        return 1
    return 0
