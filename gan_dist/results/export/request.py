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
    """html: whether the page has the discriminator, too."""
    repo: str | None = None
    """hub: USER/NAME."""
    license: str | None = None
    """hub: its identifier there."""
    dry_run: bool = False
    """hub: whether the output is a folder on disk."""


def check_output(request: ExportRequest, folder: bool) -> None:
    """Check that the output can be written, before anything is computed.

    Args:
        request: its output and force.
        folder: whether the output is a folder.

    Raises:
        InputError: it exists, or its parent does not.
    """
    output, kind = request.output, "folder" if folder else "file"
    if os.path.lexists(output) and not request.force:
        raise InputError(f"output={output} exists; choose another, or pass --force to replace it")
    if os.path.lexists(output) and (output.is_symlink() or output.is_dir() != folder):
        raise InputError(f"output={output} is not a {kind}; choose another")
    if not output.absolute().parent.is_dir():
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
