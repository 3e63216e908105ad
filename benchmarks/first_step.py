"""Trains one step and writes down when it was done, and the most memory that the process had by the 50th.

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


def watched() -> None:
    """Put a look at the clock behind the first step, and at the memory behind the 50th."""
    from gan_dist.trainer import loop

    plain, seen = loop.generator_step, {}

    def generator_step(gan, real, step):  # type: ignore[no-untyped-def]
        stats = plain(gan, real, step)
        if step == 1:
            seen["time"] = time.time()
        if step == 50:
            seen["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            file.write_text(json.dumps(seen))
        return stats

    loop.generator_step = generator_step


if __name__ == "__main__":
    config = train.parse(flags)  # before torch, as train.py does it: a typing error is told at once
    watched()
    from gan_dist.trainer.loop import run_to_end

    sys.exit(run_to_end(config))
