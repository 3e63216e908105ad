"""How the benchmarks start the toolkit: as its users do."""

from __future__ import annotations

import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
TRAIN = str(REPOSITORY / "gan_dist" / "train.py")
ACCELERATE = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]


def launcher(processes: int, *more: str) -> list[str]:
    """The command that a script and its flags follow: accelerate launch, or nothing but python for one process.

    Args:
        processes: how many.
        more: options of accelerate launch.
    """
    if processes == 1 and not more:
        return [sys.executable]
    config = str(REPOSITORY / "accelerate_config.yaml")
    return [*ACCELERATE, "--config_file", config, "--num_processes", str(processes), *more]


def environment() -> dict[str, str]:
    """The variables of what is measured: no dashboard, and the threads that it takes by itself."""
    kept = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "WANDB_API_KEY")}
    return kept | {"WANDB_MODE": "offline"}
