"""Settings of the OpenMP runtime, which reads them when torch is loaded."""

from __future__ import annotations

import os

SPIN_COUNT = "1000"


def limit_spinning() -> None:
    """Have threads that wait for each other sleep soon. Call it before torch is imported.

    GNU OpenMP's threads spin while they wait, for long where they believe that each has a core of its own. On a machine
    that does anything else they take the cores from the work that they wait for: `accelerate launch`, which sets
    OMP_NUM_THREADS=1 whatever follows, then trains at a hundredth of the speed. What the user set stays as it is.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
