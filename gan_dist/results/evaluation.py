"""The result of an evaluation: as a table, and as a file."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from gan_dist.config import InputError
from gan_dist.config.text import printable
from gan_dist.evaluation.estimates import Estimate
from gan_dist.evaluation.history import class_number
from gan_dist.files import write_json


def check_result(file: Path) -> None:
    """Check that the file of an evaluation can be written, before anything is computed.

    Raises:
        InputError: it can't.
    """
    if file.is_dir():
        raise InputError(f"{file} can't be written (it is a folder); rename it")
    if not os.access(file.parent, os.W_OK | os.X_OK):
        raise InputError(f"{file} can't be written (no permission); make {file.parent} writable")


@dataclass(frozen=True)
class Evaluation:
    """The result of `gan-dist evaluate`."""

    run: str
    """Path of the run, of its generator's file, or of the images that were judged."""
    count: int
    """Number of generated images."""
    seed: int | None
    """Random seed of their latents; None if images were given, as the next two fields."""
    generator: str | None
    """File of the generator."""
    step: int | None
    """Step of the generator."""
    classifier: str
    """Id of the classifier. Figures of different classifiers are not comparable."""
    classifier_accuracy: float
    classifier_description: str
    """What it was trained for."""
    data: dict[str, str | int | None]
    """Provenance of the real images."""
    figures: dict[str, Estimate]
    classes: tuple[str, ...] | None
    """Names of the classes, in the order of the figures classes/0, classes/1, …, as of asked/0 and within/0; None if
    the images have none."""
    real: dict[str, Estimate]
    """The same figures of real images. A generator can't be expected to be better."""
    inception: str | None = None
    """What FID and KID were computed from; None if there are none."""

    def title(self) -> str:
        """One line for the console."""
        judged = self.run if self.generator is None else f"{self.generator}, step {self.step:,}"
        return f"{judged}: {self.count:,} images, {self.classifier_description}"

    def table(self) -> Table:
        """A table for the console: each figure with its interval and its value for real images."""
        table = Table()
        for name in ("figure", "generated", "95 % interval", "real"):
            table.add_column(name, justify="left" if name == "figure" else "right")
        for name, figure in self.figures.items():
            real = self.real.get(name)
            interval = f"{figure.low:.4g} to {figure.high:.4g}"
            table.add_row(
                self._label(name), f"{figure.value:.4g}", interval, "-" if real is None else f"{real.value:.4g}"
            )
        return table

    def write(self, file: Path) -> None:
        """Write all fields as JSON.

        Raises:
            InputError: the file can't be written.
        """
        try:
            write_json(file, asdict(self))
        except OSError as error:
            raise InputError(f"{file} can't be written ({error.strerror}); make {file.parent} writable") from error

    def _label(self, figure: str) -> str:
        """A figure's name, with that of its class unless this is the same number."""
        index = figure.split("/")[1] if "/" in figure else ""
        number = class_number(index)
        if self.classes is None or number is None or self.classes[number] == index:
            return figure
        return f"{figure} {escape(printable(self.classes[number]))}"
