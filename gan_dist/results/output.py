"""Writing the output of a command: complete or not at all, and never over an existing one by accident."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from gan_dist.config import InputError
from gan_dist.data.readers.names import quoted
from gan_dist.files import UNFINISHED, replacing


def check_output(output: Path, force: bool, folder: bool = False) -> None:
    """Check that an output can be written, before anything is computed.

    Args:
        output: file or folder.
        force: whether an existing one is replaced.
        folder: whether it is a folder.

    Raises:
        InputError: it exists, or is of another kind, or its parent does not exist or is not writable.
    """
    parent = output.absolute().parent
    if output.exists() and not (output.is_dir() if folder else output.is_file()):
        raise InputError(f"output={output} is not a {'folder' if folder else 'file'}; choose another")
    if os.path.lexists(output):
        if not force:
            raise InputError(f"output={output} exists; choose another, or pass --force to replace it")
        if output.is_symlink():
            raise InputError(f"output={output} is a symbolic link, and is not replaced; choose another")
    elif not parent.is_dir():
        raise InputError(f"output={output} can't be written (there is no folder {output.parent}); choose another")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"output={output} can't be written ({output.parent} is not writable); choose another")


@contextlib.contextmanager
def output_file(output: Path) -> Iterator[Path]:
    """Yields a temporary path beside the output, with the same suffix. It replaces the output if the block succeeds.

    Raises:
        InputError: it can't be written.
    """
    with _readable_errors(output), replacing(output) as temporary:
        yield temporary


@contextlib.contextmanager
def output_folder(output: Path, replaceable: Callable[[str], bool]) -> Iterator[Path]:
    """Yields an empty folder beside the output. It becomes the output if the block succeeds.

    Args:
        output: the folder to write. If it exists, it is replaced as a whole.
        replaceable: whether a file of this name may be removed with an existing folder.

    Raises:
        InputError: it can't be written, or replacing it would remove other files.
    """
    with _readable_errors(output):
        if output.exists() and (others := sorted(name for name in os.listdir(output) if not replaceable(name))):
            raise InputError(f"output={output} also holds {quoted(others[0])}, and is not replaced; choose another")
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=output.absolute().parent) as beside:
            made, old = Path(beside) / "new", Path(beside) / "old"
            made.mkdir()
            yield made
            try:
                if output.exists():
                    output.rename(old)
                made.rename(output)
            except BaseException:  # also Ctrl-C: the old one must not be removed with the temporary folder
                if old.exists() and not output.exists():
                    old.rename(output)
                raise


@contextlib.contextmanager
def _readable_errors(output: Path) -> Iterator[None]:
    """Raises an OSError inside the block as an InputError that names the output."""
    try:
        yield
    except OSError as error:
        raise InputError(f"output={output} can't be written ({error.strerror or error}); choose another") from error
