"""Trains, and records the end of the first step, and the memory of each rank at the 50th.

    first_step.py FILE [flags of train.py]

Rank r writes FILE-r: "time" of the end of the first step, and in MB the "peak" of its memory, the "private MB" that no
other process shares, and "pixels RSS MB" and "pixels PSS MB": what it has mapped of the prepared pixels, in full and
divided by the number of processes that share it. For throughput.py and data.py.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gan_dist import train

file, flags = Path(sys.argv[1]), sys.argv[2:]


def mapped_memory() -> dict[str, float]:
    """Memory of this process by the kernel's account, in MB."""
    found = {"private MB": 0.0, "pixels RSS MB": 0.0, "pixels PSS MB": 0.0}
    name = ""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key, *values = line.split()
        if not key.endswith(":"):  # the first line of a mapping: addresses, …, file
            name = values[-1] if len(values) == 5 else ""
        elif key in ("Private_Clean:", "Private_Dirty:"):
            found["private MB"] += int(values[0]) / 1024
        elif key in ("Rss:", "Pss:") and name.endswith("/pixels.bin"):
            found[f"pixels {key[:-1].upper()} MB"] += int(values[0]) / 1024
    return found


def instrument() -> None:
    """Record the time after the first step, and the memory after the 50th."""
    from gan_dist.trainer import loop

    original, measured, steps = loop.train_step, {}, itertools.count(1)

    def train_step(*arguments):  # type: ignore[no-untyped-def]
        original(*arguments)
        step = next(steps)
        if step == 1:
            measured["time"] = time.time()
        if step == 50:
            measured["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            measured.update(mapped_memory())
            file.with_name(f"{file.name}-{os.environ.get('RANK', '0')}").write_text(json.dumps(measured))

    loop.train_step = train_step


if __name__ == "__main__":
    config = train.parse(flags)  # before torch is imported, as in train.py
    instrument()
    from gan_dist.trainer.loop import run_to_end

    sys.exit(run_to_end(config))
