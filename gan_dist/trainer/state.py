"""A run: all that it consists of, on one rank."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

from gan_dist.config import Config
from gan_dist.data.order import GlobalBatches
from gan_dist.data.sources import ImageSet
from gan_dist.distributed.preemption import StopAgreement
from gan_dist.distributed.shared_memory import SharedMemory
from gan_dist.gan.guard import Guard, NotFinite
from gan_dist.gan.steps import Gan
from gan_dist.models.average import GeneratorAverage
from gan_dist.outputs.checkpoint import Checkpoints
from gan_dist.outputs.console import Console
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.trackers.wandb import WandbTracker
from gan_dist.outputs.writer import Writer
from gan_dist.trainer.evaluator import Evaluator
from gan_dist.trainer.hyperparameters import Hyperparameters
from gan_dist.trainer.meter import Meter
from gan_dist.trainer.profiling import Profiler
from gan_dist.trainer.schedule import Schedule
from gan_dist.trainer.timing import Timing


class Best(NamedTuple):
    step: int
    distance: float


@dataclass
class Trainer:
    """All that a run consists of. Every rank has one; what writes does so on rank 0 alone."""

    config: Config
    accelerator: Accelerator
    gan: Gan
    ema: GeneratorAverage
    batches: GlobalBatches
    loader: DataLoader[Tensor]
    schedule: Schedule
    hyperparameters: Hyperparameters
    guard: Guard
    meter: Meter
    stopping: StopAgreement
    memory: SharedMemory | None
    """Where the ranks add their gradients, if they share one."""
    evaluator: Evaluator
    writer: Writer
    folder: RunFolder
    checkpoints: Checkpoints
    tracker: WandbTracker
    console: Console
    profiler: Profiler
    images: ImageSet
    fixed_latents: Tensor
    """(64, latent_dim), those of the sample grids."""
    run_id: str
    """What the run's checkpoints are known by."""
    timing: Timing
    step: int = 0
    """Completed steps."""
    best: Best | None = None
    """The evaluation with the smallest Fréchet distance so far."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """The lines of metrics.jsonl. Rank 0 only, like the next three."""
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    """Those of evaluations.jsonl."""
    floor: dict[str, float] = field(default_factory=dict)
    """The figures of real images; nothing before the first evaluation."""
    active_findings: set[str] = field(default_factory=set)
    """What the doctor found wrong when it was asked last."""
    updates_skipped: int = 0
    """Updates that were left out for NaN or infinity, in the whole run."""
    failure: NotFinite | None = None
    """Why the run ends, as soon as the state before it is saved."""
    last_step: int | None = None
    """The step after which it then ends."""
    rollbacks: list[int] = field(default_factory=list)
    """The steps that this session went back from."""

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process

    @property
    def is_best(self) -> bool:
        """The newest evaluation, of this step, is the best one."""
        return self.best is not None and self.best.step == self.step
