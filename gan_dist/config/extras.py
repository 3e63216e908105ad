"""The packages of an extra, which may not be installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from gan_dist.config.errors import InputError


def require_packages(needed_by: str, extra: str, packages: Sequence[str]) -> None:
    """Check that the packages of an extra are installed, without importing them.

    Args:
        needed_by: what needs them, such as "format=onnx".
        extra: its name.
        packages: their names; a module has an underscore where a name has a hyphen.

    Raises:
        InputError: with the command that installs them.
    """
    missing = [name for name in packages if importlib.util.find_spec(name.replace("-", "_")) is None]
    if missing:
        raise InputError(f"{needed_by} needs {' and '.join(missing)}; pip install 'gan_dist[{extra}]'")
