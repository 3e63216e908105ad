"""Trains, and records the end of the first step, and the peak memory up to the 50th.

    first_step.py FILE [flags of train.py]

For throughput.py.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gan_dist import train

file, flags = Path(sys.argv[1]), sys.argv[2:]


def instrument() -> None:
    """Record the time after the first step, and the peak memory after the 50th."""
    from gan_dist.trainer import loop

    original, measured = loop.generator_step, {}

    def generator_step(gan, batch, step):  # type: ignore[no-untyped-def]
        stats = original(gan, batch, step)
        if step == 1:
            measured["time"] = time.time()
        if step == 50:
            measured["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            file.write_text(json.dumps(measured))
        return stats

    loop.generator_step = generator_step


if __name__ == "__main__":
    config = train.parse(flags)  # before torch is imported, as in train.py
    instrument()
    from gan_dist.trainer.loop import run_to_end

    sys.exit(run_to_end(config))
