"""The trainer: everything that a run needs on one rank."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from accelerate import Accelerator
from torch import Tensor

from gan_dist.config import Config
from gan_dist.config.derived import Derived
from gan_dist.data.images import ImageSet
from gan_dist.data.order import GlobalBatches
from gan_dist.data.store import PendingBatch, Store
from gan_dist.distributed.device_wait import DeviceWait
from gan_dist.distributed.devices import Device
from gan_dist.distributed.shared_memory import SharedMemory
from gan_dist.distributed.stop_agreement import StopAgreement
from gan_dist.gan.guard import NonfiniteGuard, NonfiniteUpdate
from gan_dist.gan.steps import Gan
from gan_dist.models.average import GeneratorAverage
from gan_dist.outputs.checkpoint import Checkpoints
from gan_dist.outputs.console import Console
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.trackers.protocol import Tracker
from gan_dist.outputs.writer import Writer
from gan_dist.trainer.augmentation import AugmentProbability
from gan_dist.trainer.cadence import Cadence
from gan_dist.trainer.evaluator import Evaluator
from gan_dist.trainer.hyperparameters import Hyperparameters
from gan_dist.trainer.images import AccessByRank
from gan_dist.trainer.meter import Meter
from gan_dist.trainer.profiling import Profiler
from gan_dist.trainer.schedule import Schedule
from gan_dist.trainer.timing import Timing


class Best(NamedTuple):
    step: int
    distance: float


class FindingEvent(NamedTuple):
    """A change in the doctor's findings."""

    step: int
    state: str
    """found or resolved."""
    finding: str
    evidence: str
    advice: str


@dataclass
class Trainer:
    """The state of a run on one rank. Every rank has one; only rank 0 writes files."""

    config: Config
    accelerator: Accelerator
    gan: Gan
    ema: GeneratorAverage
    batches: GlobalBatches
    store: Store
    """Where the training images are."""
    loader: Iterable[PendingBatch]
    """This rank's share of each batch, one batch ahead."""
    captured: bool
    """Whether steps are captured as CUDA graphs."""
    schedule: Schedule
    cadence: Cadence
    hyperparameters: Hyperparameters
    augment_probability: AugmentProbability
    guard: NonfiniteGuard
    meter: Meter
    wait: DeviceWait
    """Called before copies to the host that follow collectives."""
    stopping: StopAgreement
    memory: SharedMemory | None
    """Shared memory in which the ranks exchange gradients; None: through the process group."""
    gradients: str
    """How the gradients cross the ranks."""
    evaluator: Evaluator
    writer: Writer
    folder: RunFolder
    checkpoints: Checkpoints
    tracker: Tracker
    console: Console
    profiler: Profiler
    images: ImageSet
    fixed_latents: Tensor
    """Latents of the sample grids, (n, latent_dim): 64, or 8 for each class that has a row."""
    fixed_labels: Tensor | None
    """Labels of the sample grids, (n,); None if the networks are unconditional."""
    run_id: str
    """Identifies the checkpoints of this run."""
    timing: Timing
    devices: list[Device] = field(default_factory=list)
    """The device of each rank."""
    images_access: AccessByRank = field(default_factory=dict)
    """How each rank got the images."""
    derived: list[Derived] = field(default_factory=list)
    """Settings that were derived from the data."""
    step: int = 0
    """Number of completed steps."""
    best: Best | None = None
    """Evaluation with the smallest Fréchet distance so far."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Lines of metrics.jsonl. On rank 0 only, as the next three."""
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    """Lines of evaluations.jsonl."""
    floor: dict[str, float] = field(default_factory=dict)
    """Figures of real images; empty before the first evaluation."""
    active_findings: set[str] = field(default_factory=set)
    """Names of the findings of the latest diagnosis."""
    finding_events: list[FindingEvent] = field(default_factory=list)
    """What changed in the findings in this session."""
    updates_skipped: int = 0
    """Number of updates skipped because of NaN or infinity, over all sessions."""
    failure: NonfiniteUpdate | None = None
    """Non-finite update that ends the run, once the state before it is saved."""
    last_step: int | None = None
    """Last step of a run that ends with `failure`."""
    rollbacks: list[int] = field(default_factory=list)
    """Steps that caused a rollback in this session."""

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes."""
        return self.accelerator.is_main_process

    @property
    def is_best(self) -> bool:
        """Whether the evaluation of this step is the best one so far."""
        return self.best is not None and self.best.step == self.step
