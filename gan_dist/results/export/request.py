"""What is exported, and writing it: complete or not at all, and never over an existing file by accident."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from gan_dist.config import InputError, Weights
from gan_dist.files import replacing


@dataclass(frozen=True)
class ExportRequest:
    """The arguments of `gan-dist export`."""

    run: Path
    output: Path
    weights: Weights = "average"
    force: bool = False
    """Whether an existing output is replaced."""
    discriminator: bool = False
    repo: str | None = None
    license: str | None = None
    dry_run: bool = False


def check_output(request: ExportRequest) -> None:
    """Check that the output can be written, before anything is computed.

    Raises:
        InputError: it exists, or its folder does not.
    """
    output = request.output
    if os.path.lexists(output) and not request.force:
        raise InputError(f"output={output} exists; choose another, or pass --force to replace it")
    if output.is_dir():
        raise InputError(f"output={output} is a folder; choose a file")
    if not output.parent.is_dir():
        raise InputError(f"output={output} can't be written (there is no folder {output.parent}); choose another")


def write_output(request: ExportRequest, content: bytes) -> None:
    """Write the output, atomically.

    Raises:
        InputError: it can't be written.
    """
    try:
        with replacing(request.output) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise InputError(f"output={request.output} can't be written ({error.strerror}); choose another") from error
