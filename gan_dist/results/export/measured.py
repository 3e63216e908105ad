"""The measured figures of a generator that is published, as its run or `gan-dist evaluate` recorded them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gan_dist.config import InputError
from gan_dist.data.spec import DataSpec
from gan_dist.evaluation.estimates import Estimate, Figures
from gan_dist.files import BadFile, is_whole
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import is_number, read_config, read_floor, read_optional_json, read_records

# Figure -> its name on a card, in the order of the card.
SHOWN = {
    "distance/frechet": "Fréchet distance",
    "inception/fid": "FID",
    "inception/kid": "KID",
    "distance/kernel": "Kernel distance",
    "precision": "Precision",
    "recall": "Recall",
    "density": "Density",
    "coverage": "Coverage",
    "within/frechet": "Fréchet distance within the classes, mean",
    "asked/obtained": "Images of the class that was asked for",
}


@dataclass(frozen=True)
class Measured:
    """The figures of one generator."""

    figures: Figures
    """Those of SHOWN that were measured; always distance/frechet."""
    floor: Mapping[str, float]
    """The same figures of real images, as far as they are known."""
    count: int
    """Number of generated images."""
    features: str
    """Id of what extracted the features."""


@dataclass(frozen=True)
class TrainingData:
    """The data set of a run."""

    name: str
    count: int
    """Number of training images."""
    sha256: str
    """Of the training images."""


def measured_figures(run: Path, file: Path, step: int, announce: Callable[[str], None]) -> Measured:
    """The figures of a run's generator.

    Args:
        run: the run's folder.
        file: of the generator.
        step: of the generator.
        announce: called with one line if there are damaged lines.

    Raises:
        InputError: it was not evaluated.
    """
    folder = RunFolder(run)
    found = _of_command(folder, file, step)
    if found is None and file != folder.live_generator:  # a run evaluates the generator to use
        found = _of_run(folder, step, announce)
    if found is None:
        weights = {folder.live_generator: " --weights live", folder.best_generator: " --weights best"}.get(file, "")
        raise InputError(
            f"{run} has no evaluation of {file.name}, step {step:,}; run gan-dist evaluate {run}{weights} first"
        )
    return found


def training_data(run: Path) -> TrainingData:
    """The data set of a run, from its environment.json.

    Raises:
        InputError: the file lacks it.
    """
    file = RunFolder(run).environment
    values, damage = read_optional_json(file)
    data = values.get("data")
    try:
        if damage or not isinstance(data, dict):
            raise BadFile(damage or "does not describe the data")
        spec, sha256 = DataSpec.from_dict(data.get("spec")), data.get("sha256")
        if not isinstance(sha256, str) or not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise BadFile("has no sha256 of the data")
    except BadFile as error:
        raise InputError(f"{file} {error}; resume the run to write it again, or restore it") from error
    return TrainingData(spec.name, spec.count, sha256)


def _of_command(folder: RunFolder, file: Path, step: int) -> Measured | None:
    """What `gan-dist evaluate` wrote to evaluation.json, if it is of this generator."""
    values, _ = read_optional_json(folder.evaluation)
    generator, figures, real = values.get("generator"), values.get("figures"), values.get("real")
    count, features = values.get("count"), values.get("classifier")
    if values.get("step") != step or not isinstance(generator, str) or Path(generator).name != file.name:
        return None
    if not isinstance(figures, dict) or not isinstance(real, dict) or not is_whole(count) or count <= 0:
        return None
    read = {name: estimate for name in SHOWN if (estimate := _estimate(figures.get(name))) is not None}
    floor = {name: estimate.value for name in SHOWN if (estimate := _estimate(real.get(name))) is not None}
    return _measured(read, floor, count, features)


def _of_run(folder: RunFolder, step: int, announce: Callable[[str], None]) -> Measured | None:
    """The line of evaluations.jsonl of this step."""
    records = read_records(folder.evaluations)
    if records.damaged:
        first = records.damaged[0]
        announce(
            f"{folder.evaluations}: {len(records.damaged)} damaged line(s) skipped (line {first.number} {first.reason})"
        )
    row = next((row for row in records.rows if row["step"] == step), {})
    intervals, figures = row.get("intervals", {}), {}
    for name in SHOWN:
        low, high = intervals.get(name, (None, None))
        estimate = _estimate({"value": row.get(name), "low": low, "high": high})
        if estimate is not None:
            figures[name] = estimate
    floor = {name: value for name, value in read_floor(folder.floor).items() if math.isfinite(value)}
    count = row.get("count")
    if not is_whole(count) or count <= 0:  # earlier versions did not write it
        count = read_config(folder.config).evaluate.count
    return _measured(figures, floor, count, row.get("classifier"))


def _measured(figures: Figures, floor: Mapping[str, float], count: int, features: Any) -> Measured | None:
    if "distance/frechet" not in figures or not isinstance(features, str):
        return None
    return Measured(figures, floor, count, features)


def _estimate(values: Any) -> Estimate | None:
    """An estimate from a file; None if a number is missing or not finite."""
    if not isinstance(values, dict):
        return None
    numbers = [values.get(name) for name in ("value", "low", "high")]
    finite = [float(number) for number in numbers if is_number(number) and math.isfinite(number)]  # type: ignore[arg-type]
    return Estimate(*finite) if len(finite) == len(numbers) else None
