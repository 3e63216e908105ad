"""Starting the toolkit as users do."""

from __future__ import annotations

import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
TRAIN = str(REPOSITORY / "gan_dist" / "train.py")
ACCELERATE = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]


def launcher(processes: int, *more: str) -> list[str]:
    """The command line before the script and its flags: accelerate launch, or python for one process.

    Args:
        processes: number of processes.
        more: options of accelerate launch.
    """
    if processes == 1 and not more:
        return [sys.executable]
    config = str(REPOSITORY / "accelerate_config.yaml")
    return [*ACCELERATE, "--config_file", config, "--num_processes", str(processes), *more]


def environment() -> dict[str, str]:
    """Environment variables for measured runs: W&B offline, and no preset number of threads."""
    kept = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "WANDB_API_KEY")}
    return kept | {"WANDB_MODE": "offline"}
