"""The weights of the Inception network: the user's file, which is never downloaded. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from gan_dist.config import InputError
from gan_dist.config.extras import require_packages
from gan_dist.config.sections import INCEPTION
from gan_dist.files import BadFile, open_regular_file


def inception_file(features: Path) -> Path | None:
    """The file of the weights in a value of evaluate.features; None if there are no FID and KID."""
    value = str(features)
    return Path(value.removeprefix(INCEPTION)) if value.startswith(INCEPTION) else None


def check_inception(features: Path) -> None:
    """Check that FID and KID can probably be computed, if `features` (evaluate.features) asks for them.

    Raises:
        InputError: torch-fidelity is not installed, or the file of the weights can't be opened.
    """
    file = inception_file(features)
    if file is None:
        return
    require_packages(f"evaluate.features={features}", "fid", ["torch-fidelity"])
    try:
        open_regular_file(file).close()
    except BadFile as error:
        raise bad_weights(features, error) from error


def bad_weights(features: Path, error: BadFile) -> InputError:
    """The error of a file of weights that can't be used."""
    return InputError(
        f"evaluate.features={features}: the file {error}; use weights-inception-2015-12-05-6726825d.pth of "
        "torch-fidelity, or auto"
    )
