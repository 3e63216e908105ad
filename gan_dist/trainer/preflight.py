"""The preflight of a new machine or cluster: checks everything that a run relies on."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate.utils import gather_object
from rich.console import Console
from rich.table import Table

from gan_dist.config import Config, DistributedConfig, InputError, TrainConfig, TrainingFailed
from gan_dist.data.readers.idx import write_idx_images
from gan_dist.distributed.environment import read_environment
from gan_dist.distributed.group_exit import leave_group
from gan_dist.distributed.machine import usable_cores
from gan_dist.distributed.main_process import on_main_process
from gan_dist.distributed.peers import Peers
from gan_dist.outputs.folder import RunFolder
from gan_dist.trainer.build import start_processes
from gan_dist.trainer.networks import collective_timeout
from gan_dist.trainer.preflight_checks import CHECKS, Preflight, Verdict, preflight_config, scratch_images, timeout_for


def preflight(folder: Path) -> int:
    """Run all checks and show them as a table. A collective: every rank must call it.

    Args:
        folder: where runs will be stored; a scratch folder on its disk is created and removed.

    Returns:
        The exit code: 0 if all checks pass, else 1.

    Raises:
        InputError: the folder is not usable.
        TrainingFailed: a process was lost.
    """
    launched = read_environment()
    timeout = timeout_for(launched.local_ranks, usable_cores())
    # On GPUs, only the exact mode promises the same bits after a stop: in a CUDA graph, NCCL may add in another order.
    shards = launched.ranks if torch.cuda.is_available() else None
    config = Config(distributed=DistributedConfig(timeout=timeout), train=TrainConfig(exact_shards=shards))
    accelerator = start_processes(config)
    rank, ranks = accelerator.process_index, accelerator.num_processes
    rows, failed = [], False
    with contextlib.closing(Peers(rank, ranks, collective_timeout(config))) as peers:
        try:
            # Values that may differ between hosts are those of rank 0: all ranks of a run have the same configuration.
            made, timeout = on_main_process(accelerator, lambda: (_make_scratch(folder, ranks), timeout))
            scratch = Path(made)
            try:
                checked = Preflight(accelerator, scratch, preflight_config(scratch, ranks, timeout, shards))
                for name, check in CHECKS.items():
                    ok, result = _agreed(check, checked)
                    failed |= not ok
                    rows.append((name, ok, result))
            finally:
                if accelerator.is_main_process:
                    shutil.rmtree(scratch, ignore_errors=True)
        except InputError as error:
            error.common = True
            raise
        except BaseException as error:
            if lost := peers.find_lost(error):
                raise TrainingFailed(f"the preflight {lost.message}", lost.reported_by) from error
            raise
    if accelerator.is_main_process:
        table = Table("check", "", "result", title_justify="left")
        for name, ok, result in rows:
            table.add_row(name, "[green]ok[/]" if ok else "[bold red]FAILED[/]", result)
        Console().print(table)
    leave_group(accelerator.device, accelerator.end_training)
    return int(failed)


def _agreed(check: Callable[[Preflight], Verdict], checked: Preflight) -> Verdict:
    """The combined verdict: a check passes if it passes on every rank; else the result of the first rank that fails."""
    try:
        verdict = check(checked)
    except InputError as error:  # the same on every rank
        verdict = False, str(error)
    verdicts = gather_object([verdict])
    return next((other for other in verdicts if not other[0]), verdicts[0])


def _make_scratch(folder: Path, ranks: int) -> str:
    run_folder = RunFolder(folder)
    run_folder.check_usable()
    scratch = Path(tempfile.mkdtemp(prefix="check-", dir=run_folder.nearest_existing().absolute()))
    write_idx_images(scratch / "data", "mnist", scratch_images(ranks))
    return str(scratch)
