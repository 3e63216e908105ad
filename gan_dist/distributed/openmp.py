"""Settings of the OpenMP runtime, which reads them when torch is loaded."""

from __future__ import annotations

import os

# On a quiet machine (AVX-512, batch 100), two threads reached 0.6 of their best speed with 1,000, and nearly all of it
# from 20,000 on. A run that finds its machine busy at the start uses one thread, which does not wait for others.
SPIN_COUNT = "20000"


def limit_spinning() -> None:
    """Make threads that wait for each other sleep after a short time. Call it before torch is imported.

    GNU OpenMP's threads spin while they wait, for a long time if they assume that each has a core of its own. On a busy
    machine they take the cores from the work that they wait for: `accelerate launch`, which always sets
    OMP_NUM_THREADS=1, then trains at a hundredth of the speed. Variables that the user has set are not changed.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
