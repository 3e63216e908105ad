"""What a run folder records, read and checked once: for the doctor, reports and comparisons."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gan_dist.config import Config, InputError
from gan_dist.data.spec import DataSpec
from gan_dist.files import BadFile, is_whole
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.record_reader import RecordReader
from gan_dist.outputs.records import MAX_STEP, Row, numbers_of, read_config, read_optional_json

MAX_TEXT = 300  # characters of a text from a file
MAX_SESSIONS = 1_000
MAX_VERSIONS = 100  # packages of a session; a run records about 10
MAX_NAMED = 5  # damaged lines, or files that are skipped


@dataclass(frozen=True)
class Session:
    """A session of a run, from environment.json. A field that is missing or invalid is None."""

    from_step: int
    """Completed steps when it began."""
    started: str | None
    host: str | None
    processes: int | None
    device: str | None
    device_name: str | None
    mixed_precision: str | None
    threads_per_process: int | None
    cores: int | None
    distributed_type: str | None
    platform: str | None
    versions: Mapping[str, str]
    """Package -> version."""


@dataclass(frozen=True)
class Status:
    """The content of status.json; a field that is missing or invalid is None."""

    state: str | None
    step: int | None
    reason: str | None
    time: str | None


@dataclass(frozen=True)
class RecordedRun:
    """The records of a run."""

    folder: RunFolder
    config: Config
    rows: Sequence[Row]
    """Valid lines of metrics.jsonl."""
    evaluations: Sequence[Row]
    """Valid lines of evaluations.jsonl."""
    floor: Mapping[str, float]
    """The figures of real images; empty before the first evaluation."""
    data: Mapping[str, Any]
    """Provenance of the data from environment.json, unchecked."""
    spec: DataSpec | None
    """What the data are; None if environment.json is missing or damaged."""
    sessions: Sequence[Session]
    """In order."""
    status: Status
    evaluation: Mapping[str, Any]
    """Content of evaluation.json, unchecked; empty if there is none."""
    epochs: Sequence[int]
    """Epochs with a grid of generated images."""
    damage: Sequence[str]
    """One line for each file of which something could not be used."""

    @property
    def path(self) -> Path:
        return self.folder.path

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, as far as they are known."""
        return (self.spec.classes if self.spec is not None else None) or ()

    @property
    def step(self) -> int:
        """Completed steps, as far as metrics.jsonl tells."""
        return self.rows[-1]["step"] if self.rows else 0


def read_run(path: Path) -> RecordedRun:
    """Read the records of a run, which may still be training.

    Raises:
        InputError: the folder does not hold a run, its configuration is damaged, or a file of records can't be read.
    """
    return RunReader(path).read()


class RunReader:
    """Reads the records of a run repeatedly: of the files that grow, each time only what was appended.

    Args:
        path: the run folder.
    """

    def __init__(self, path: Path) -> None:
        self.folder = RunFolder(path)
        self._readers = [RecordReader(file) for file in (self.folder.metrics, self.folder.evaluations)]

    def read(self) -> RecordedRun:
        """Read the records as they are now.

        Raises:
            InputError: as in `read_run`.
        """
        folder = self.folder
        folder.check_holds_a_run()
        damage: list[str] = []
        config = read_config(folder.config)
        rows, evaluations = (_read_lines(reader, damage) for reader in self._readers)
        environment, status, evaluation, floor = (
            _read_object(file, damage) for file in (folder.environment, folder.status, folder.evaluation, folder.floor)
        )
        data = environment.get("data")
        data = data if isinstance(data, dict) else {}
        try:
            spec = DataSpec.from_dict(data.get("spec"))
        except BadFile:
            spec = None
        return RecordedRun(
            folder=folder,
            config=config,
            rows=rows,
            evaluations=evaluations,
            floor=numbers_of(floor),
            data=data,
            spec=spec,
            sessions=_sessions(environment),
            status=Status(
                *(text(status, "state"), whole(status, "step"), text(status, "reason"), text(status, "time"))
            ),
            evaluation=evaluation,
            epochs=folder.epochs_with_samples(),
            damage=damage,
        )


def read_runs(paths: Sequence[Path]) -> list[RecordedRun]:
    """Read runs that must have metrics.

    Raises:
        InputError: as in `read_run`; a run has no metrics yet; or a folder is given twice.
    """
    runs = [read_run(path) for path in paths]
    seen: set[Path] = set()
    for run in runs:
        if not run.rows:
            damaged = f" ({'; '.join(run.damage)})" if run.damage else ""
            raise InputError(
                f"{run.path} has no metrics yet: {run.folder.metrics.name} has no valid line{damaged}; wait for its "
                f"first log point, after {run.config.log.every_steps:,} steps"
            )
        if (real := run.path.resolve()) in seen:
            raise InputError(f"{run.path} is given twice; give each run once")
        seen.add(real)
    return runs


def names_of(runs: Sequence[RecordedRun]) -> list[str]:
    """A short name for each run: the last parts of its path that tell it from the others."""
    paths = [Path(os.path.abspath(run.path)) for run in runs]  # without ..
    for count in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len({*names}) == len(names):
            return names
    return [str(path) for path in paths]


def text(values: Mapping[str, Any], name: str) -> str | None:
    """A text from a file, at most MAX_TEXT characters; None if it is missing or no text."""
    value = values.get(name)
    return value[:MAX_TEXT] if isinstance(value, str) else None


def whole(values: Mapping[str, Any], name: str) -> int | None:
    """A number of steps or processes from a file; None if it is missing or no such number."""
    value = values.get(name)
    return value if is_whole(value) and 0 <= value <= MAX_STEP else None


def _read_lines(reader: RecordReader, damage: list[str]) -> list[Row]:
    """The valid lines of a file; others are added to `damage`. A last line without an end is being written."""
    records = reader.read()
    damaged = records.damaged
    if damaged and not records.complete and damaged[-1].number == len(records.rows) + len(damaged):
        damaged = damaged[:-1]
    if damaged:
        numbers = ", ".join(str(line.number) for line in damaged[:MAX_NAMED])
        more = ", …" if damaged[MAX_NAMED:] else ""
        damage.append(
            f"{reader.file.name}: {len(damaged)} damaged line(s) skipped (line {numbers}{more}: "
            f"the first {damaged[0].reason[:MAX_TEXT]})"
        )
    return records.rows


def _read_object(file: Path, damage: list[str]) -> dict[str, Any]:
    values, problem = read_optional_json(file)
    if problem:
        damage.append(f"{file.name} {problem[:MAX_TEXT]}; it was ignored")
    return values


def _sessions(environment: Mapping[str, Any]) -> list[Session]:
    """The sessions in environment.json, which holds the latest one and, in it, the earlier ones."""
    earlier = environment.get("earlier_sessions")
    found = [*(earlier if isinstance(earlier, list) else []), environment][-MAX_SESSIONS:]
    sessions = []
    for values in found:
        if not isinstance(values, dict) or (from_step := whole(values, "from_step")) is None:
            continue
        versions = values.get("versions")
        known = list(versions.items())[:MAX_VERSIONS] if isinstance(versions, dict) else []
        sessions.append(
            Session(
                from_step=from_step,
                started=text(values, "started"),
                host=text(values, "host"),
                processes=whole(values, "processes"),
                device=text(values, "device"),
                device_name=text(values, "device_name"),
                mixed_precision=text(values, "mixed_precision"),
                threads_per_process=whole(values, "threads_per_process"),
                cores=whole(values, "cores"),
                distributed_type=text(values, "distributed_type"),
                platform=text(values, "platform"),
                versions={
                    str(name)[:MAX_TEXT]: version[:MAX_TEXT] for name, version in known if isinstance(version, str)
                },
            )
        )
    return sessions
