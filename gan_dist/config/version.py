"""The package's version."""

from __future__ import annotations


def package_version() -> str:
    """The version of the installed package; of a checkout that is not installed it is unknown."""
    from importlib.metadata import PackageNotFoundError, version  # not needed by a run that starts

    try:
        return version("gan_dist")
    except PackageNotFoundError:
        return "unknown (not installed)"
