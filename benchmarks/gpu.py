"""Everything that this project claims about GPUs, checked and measured on this machine: one GPU or many, no network.

    python benchmarks/gpu.py [--minutes 10] [--only PART ...] [--output DIR] [--data DIR] [--device auto|cpu] [--short]

Writes DIR/gpu.md and DIR/gpu.json, after every row, and prints the rows. docs/gpu.md says what they mean. Each part
runs in a process of its own with a share of the minutes: one that fails, hangs or ends leaves its rows and a failed
one, and the others go on. What does not fit into the time is listed as not run. --data: a folder with MNIST; without
it, the part `quality` trains on the sample digits. Exit code: 1 if a check or a part failed, else 0.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
import uuid
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout, whatever is installed

from gpu_parts.context import SCRATCH, Context
from gpu_parts.processes import end_marked, last_error, marked, started, wait
from gpu_parts.rows import FAILED, NOT_RUN, Row, write_tables

# In the order of their worth: name -> module, and share of the time. A part may also use what earlier ones left.
PARTS: dict[str, tuple[str, float]] = {
    "machine": ("gpu_parts.machine", 5.0),
    "bits": ("gpu_parts.bits", 5.0),
    "speed": ("gpu_parts.speed", 6.0),
    "scaling": ("gpu_parts.scaling", 5.0),
    "faults": ("gpu_parts.faults", 5.0),
    "fp16": ("gpu_parts.half", 1.5),
    "quality": ("gpu_parts.quality", 3.0),
    "tests": ("gpu_parts.tests", 3.0),
}
SEVERAL = ("scaling", "faults")  # parts that need two GPUs
GRACE = 5.0  # seconds that a part gets to end after its deadline
SHORTEST = 3.0  # seconds; with less time left, a part is not started
IDLE = 0.2  # seconds between two looks at the rows


class Benchmark:
    """Runs the parts and keeps the tables up to date.

    Args:
        arguments: of the command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.output: Path = arguments.output.absolute()
        self.mark = f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self.end = time.time() + 60 * arguments.minutes
        self.machine: dict[str, Any] = {}
        self.rows: list[Row] = []
        self.about: dict[str, Any] = {
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "minutes": arguments.minutes,
            "form": "short" if arguments.short else "full",
        }

    def run(self, names: list[str]) -> int:
        """Run parts; returns the exit code."""
        scratch = self.output / SCRATCH
        shutil.rmtree(scratch, ignore_errors=True)  # of an earlier run with --keep
        scratch.mkdir(parents=True)
        try:
            for i, name in enumerate(names):
                shares = [self.share(other) for other in names[i:]]
                left = self.end - time.time()
                if left < SHORTEST:
                    self.add(Row(name, name, NOT_RUN, {}, "no time left"))
                    continue
                self.run_part(name, min(left, max(SHORTEST, left * shares[0] / sum(shares))))
        finally:
            end_marked(self.mark)
            self.write()
            if not self.arguments.keep:
                shutil.rmtree(scratch, ignore_errors=True)
        failed = sum(row.state == FAILED for row in self.rows)
        print(f"{len(self.rows)} rows, {failed} failed: {self.output / 'gpu.md'}", flush=True)
        return 1 if failed else 0

    def run_part(self, name: str, seconds: float) -> None:
        """Run a part in a process, and end it after so many seconds."""
        context = self.context(name, time.time() + seconds)
        file, log = context.scratch / f"{name}.json", context.scratch / f"{name}.log"
        context.save(file)
        print(f"{name} (at most {seconds:.0f} s)", flush=True)
        began, seen = time.time(), 0
        with started(context, [sys.executable, __file__, "--part", str(file)], log) as process:
            code = None
            while code is None and time.time() < context.deadline + GRACE:
                code = wait(process, IDLE)
                seen = self.collect(context, seen)
            mine = f"{self.mark}/"
            left = [] if code is None else [p for p in marked(mine) if p.pid != process.pid]
        self.collect(context, seen)
        if code is None:
            self.add(Row(name, name, FAILED, {}, f"did not end within {seconds:.0f} s"))
        elif code != 0:
            self.add(Row(name, name, FAILED, {}, f"ended with exit code {code}: {last_error(log)}"))
        if left:
            self.add(Row(name, name, FAILED, {}, f"{len(left)} of its processes did not end"))
        self.about[f"seconds of {name}"] = round(time.time() - began, 1)
        machine = context.scratch / "machine-found.json"
        if name == "machine" and machine.exists():
            self.machine = json.loads(machine.read_text())
            self.about |= self.machine
        self.write()

    def context(self, name: str, deadline: float) -> Context:
        on_gpu = self.arguments.device != "cpu"
        if on_gpu and name != "machine":  # which finds out
            if "gpus" not in self.machine:
                self.machine["gpus"] = count_gpus()
            on_gpu = self.machine["gpus"] > 0
            self.about["device"] = "GPU" if on_gpu else "CPU: torch finds no GPU"
        return Context(
            part=name,
            device="cuda" if on_gpu else "cpu",
            gpus=self.machine.get("gpus", 0) if on_gpu else 2,
            short=self.arguments.short,
            data=self.arguments.data and self.arguments.data.absolute(),
            output=self.output,
            mark=self.mark,
            deadline=deadline,
            plant=tuple(self.arguments.plant),
            machine=self.machine,
        )

    def share(self, name: str) -> float:
        """Of the time, relative to those of the other parts; one GPU has little to do in two of them."""
        alone = self.machine.get("gpus") == 1 and self.arguments.device != "cpu"
        return 0.1 if alone and name in SEVERAL else PARTS[name][1]

    def collect(self, context: Context, seen: int) -> int:
        """Add the rows that a part has written since; returns their number."""
        rows = context.rows.read()
        for row in rows[seen:]:
            self.add(row)
        return len(rows)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        figures = ", ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in row.values.items()
            if value is not None
        )
        print(f"  {row.state:8} {row.name}: {'; '.join(filter(None, [figures, row.note]))}", flush=True)
        self.write()

    def write(self) -> None:
        write_tables(self.output, self.about, self.rows)


def count_gpus() -> int:
    """The GPUs that a process sees; for a run without the part `machine`, or after it failed."""
    words = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        return int(subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout)
    return 0


def run_part(file: Path) -> int:
    """Run a part in this process; returns the exit code."""
    context = Context.load(file)
    try:
        if context.has_fault("raise"):
            raise RuntimeError("a planted fault")
        if context.has_fault("exit"):
            os._exit(7)
        if context.has_fault("hang"):
            time.sleep(10**6)
        importlib.import_module(PARTS[context.part][0]).run(context)
    except Exception as error:
        traceback.print_exc()
        context.check(context.part, f"{type(error).__name__}: {error}")
    return 0


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[], metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--output", type=Path, default=Path("gpu-benchmark"))
    parser.add_argument("--data", type=Path, default=None, help="a folder with MNIST, in torchvision's layout")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    parser.add_argument("--short", action="store_true", help="small networks and few steps: tests this program")
    parser.add_argument("--keep", action="store_true", help="keep the runs and logs, in DIR/gpu-scratch")
    for name, kind in (("--part", Path), ("--jobs", Path), ("--results", Path)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    parser.add_argument("--plant", nargs="+", default=[], help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.jobs is not None:
        from gpu_parts.workers import work

        return work(arguments.jobs, arguments.results)
    if arguments.part is not None:
        return run_part(arguments.part)
    return Benchmark(arguments).run([name for name in PARTS if not arguments.only or name in arguments.only])


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # not without its processes
    sys.exit(main())
