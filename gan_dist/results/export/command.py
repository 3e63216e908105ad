"""`gan-dist export`. Imports no torch, so --help is answered at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from gan_dist.config import InputError
from gan_dist.config.arguments import read_arguments
from gan_dist.config.tables import keys_of
from gan_dist.results.arguments import OutputArguments, RunArgument, WeightsArgument

if TYPE_CHECKING:
    Format: TypeAlias = str
else:
    Format = Literal[keys_of("results/export/formats.py", "EXPORTERS")]


@dataclass(frozen=True)
class ExportArguments(OutputArguments, WeightsArgument, RunArgument):
    output: Path | None = None
    """Output file; with --dry-run, output folder. None: named after the run or repository, in the current folder."""
    format: Format = "html"
    """html: one page that runs the generator in a browser, from disk and without a network. onnx: a model for
    onnxruntime and others; needs the extra onnx. hub: a repository of the Hugging Face hub; needs the extra hub."""
    discriminator: bool = False
    """html: include the discriminator of the newest checkpoint, which judges each image."""
    repo: str | None = None
    """hub: USER/NAME of the repository. It must be new, unless --force is given."""
    license: str | None = None
    """hub: license of the generator, as the hub calls it, such as mit or cc-by-4.0."""
    dry_run: bool = False
    """hub: write the files to a folder, and upload nothing."""


def export(arguments: Sequence[str]) -> int:
    """Write a run's generator in a format for other programs; return 1 if the result would be wrong."""
    parsed = read_arguments(
        ExportArguments,
        arguments,
        prog="gan-dist export",
        description="Write a run's generator in a format for other programs.",
    )
    from gan_dist.results.export.formats import EXPORTERS
    from gan_dist.results.export.request import ExportFailed, ExportRequest
    from gan_dist.results.output import check_output

    exporter = EXPORTERS[parsed.format]
    for name, other in ((name, other) for other, known in EXPORTERS.items() for name in known.flags):
        if name not in exporter.flags and getattr(parsed, name) != getattr(ExportArguments, name):
            raise InputError(f"{name.replace('_', '-')} is for format={other}, not format={parsed.format}; omit it")
    options = {name: getattr(parsed, name) for name in exporter.flags}
    request = ExportRequest(parsed.run, _output(parsed, exporter.suffix), parsed.weights, parsed.force, **options)
    if exporter.suffix or parsed.dry_run:
        check_output(request.output, request.force, folder=not exporter.suffix)
    elif parsed.output is not None:
        raise InputError(f"output={parsed.output} needs --dry-run: otherwise format={parsed.format} uploads; omit it")
    try:
        print(exporter.export(request, print))
    except ExportFailed as error:
        print(f"gan-dist: {error}", file=sys.stderr)
        return 1
    return 0


def _output(parsed: ExportArguments, suffix: str) -> Path:
    """The output file or folder."""
    if parsed.output is None:
        run = Path(os.path.abspath(parsed.run))  # without ..
        name = (parsed.repo or "").rpartition("/")[2] or run.name.removesuffix(".safetensors")
        return Path(f"{name or 'run'}{suffix}")
    if suffix and parsed.output.suffix != suffix:
        raise InputError(f"output={parsed.output} must end in {suffix}")
    return parsed.output
