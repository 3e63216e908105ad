"""How the gradients cross the ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs, DistributedDataParallelKwargs, gather_object, patch_environment
from torch import nn

from gan_dist.config import Config, TrainConfig
from gan_dist.distributed.cpu_exchange import CpuExchange, group_by_host, open_exchange
from gan_dist.distributed.environment import read_environment
from gan_dist.gan.reduction import (
    ExactReduction,
    FastReduction,
    Gather,
    HierarchicalReduction,
    Reduction,
    add_local_pairs,
)

Announce = Callable[[str], None]
GradientSync = Literal["flat", "ddp"]
FIRST_BUCKET_BYTES, BUCKET_BYTES = 2**20, 25 * 2**20  # of DistributedDataParallel
DDP_BYTES = FIRST_BUCKET_BYTES + 2 * BUCKET_BYTES
"""Gradients of a network in fp32 from which on auto chooses DDP.

The last bucket can't overlap with the backward pass, so below one bucket there is nothing to gain, and CUDA graphs,
which do not replay DDP's hooks, are lost. From here on, half of the bytes overlap or more. docs/scaling.md has the
prediction; nothing was measured.
"""


def choose_gradient_sync(config: Config, weights: int, accelerator: Accelerator) -> GradientSync:
    """How the gradients cross the ranks, if distributed.gradients leaves it open.

    Args:
        config: of the run.
        weights: of the larger network.
        accelerator: of the ranks.
    """
    sync = config.distributed.gradients
    if accelerator.num_processes == 1:
        return "flat"
    if sync != "auto":
        return sync
    train = config.train
    if accelerator.device.type == "cpu" or train.exact_shards is not None or train.capture == "on":
        return "flat"
    return "ddp" if 4 * weights >= DDP_BYTES else "flat"


def open_cpu_exchange(
    config: Config, sync: GradientSync, weights: int, accelerator: Accelerator, timeout: float, announce: Announce
) -> CpuExchange | None:
    """Shared memory of processes that train on the CPU of one machine or several; None where there is none.

    Args:
        config: of the run.
        sync: of `choose_gradient_sync`.
        weights: of the larger network.
        accelerator: of the ranks.
        timeout: seconds to wait for another rank.
        announce: called with one line if shared memory is unavailable.
    """
    rank, ranks = accelerator.process_index, accelerator.num_processes
    if ranks == 1 or sync == "ddp" or accelerator.device.type != "cpu" or not config.distributed.shared_memory:
        return None
    launched = read_environment()
    hosts = group_by_host(gather_object([launched.rank - launched.local_rank]))
    # In the exact mode, a rank adds what it can of its shards' gradients before it sends the rest.
    rows = add_local_pairs(torch.empty(make_reduction(config.train, ranks).rows, 0))
    numbers = len(rows) * (weights + ranks + 1)  # of an update: the gradients, the guard's numbers, the stop signal
    return open_exchange(rank, hosts, numbers, lambda mine: gather_object([mine]), timeout, announce)


def make_reduction(config: TrainConfig, ranks: int, exchange: CpuExchange | None = None) -> Reduction:
    """How gradients are added over the ranks: the exact way or the fast one."""

    def over(ranks: int, gather: Gather | None = None, group: Any = None) -> Reduction:
        if config.exact_shards is not None:
            return ExactReduction(ranks, config.exact_shards, gather, group)
        return FastReduction(ranks, config.accumulation, gather=gather, group=group)

    if exchange is None:
        return over(ranks)
    if exchange.hosts == 1:
        return over(ranks, gather=exchange.memory.gather)
    return HierarchicalReduction(over(ranks), over(exchange.hosts, group=exchange.firsts), exchange.memory.reduce)


def wrap_in_ddp(module: nn.Module, accelerator: Accelerator, bucket_bytes: int = BUCKET_BYTES) -> nn.Module:
    """Accelerate's DistributedDataParallel of a module, without its autocast: half-precision passes use half networks.

    A collective of all ranks.

    Args:
        module: on its device.
        accelerator: of the ranks.
        bucket_bytes: maximum size of a bucket, in fp32.
    """
    megabytes = bucket_bytes / 2**20 * next(module.parameters()).element_size() / torch.float32.itemsize
    accelerator.autocast_handler = AutocastKwargs(enabled=False)
    accelerator.ddp_handler = DistributedDataParallelKwargs(
        gradient_as_bucket_view=True,
        bucket_cap_mb=megabytes,  # Accelerate expects whole ones, torch does not
    )
    # It is on its device. Between several processes on the CPU, Accelerate's move would replace the weights, which are
    # views of a vector, by copies, and the optimizer would update the vector only.
    # DistributedDataParallel has to move no inputs either: Accelerate would name it the GPU of LOCAL_RANK, which a
    # process that was given its own GPU alone does not see.
    with patch_environment(ACCELERATE_BYPASS_DEVICE_MAP="true"):
        return accelerator.prepare_model(module, device_placement=False)


def describe_gradient_sync(sync: GradientSync, exchange: CpuExchange | None, accelerator: Accelerator) -> str:
    """How the gradients cross the ranks, for environment.json."""
    if accelerator.num_processes == 1:
        return "none: one process"
    kind = accelerator.device.type
    backend = {"cpu": "gloo", "cuda": "nccl"}.get(kind, kind)
    return f"{sync}: {exchange.describe() if exchange else backend}"
