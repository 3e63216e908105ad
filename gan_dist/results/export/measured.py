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
from gan_dist.evaluation.history import Row, figure
from gan_dist.files import BadFile, is_whole
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_config, read_floor, read_optional_json, read_records
from gan_dist.results.figures import Measured, as_row, measured

# Figures on a card, in its order.
SHOWN = (
    *("distance/frechet", "inception/fid", "inception/kid", "distance/kernel"),
    *("precision", "recall", "density", "coverage", "within/frechet", "asked/obtained"),
)


@dataclass(frozen=True)
class GeneratorFigures:
    """The figures of one generator."""

    figures: Mapping[str, Measured]
    """Those of SHOWN that were measured, with an interval; always distance/frechet."""
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


def measured_figures(run: Path, file: Path, step: int, announce: Callable[[str], None]) -> GeneratorFigures:
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


def _of_command(folder: RunFolder, file: Path, step: int) -> GeneratorFigures | None:
    """What `gan-dist evaluate` wrote to evaluation.json, if it is of this generator."""
    values, _ = read_optional_json(folder.evaluation)
    generator, real = values.get("generator"), as_row({"figures": values.get("real")})
    row = as_row(values)
    if row.get("step") != step or not isinstance(generator, str) or Path(generator).name != file.name:
        return None
    return _figures(row, {name: figure(real, name) for name in SHOWN}, row.get("count"))


def _of_run(folder: RunFolder, step: int, announce: Callable[[str], None]) -> GeneratorFigures | None:
    """The line of evaluations.jsonl of this step."""
    records = read_records(folder.evaluations)
    if records.damaged:
        first = records.damaged[0]
        announce(
            f"{folder.evaluations}: {len(records.damaged)} damaged line(s) skipped (line {first.number} {first.reason})"
        )
    row = next((row for row in records.rows if row["step"] == step), {})
    count = row.get("count")
    if not is_whole(count) or count <= 0:  # earlier versions did not write it
        count = read_config(folder.config).evaluate.count
    return _figures(row, read_floor(folder.floor), count)


def _figures(row: Row, floor: Mapping[str, float], count: Any) -> GeneratorFigures | None:
    """The figures of a line of evaluations.jsonl; None if it lacks what a card has to tell."""
    found = {name: known for name in SHOWN if (known := measured(row, name)) and known.has_interval}
    features = row.get("classifier")
    if "distance/frechet" not in found or not isinstance(features, str) or not is_whole(count) or count <= 0:
        return None
    return GeneratorFigures(found, {name: real for name, real in floor.items() if math.isfinite(real)}, count, features)
