"""What is exported, and writing it: complete or not at all, and never over an existing file by accident."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gan_dist.config import InputError, Weights
from gan_dist.files import replacing


class ExportFailed(Exception):
    """The input is valid, but no correct output could be made. The message is one line. Nothing was written."""


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


def require_packages(extra: str, packages: Sequence[str]) -> None:
    """Check that the packages of an extra are installed.

    Args:
        extra: its name, which is also that of the format.
        packages: names of modules.

    Raises:
        InputError: with the command that installs them.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"format={extra} needs {' and '.join(missing)}; pip install 'gan_dist[{extra}]'")
