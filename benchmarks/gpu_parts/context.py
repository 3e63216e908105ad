"""What every part knows: the machine, the settings, and how much time is left."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gpu_parts.rows import MEASURED, NOT_RUN, Row, RowFile, Value, checked

SCRATCH = "gpu-scratch"  # in the output folder; removed at the end


class NoTimeLeft(Exception):
    """The deadline of the part has passed."""


@dataclass(frozen=True)
class Context:
    """Settings of a part. It crosses processes as JSON."""

    part: str
    device: str
    """cuda or cpu."""
    gpus: int
    """Number of ranks that have a device of their own: GPUs, or 2 on a CPU."""
    short: bool
    """Small networks and few steps, to test the program."""
    data: Path | None
    """A folder with MNIST."""
    output: Path
    mark: str
    """Identifies the processes of this benchmark: the variable MARK in their environment begins with it."""
    deadline: float
    """When the part must have ended, in seconds since the epoch."""
    plant: tuple[str, ...] = ()
    """Planted faults, for the tests: kind:part."""
    machine: dict[str, Any] = field(default_factory=dict)
    """What the part `machine` found; empty if it failed."""

    @property
    def scratch(self) -> Path:
        """Folder of the runs."""
        return self.output / SCRATCH

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def rows(self) -> RowFile:
        return RowFile(self.scratch / f"{self.part}.rows")

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.time()

    @property
    def rank_counts(self) -> list[int]:
        """1, 2, 4, … up to the number of GPUs, which is included."""
        powers = [2**i for i in range(10) if 2**i <= self.gpus]
        return powers if self.gpus in powers else [*powers, self.gpus]

    def has_fault(self, kind: str) -> bool:
        """Whether a fault is planted in this part."""
        return f"{kind}:{self.part}" in self.plant

    def measured(self, name: str, values: dict[str, Value], note: str = "") -> None:
        self.rows.add(Row(self.part, name, MEASURED, values, note))

    def not_run(self, name: str, why: str) -> None:
        self.rows.add(Row(self.part, name, NOT_RUN, {}, why))

    def check(self, name: str, problem: str, values: dict[str, Value] | None = None, note: str = "") -> None:
        """Add the row of a check; an empty problem means ok."""
        self.rows.add(checked(self.part, name, problem, values, note))

    @contextmanager
    def checking(self, name: str) -> Iterator[None]:
        """A row instead of an exception: the rest of the part goes on."""
        try:
            yield
        except NoTimeLeft:
            self.not_run(name, "no time left")
        except Exception as error:
            self.check(name, f"{type(error).__name__}: {error}")

    def wait_limit(self, seconds: float) -> float:
        """Seconds to wait: at most those that are left.

        Raises:
            NoTimeLeft: there are none.
        """
        if self.seconds_left <= 0:
            raise NoTimeLeft
        return min(seconds, self.seconds_left)

    def until(self, share: float) -> Context:
        """The same with a deadline after a share of the time that is left."""
        return replace(self, deadline=time.time() + share * self.seconds_left)

    def save(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self), default=str))

    @classmethod
    def load(cls, file: Path) -> Context:
        values = json.loads(file.read_text())
        paths = {name: values[name] and Path(values[name]) for name in ("data", "output")}
        return cls(**values | paths | {"plant": tuple(values["plant"])})
