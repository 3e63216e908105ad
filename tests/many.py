"""Processes that train one run after the other, as they are asked to: each run less takes two starts of torch less.

    accelerate launch ... many.py FOLDER

Each rank waits for FOLDER/N.json, which names a module with a function main and its arguments, calls it, and leaves the
exit code in FOLDER/N.RANK. FOLDER/end ends it. `Group` is the other side.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from accelerate.state import AcceleratorState, GradientState, PartialState

SECONDS = 120.0


class Group:
    """Processes of many.py.

    Args:
        command: the launcher, with the number of processes.
        processes: how many it starts.
        folder: for what goes to and fro; what they print is in FOLDER/log.
        env: the launcher's environment.
    """

    def __init__(self, command: Sequence[str], processes: int, folder: Path, env: dict[str, str]) -> None:
        self.processes = processes
        self.folder = folder
        self._count = 0
        with open(folder / "log", "w") as log:
            self._process = subprocess.Popen([*command, __file__, str(folder)], stdout=log, stderr=log, env=env)

    def run(self, module: str, arguments: Sequence[str]) -> None:
        """Have every process call MODULE.main(arguments), which has to return 0."""
        self._count += 1
        write(self.folder / f"{self._count}.json", json.dumps([module, list(arguments)]))
        give_up = time.monotonic() + SECONDS
        for rank in range(self.processes):
            code = self.folder / f"{self._count}.{rank}"
            while not code.exists():
                assert self._process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < give_up, (self.folder / "log").read_text()
                time.sleep(0.05)
            assert code.read_text() == "0", (self.folder / "log").read_text()

    def close(self) -> None:
        (self.folder / "end").touch()
        try:
            assert self._process.wait(SECONDS) == 0, (self.folder / "log").read_text()
        finally:
            self._process.kill()


def write(file: Path, content: str) -> None:
    beside = file.with_name(f".{file.name}-{os.getpid()}")
    beside.write_text(content)
    beside.rename(file)


def reset_accelerate() -> None:
    """Clear Accelerate's global state, which keeps the precision and device of the first Accelerator."""
    for state in (AcceleratorState, PartialState, GradientState):
        state._shared_state.clear()


def main(folder: Path) -> None:
    for count in itertools.count(1):
        while not (job := folder / f"{count}.json").exists():
            if (folder / "end").exists():
                return
            time.sleep(0.05)
        module, arguments = json.loads(job.read_text())
        reset_accelerate()
        # As the launcher counts its attempts: each group gets keys of its own in the store where they meet.
        os.environ["TORCHELASTIC_RESTART_COUNT"] = str(count)
        code = importlib.import_module(module).main(arguments)
        write(folder / f"{count}.{os.environ['RANK']}", str(code))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
