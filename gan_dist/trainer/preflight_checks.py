"""The checks of the preflight. A new check is a function and a line in CHECKS."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import gather_object

from gan_dist.config import (
    Config,
    DataConfig,
    DistributedConfig,
    EvaluateConfig,
    LogConfig,
    RunConfig,
    TrainConfig,
    WandbConfig,
)
from gan_dist.data.images import ImageSet
from gan_dist.data.loader import make_loader
from gan_dist.data.order import GlobalBatches
from gan_dist.data.pixels import denormalize
from gan_dist.data.readers.reader import Provenance
from gan_dist.data.spec import DataSpec
from gan_dist.data.store import DeviceStore
from gan_dist.distributed.launch_command import launch_warnings
from gan_dist.distributed.main_process import on_main_process
from gan_dist.distributed.preemption import StopRequest
from gan_dist.gan.update import flatten
from gan_dist.models import build_pair
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json_lines
from gan_dist.trainer.build import build
from gan_dist.trainer.checkpointing import checkpoint_bytes
from gan_dist.trainer.loop import train_with_rollbacks
from gan_dist.trainer.reporting import fingerprint
from gan_dist.trainer.session import conclude

STEPS = 20
PER_RANK = 8  # images per batch
IMAGES_PER_RANK = 50  # images of the scratch data set; the steps per epoch do not depend on the number of ranks
TIMEOUT = 30.0  # seconds; the whole preflight should end within a minute


@dataclasses.dataclass(frozen=True)
class Preflight:
    """What the checks need: the ranks, and a scratch folder on the disk of the future runs."""

    accelerator: Accelerator
    scratch: Path
    config: Config

    @property
    def ranks(self) -> int:
        return self.accelerator.num_processes


Verdict = tuple[bool, str]
"""Whether the check passed on this rank, and its result as text."""


def processes_meet(check: Preflight) -> Verdict:
    """All requested processes form one group."""
    if advice := launch_warnings(check.ranks):
        return False, advice[0]
    hosts = gather_object([socket.gethostname()])
    kind = f"{check.ranks} process(es) on {len(set(hosts))} host(s)"
    return True, f"{kind}, {check.accelerator.device.type}, {torch.get_num_threads()} thread(s) each"


def collectives(check: Preflight) -> Verdict:
    """Latency and bandwidth of an all-reduce of n bytes; 2 (ranks - 1) / ranks n bytes cross the network per rank."""
    if check.ranks == 1:
        return True, "one process: not needed"
    small, large = torch.zeros(1), torch.zeros(4 * 2**20)  # 16 MiB
    seconds = [_time_all_reduce(tensor.to(check.accelerator.device)) for tensor in (small, large)]
    sent = 2 * (check.ranks - 1) / check.ranks * large.numel() * large.element_size()
    return True, f"latency {1e3 * seconds[0]:.2f} ms, bandwidth {sent / seconds[1] / 1e9:.2f} GB/s"


def same_weights(check: Preflight) -> Verdict:
    """Every rank draws the same initial weights from the seed."""
    networks = build_pair(check.config.model, (1, 28, 28), check.config.train.seed)
    fingerprints = set(gather_object([fingerprint(torch.cat([flatten(network) for network in networks]))]))
    return len(fingerprints) == 1, f"initial weights {', '.join(sorted(fingerprints))}"


def shards(check: Preflight) -> Verdict:
    """The loader yields every image of an epoch exactly once, on one rank."""
    device, size = check.accelerator.device, check.config.train.batch_size
    count = 40 * size
    numbers = torch.arange(count)
    # The three pixels of an image encode its index, enough for 50,000 ranks.
    numbered = torch.stack([numbers >> 16, numbers >> 8 & 255, numbers & 255], 1).to(torch.uint8).view(count, 1, 1, 3)
    batches = GlobalBatches(count, size, check.config.train.seed, range(40), device)
    spec = DataSpec("numbers", (1, 1, 3), None, count, 0, "unlabelled")
    images = ImageSet(numbered, None, spec, Provenance("numbers", "local", "", count, "", ""))
    loader = make_loader(DeviceStore(images, device), batches, check.accelerator.prepare)
    received = [pending.result().images for pending in loader]
    pixels = torch.cat([(denormalize(part) * 255).round().long().cpu().view(-1, 3) for part in received])
    mine = (pixels @ torch.tensor([1 << 16, 1 << 8, 1])).tolist()
    seen = gather_object(mine)
    return (
        sorted(seen) == list(range(count)),
        f"{len(set(seen)):,} of the {count:,} images of an epoch, in {check.ranks} shard(s) of {len(mine):,}",
    )


def disk(check: Preflight) -> Verdict:
    """The disk can store a checkpoint, and has space for those that are kept. Rank 0 writes."""
    size = checkpoint_bytes(build_pair(check.config.model, (1, 28, 28), check.config.train.seed))
    wanted = (check.config.checkpoint.keep + 2) * size

    def write() -> Verdict:
        began = time.perf_counter()
        with open(check.scratch / "bytes", "wb") as stream:
            stream.write(os.urandom(size))
            stream.flush()
            os.fsync(stream.fileno())
        seconds, free = time.perf_counter() - began, shutil.disk_usage(check.scratch).free
        said = (
            f"{size / 1e6:.1f} MB written in {1e3 * seconds:.0f} ms, {free / 1e9:.2f} GB free in {check.scratch.parent}"
        )
        return free > wanted, said if free > wanted else f"{said}; a run of the preset seed needs {wanted / 1e6:.0f} MB"

    return on_main_process(check.accelerator, write)


def stop_and_resume(check: Preflight) -> Verdict:
    """A run that is stopped and resumed ends bit-identical to one that is not; all ranks hold the same weights."""
    lines = []
    for name, stops in (("straight", [False]), ("stopped", [True, False])):
        config = dataclasses.replace(check.config, run=RunConfig(dir=check.scratch / name))
        for stop in stops:
            stopped_at = _train(config, check.accelerator, stop)
            if stop:
                first_stop = stopped_at
        lines.append(on_main_process(check.accelerator, lambda: read_json_lines(RunFolder(config.run.dir).hashes)))  # noqa: B023
    straight, stopped = lines
    agree = not any(line["ranks_differ"] for line in straight + stopped)
    same = straight == stopped and [line["step"] for line in straight][-1:] == [STEPS]
    said = f"{STEPS} steps, stopped after {first_stop}: hashes {'equal' if same else 'DIFFER'}"
    return same and agree, said + ("" if agree else "; the ranks hold different weights")


CHECKS: dict[str, Callable[[Preflight], Verdict]] = {
    "processes": processes_meet,
    "collectives": collectives,
    "initial weights": same_weights,
    "shards": shards,
    "disk": disk,
    "stop and resume": stop_and_resume,
}


def timeout_for(local_ranks: int, cores: int) -> float:
    """Timeout in seconds: ranks that share a core start and compute one after the other."""
    return TIMEOUT * max(1.0, local_ranks / cores)


def preflight_config(scratch: Path, ranks: int, timeout: float, shards: int | None = None) -> Config:
    """The configuration of the small run that is stopped and resumed.

    Args:
        scratch: folder of its images.
        ranks: number of processes.
        timeout: distributed.timeout.
        shards: train.exact_shards.
    """
    return Config(
        data=DataConfig(root=scratch / "data", source="local"),
        train=TrainConfig(steps=STEPS, batch_size=PER_RANK * ranks, log_hashes=5, exact_shards=shards),
        log=LogConfig(every_steps=5),
        distributed=DistributedConfig(timeout=timeout),
        evaluate=EvaluateConfig(every_epochs=None),
        wandb=WandbConfig(mode="disabled", timeout=1.0),
    )


def scratch_images(ranks: int) -> np.ndarray:
    """Noise images for `preflight_config`, (n, 28, 28)."""
    return np.random.default_rng(0).integers(0, 256, (max(100, IMAGES_PER_RANK * ranks), 28, 28), dtype=np.uint8)


def _train(config: Config, accelerator: Accelerator, stop: bool) -> int:
    """Train without output, to the end or with an immediate stop request; returns the number of completed steps."""
    request, folder = StopRequest(), RunFolder(config.run.dir)
    if stop:
        request.ask("the preflight")
    with contextlib.closing(folder), contextlib.redirect_stdout(io.StringIO()):
        trainer = build(config, folder, request, accelerator)
        state = train_with_rollbacks(trainer)
        on_main_process(accelerator, lambda: conclude(trainer, state, request.reason))
    return trainer.step


def _time_all_reduce(tensor: torch.Tensor, rounds: int = 10) -> float:
    """Median seconds, after a first call that connects."""
    seconds = []
    for _ in range(1 + rounds):
        began = time.perf_counter()
        dist.all_reduce(tensor)
        if tensor.device.type != "cpu":
            torch.accelerator.synchronize()
        seconds.append(time.perf_counter() - began)
    return sorted(seconds[1:])[rounds // 2]
