"""The preflight for a new machine or cluster: whether everything is there that a run relies on."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import gather_object
from rich.console import Console
from rich.table import Table

from gan_dist.config import (
    Config,
    DataConfig,
    DistributedConfig,
    EvaluateConfig,
    InputError,
    LogConfig,
    RunConfig,
    TrainConfig,
    TrainingFailed,
    WandbConfig,
)
from gan_dist.data.loader import make_loader
from gan_dist.data.order import GlobalBatches
from gan_dist.data.pixels import denormalize
from gan_dist.data.sources import write_idx_images
from gan_dist.data.store import ResidentImages
from gan_dist.distributed.environment import read_environment
from gan_dist.distributed.launcher import launch_advice, on_main_process, usable_cores
from gan_dist.distributed.peers import ROLL_CALL, Peers
from gan_dist.distributed.preemption import StopRequest
from gan_dist.gan.update import flatten
from gan_dist.models import build_pair
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json_lines
from gan_dist.trainer.build import build, start_processes
from gan_dist.trainer.checkpointing import checkpoint_bytes
from gan_dist.trainer.loop import train_with_rollbacks
from gan_dist.trainer.reporting import fingerprint
from gan_dist.trainer.session import conclude

STEPS = 20
PER_RANK = 8  # images of a batch
IMAGES_PER_RANK = 50  # of the scratch data set: an epoch has as many steps on any number of ranks
TIMEOUT = 30.0  # seconds: the whole preflight is to be over within a minute


@dataclasses.dataclass(frozen=True)
class Preflight:
    """What the checks have: the ranks, and a scratch folder on the disk that the runs are going to be on."""

    accelerator: Accelerator
    scratch: Path
    config: Config

    @property
    def ranks(self) -> int:
        return self.accelerator.num_processes


Verdict = tuple[bool, str]
"""Whether all is well, as this rank sees it, and what was seen."""


def preflight(folder: Path) -> int:
    """Do all checks and show them as a table. Every rank must call it.

    Args:
        folder: where runs are going to be kept; a scratch folder is made on its disk, and removed.

    Returns:
        The exit code: 0 if all is well, else 1.

    Raises:
        InputError: the folder can't be used.
        TrainingFailed: a process was lost.
    """
    timeout = timeout_for(read_environment().local_ranks, usable_cores())
    accelerator = start_processes(Config(distributed=DistributedConfig(timeout=timeout)))
    rank, ranks = accelerator.process_index, accelerator.num_processes
    rows, failed = [], False
    with contextlib.closing(Peers(rank, ranks, timeout - ROLL_CALL)) as peers:
        try:
            # What differs from host to host is rank 0's: all ranks of a run have one configuration.
            made, timeout = on_main_process(accelerator, lambda: (_make_scratch(folder, ranks), timeout))
            scratch = Path(made)
            try:
                checked = Preflight(accelerator, scratch, preflight_config(scratch, ranks, timeout))
                for name, check in CHECKS.items():
                    ok, said = _agreed(check, checked)
                    failed |= not ok
                    rows.append((name, ok, said))
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
        table = Table("check", "", "seen", title_justify="left")
        for name, ok, said in rows:
            table.add_row(name, "[green]ok[/]" if ok else "[bold red]FAILED[/]", said)
        Console().print(table)
    accelerator.end_training()
    return int(failed)


def processes_meet(check: Preflight) -> Verdict:
    """All processes that were asked for are one group."""
    if advice := launch_advice(check.ranks):
        return False, advice[0]
    hosts = gather_object([socket.gethostname()])
    kind = f"{check.ranks} process(es) on {len(set(hosts))} host(s)"
    return True, f"{kind}, {check.accelerator.device.type}, {torch.get_num_threads()} thread(s) each"


def collectives(check: Preflight) -> Verdict:
    """Latency and bandwidth of an all-reduce; bandwidth as n bytes over the wire each way, 2 (ranks - 1) / ranks n."""
    if check.ranks == 1:
        return True, "one process: none are needed"
    small, large = torch.zeros(1), torch.zeros(4 * 2**20)  # 16 MiB
    seconds = [_time_all_reduce(tensor.to(check.accelerator.device)) for tensor in (small, large)]
    sent = 2 * (check.ranks - 1) / check.ranks * large.numel() * large.element_size()
    return True, f"latency {1e3 * seconds[0]:.2f} ms, bandwidth {sent / seconds[1] / 1e9:.2f} GB/s"


def same_weights(check: Preflight) -> Verdict:
    """Every rank makes the same first weights from the seed."""
    networks = build_pair(check.config.model, (1, 28, 28), check.config.train.seed)
    fingerprints = set(gather_object([fingerprint(torch.cat([flatten(network) for network in networks]))]))
    return len(fingerprints) == 1, f"first weights {', '.join(sorted(fingerprints))}"


def shards(check: Preflight) -> Verdict:
    """Through the real loader, every image of an epoch comes to exactly one rank, once."""
    device, size = check.accelerator.device, check.config.train.batch_size
    count = 40 * size
    numbers = torch.arange(count)
    # Each picture's three pixels are its number: enough for the images of 50,000 ranks.
    numbered = torch.stack([numbers >> 16, numbers >> 8 & 255, numbers & 255], 1).to(torch.uint8).view(count, 1, 1, 3)
    batches = GlobalBatches(count, size, check.config.train.seed, range(40), device)
    loader = check.accelerator.prepare(make_loader(ResidentImages(numbered.to(device)), batches))
    pixels = torch.cat([(denormalize(batch) * 255).round().long().cpu().view(-1, 3) for batch in loader])
    mine = (pixels @ torch.tensor([1 << 16, 1 << 8, 1])).tolist()
    seen = gather_object(mine)
    return (
        sorted(seen) == list(range(count)),
        f"{len(set(seen)):,} of the {count:,} images of an epoch, in {check.ranks} shard(s) of {len(mine):,}",
    )


def disk(check: Preflight) -> Verdict:
    """The disk takes a checkpoint's bytes, and has room for those that are kept. Rank 0 writes."""
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
    """A run that is stopped and started again ends with the bits of one that was not; all ranks hold the same."""
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
    "first weights": same_weights,
    "shards": shards,
    "disk": disk,
    "stop and resume": stop_and_resume,
}


def _agreed(check: Callable[[Preflight], Verdict], checked: Preflight) -> Verdict:
    """A check is passed if every rank passes it; else what the first that failed has seen."""
    try:
        verdict = check(checked)
    except InputError as error:  # every rank has it
        verdict = False, str(error)
    verdicts = gather_object([verdict])
    return next((other for other in verdicts if not other[0]), verdicts[0])


def timeout_for(local_ranks: int, cores: int) -> float:
    """Seconds that the ranks wait for each other: several on one core start, and work, one after the other."""
    return TIMEOUT * max(1.0, local_ranks / cores)


def preflight_config(scratch: Path, ranks: int, timeout: float) -> Config:
    """Of the small run that is stopped and started again."""
    return Config(
        data=DataConfig(root=scratch / "data", source="local"),
        train=TrainConfig(steps=STEPS, batch_size=PER_RANK * ranks, log_hashes=5),
        log=LogConfig(every_steps=5),
        distributed=DistributedConfig(timeout=timeout),
        evaluate=EvaluateConfig(every_epochs=None),
        wandb=WandbConfig(mode="disabled", timeout=1.0),
    )


def scratch_images(ranks: int) -> np.ndarray:
    """Images for `preflight_config`: (n, 28, 28) of noise."""
    return np.random.default_rng(0).integers(0, 256, (max(100, IMAGES_PER_RANK * ranks), 28, 28), dtype=np.uint8)


def _make_scratch(folder: Path, ranks: int) -> str:
    run_folder = RunFolder(folder)
    run_folder.check_usable()
    scratch = Path(tempfile.mkdtemp(prefix="check-", dir=run_folder.nearest_existing().absolute()))
    write_idx_images(scratch / "data", "mnist", scratch_images(ranks))
    return str(scratch)


def _train(config: Config, accelerator: Accelerator, stop: bool) -> int:
    """Train in silence, to the end or until the stop that is asked for at once; the steps done."""
    request, folder = StopRequest(), RunFolder(config.run.dir)
    if stop:
        request.ask("the preflight")
    with contextlib.closing(folder), contextlib.redirect_stdout(io.StringIO()):
        trainer = build(config, folder, request, accelerator)
        state = train_with_rollbacks(trainer)
        on_main_process(accelerator, lambda: conclude(trainer, state, request.reason))
    return trainer.step


def _time_all_reduce(tensor: torch.Tensor, rounds: int = 10) -> float:
    """Seconds, the median after a first one that connects."""
    seconds = []
    for _ in range(1 + rounds):
        began = time.perf_counter()
        dist.all_reduce(tensor)
        if tensor.device.type != "cpu":
            torch.accelerator.synchronize()
        seconds.append(time.perf_counter() - began)
    return sorted(seconds[1:])[rounds // 2]
