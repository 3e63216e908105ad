"""What a run is: every setting with its unit and range, the presets, and the checks that need no data.

This module imports neither torch nor anything else of the package: `--help` and a typing error answer at once.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

STOPPED_EXIT_CODE = 75  # EX_TEMPFAIL: stopped by a signal, the same command goes on


class InputError(ValueError):
    """The user's input can't be used. The message is one line: the field or file, what is wrong, the way out."""

    common = False
    """Whether every rank has this same error, and rank 0 says it for all. Else each host says its own."""


class TrainingFailed(RuntimeError):
    """The run can't go on, and not for its input. The message is one line: what happened, at which step, the way out.

    Args:
        message: that line.
        spoken_by: the rank that says it.
    """

    def __init__(self, message: str, spoken_by: int = 0) -> None:
        super().__init__(message)
        self.spoken_by = spoken_by


class Stopped(Exception):
    """Somebody asked to stop before there was anything to save. The message is one line: what was interrupted."""


def package_version() -> str:
    """The version of the installed package; of a checkout that is not installed it is unknown."""
    from importlib.metadata import PackageNotFoundError, version  # not needed by a run that starts

    try:
        return version("gan_dist")
    except PackageNotFoundError:
        return "unknown (not installed)"


DataName = Literal["mnist", "fashion-mnist", "kmnist", "qmnist"]
DataSource = Literal["auto", "local", "download", "sample"]
Weights = Literal["average", "live", "best"]  # of a run's generators
LEAST_EVALUATED = 100  # images, below which the figures say nothing


@dataclass(frozen=True)
class DataConfig:
    name: DataName = "mnist"
    """Data set, by name."""
    root: Path = Path("data")
    """Folder of the data, laid out as torchvision writes it; a download goes here too."""
    source: DataSource = "auto"
    """Where images come from. auto: local files in root, else a download, else the 5,000 digits of the sample."""
    stack: int = 1
    """Images that become the channels of one, drawn independently of each other (1 or 3): 3 makes Stacked MNIST, with
    1,000 combinations of digits to find."""
    download_timeout: float = 120.0
    """Longest time that a download may take, in seconds (0.1 to 604,800)."""


@dataclass(frozen=True)
class ModelConfig:
    architecture: Literal["mlp", "conv"] = "mlp"
    """Pair of networks, by name. mlp: the seed's. conv: a small convolutional one."""
    latent_dim: int = 64
    """Numbers in a latent vector (1 to 1,000,000)."""
    hidden_dim: int = 256
    """Units in a hidden layer of both networks (1 to 1,000,000)."""
    channels: int = 32
    """Channels of conv's feature maps (1 to 1,000,000)."""
    initialization: Literal["torch", "he"] = "torch"
    """First weights. torch: those of its layers. he: normal, so large that signals keep their size on the way through
    the network, and biases of 0."""


@dataclass(frozen=True)
class OptimizerConfig:
    learning_rate: float = 2e-4
    """Adam's step size at the beginning (1e-12 to 10). The generator's is generator_factor times as large."""
    generator_factor: float = 1.0
    """The generator's step size as a multiple of the discriminator's (1e-06 to 1e+06): two time scales (Heusel et al.
    2017, arXiv:1706.08500)."""
    final_learning_rate: float | None = None
    """Adam's step size at the end of decay_images (1e-12 to 10). None: as at the beginning."""
    decay_images: int = 1_000_000
    """Images over which the learning rate goes from its first value to its final one, in half a cosine (1 to
    1,000,000,000,000). There it stays. Not the length of the run, which may change."""
    beta1: float = 0.9
    """Adam's decay of the gradient's mean (0 to 0.999999)."""
    beta2: float = 0.999
    """Adam's decay of the gradient's square (0 to 0.999999)."""


@dataclass(frozen=True)
class TrainConfig:
    epochs: int = 300
    """Passes over the data set (1 to 1,000,000)."""
    steps: int | None = None
    """End after this many steps, even inside an epoch (1 to 1,000,000,000). None: epochs decides."""
    batch_size: int = 100
    """Images in one step over all processes together (1 to 1,000,000; divisible by the number of processes)."""
    seed: int = 0
    """Seed of the first weights, the order of the images and the latents (0 to 9,223,372,036,854,775,807). With the
    rest of the configuration it fixes the run."""
    loss: Literal["bce", "relativistic", "hinge", "least-squares", "wasserstein"] = "bce"
    """Adversarial loss, by name. bce: binary cross entropy, non-saturating. relativistic: each real image against the
    fake one beside it (RpGAN), which wants penalty.r1 and penalty.r2."""
    accumulation: int = 1
    """Micro-batches that a process cuts its share of a batch into, to save memory (1 to 1,000,000; divides the
    share)."""
    exact_shards: int | None = None
    """Bit for bit the same run on any number of processes: cut every batch into so many shards (1 to 4,096, divisible
    by the number of processes) and add their gradients in one fixed order. None: the fast way, equal to rounding."""
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None
    """Precision of the forward passes; fp16 needs a GPU. None: what accelerate launch was given, else no."""
    on_nonfinite: Literal["stop", "skip", "rollback"] = "stop"
    """What a loss or gradient that is NaN or infinite does, on any rank; its update is never applied. stop: save the
    state before that step and end. skip: go on without the update. rollback: go back to the newest checkpoint and try
    again; stop if the same step fails again."""
    max_rollbacks: int = 3
    """Rollbacks of one session before it stops (1 to 1,000)."""
    log_hashes: int | None = None
    """Steps between two lines of hashes.jsonl (1 to 1,000,000,000), which gan-dist diff compares. None: none are
    written."""
    threads: int | None = None
    """CPU threads of a process (1 to 1,024). None: the machine's cores divided by the processes on it."""
    compile: bool = False
    """On CUDA: record the kernels of each update once and play them back as a CUDA graph, which spares launching them
    one by one; the results are the same bit for bit. Not with fp16."""


@dataclass(frozen=True)
class PenaltyConfig:
    r1: float = 0.0
    """Gamma of R1 (0 to 1e+06): adds gamma/2 times the mean squared gradient of D's logit at real images, in every
    step."""
    r2: float = 0.0
    """Gamma of R2 (0 to 1e+06): the same at generated images."""
    final_factor: float = 1.0
    """Final multiplier of both gammas (1e-06 to 1e+06), reached exponentially over decay_images."""
    decay_images: int = 1_000_000
    """Images over which the gammas go to their final value (1 to 1,000,000,000,000). There they stay."""
    gradient: float = 0.0
    """Lambda of WGAN-GP (0 to 1e+06): adds lambda times the mean squared distance of that gradient's norm from 1,
    between real and generated images, in every step."""


@dataclass(frozen=True)
class EmaConfig:
    half_life: float | None = None
    """Keep an exponential moving average of the generator with this half-life, in images (0.001 to 1e+12), and use it
    for samples, evaluation and export. None: use the trained generator itself."""
    warm_up: float = 0.05
    """While the run is young the half-life is at most this share of the images seen (1e-06 to 1e+09)."""


@dataclass(frozen=True)
class LogConfig:
    every_steps: int = 100
    """Steps between two lines of metrics.jsonl (1 to 1,000,000). A line holds the means since the one before."""


@dataclass(frozen=True)
class SamplesConfig:
    every_epochs: int = 1
    """Epochs between two grids of generated images (1 to 1,000,000)."""


@dataclass(frozen=True)
class EvaluateConfig:
    every_epochs: int | None = 20
    """Epochs between two evaluations of the generator to use (1 to 1,000,000): distances from the real images,
    precision and recall, classes; lines of evaluations.jsonl. None: none."""
    count: int = 10_000
    """Images generated for an evaluation (100 to 100,000). A distance falls with their number."""


@dataclass(frozen=True)
class CheckpointConfig:
    every_steps: int | None = None
    """Steps between two checkpoints (1 to 1,000,000,000). None: one at the end of each epoch."""
    keep: int = 3
    """Newest checkpoints that stay on disk (1 to 1,000,000)."""
    keep_every: int | None = None
    """Every N-th scheduled checkpoint is kept permanently (1 to 1,000,000,000). None: none is."""


@dataclass(frozen=True)
class DistributedConfig:
    timeout: float = 300.0
    """Longest wait of a process for the others, in seconds (5 to 604,800); then the run ends and says which one was
    lost. While rank 0 downloads the data, evaluates or talks to W&B, they wait for as long as it is alive."""
    shared_memory: bool = True
    """Let processes that train on the CPU of one machine (Linux) add their gradients in shared memory, not through
    gloo."""


@dataclass(frozen=True)
class WandbConfig:
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """Weights & Biases. auto: online if an API key is found, else offline. WANDB_MODE is heeded by auto."""
    project: str = "gan_dist"
    """Project on the W&B server."""
    name: str | None = None
    """Name of the run on the dashboard. None: the run folder's name."""
    timeout: float = 30.0
    """Longest wait for W&B, at the start (again for the offline try) and at the end, in seconds (0.1 to 604,800). If
    its service does not answer for so long, tracking ends; the run goes on."""


@dataclass(frozen=True)
class RunConfig:
    dir: Path = Path("runs/seed")
    """Folder of the run: configuration, metrics, samples, checkpoints."""
    resume: Literal["auto", "never", "must"] = "auto"
    """Whether to resume the run in dir. auto: go on where it stopped, start if there is none. never: refuse to go on
    with one. must: refuse to start one."""
    shared: bool = True
    """All hosts of a run see dir. False: only the host of rank 0 has it, and must be the same one after a stop."""


@dataclass(frozen=True)
class Config:
    """One training run. (seed, configuration) fixes it; the number of processes changes only its speed."""

    data: DataConfig = field(default_factory=DataConfig)
    """The images."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The two networks."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Adam, one for each network."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The training itself."""
    penalty: PenaltyConfig = field(default_factory=PenaltyConfig)
    """Penalties on the discriminator's gradient."""
    ema: EmaConfig = field(default_factory=EmaConfig)
    """The generator's running average."""
    log: LogConfig = field(default_factory=LogConfig)
    """metrics.jsonl, the console and the dashboard's curves."""
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    """Grids of generated images."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """How good the images are."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Checkpoints."""
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    """Several processes."""
    wandb: WandbConfig = field(default_factory=WandbConfig)
    """The dashboard."""
    run: RunConfig = field(default_factory=RunConfig)
    """The run's folder."""
    profile: bool = False
    """Write to RUN/profile a torch profiler's trace of steps 50 to 60 and a table of the time by phase: data,
    discriminator step, generator step, communication, outputs. Of this session, as rank 0 sees it."""


def seed() -> Config:
    """The teaching notebook's GAN, the default.

    Two small MLPs, binary cross entropy, Adam 2e-4, batch 100, 300 epochs.
    """
    return Config()


def r3() -> Config:
    """The seed's networks with relativistic loss, R1, R2 and an average.

    R3GAN, Huang et al. 2024, arXiv:2501.05441: both penalties in every step, an averaged generator.
    """
    return Config(
        model=ModelConfig(initialization="he"),
        optimizer=OptimizerConfig(
            learning_rate=1e-3,
            generator_factor=1.5,
            final_learning_rate=4e-4,
            decay_images=4_000_000,
            beta1=0.0,
            beta2=0.99,
        ),
        train=TrainConfig(loss="relativistic", batch_size=100, epochs=100),
        penalty=PenaltyConfig(r1=3.0, r2=3.0, final_factor=0.33, decay_images=600_000),
        ema=EmaConfig(half_life=800_000.0, warm_up=0.2),
        evaluate=EvaluateConfig(every_epochs=10),
        run=RunConfig(dir=Path("runs/r3")),
    )


def conv() -> Config:
    """A small convolutional pair with the seed's loss, R1 and an average.

    With a falling learning rate.
    """
    return Config(
        model=ModelConfig(architecture="conv", initialization="he"),
        optimizer=OptimizerConfig(
            learning_rate=2e-3, final_learning_rate=2e-4, decay_images=3_000_000, beta1=0.0, beta2=0.99
        ),
        train=TrainConfig(batch_size=50, epochs=100),
        penalty=PenaltyConfig(r1=1.0),
        ema=EmaConfig(half_life=1_000_000.0),
        evaluate=EvaluateConfig(every_epochs=10),
        run=RunConfig(dir=Path("runs/conv")),
    )


def r3_conv() -> Config:
    """The convolutional pair with the loss and penalties of r3."""
    return Config(
        model=ModelConfig(architecture="conv", initialization="he"),
        optimizer=OptimizerConfig(
            learning_rate=2e-3, final_learning_rate=3e-4, decay_images=5_000_000, beta1=0.0, beta2=0.99
        ),
        train=TrainConfig(loss="relativistic", batch_size=50, epochs=300),
        penalty=PenaltyConfig(r1=3.0, r2=3.0, final_factor=0.1, decay_images=2_000_000),
        ema=EmaConfig(half_life=1_000_000.0),
        evaluate=EvaluateConfig(every_epochs=10),
        run=RunConfig(dir=Path("runs/r3-conv")),
    )


def stacked() -> Config:
    """r3-conv on Stacked MNIST: three digits an image, 1,000 combinations."""
    return dataclasses.replace(
        r3_conv(),
        data=DataConfig(stack=3),
        evaluate=EvaluateConfig(every_epochs=10, count=26_000),
        run=RunConfig(dir=Path("runs/stacked")),
    )


PRESETS: dict[str, Callable[[], Config]] = {
    "seed": seed,
    "r3": r3,
    "conv": conv,
    "r3-conv": r3_conv,
    "stacked": stacked,
}


# A resumed run may change these: they say where things are, how often they are shown and when to end, but not
# one number of the trajectory. Every other field has to be as it was.
CHANGEABLE_ON_RESUME = (
    "data.root",
    "data.source",
    "data.download_timeout",
    "train.epochs",
    "train.steps",
    "train.on_nonfinite",
    "train.max_rollbacks",
    "train.log_hashes",
    "train.threads",
    "train.compile",
    "log.",
    "samples.",
    "evaluate.",
    "checkpoint.",
    "distributed.",
    "wandb.",
    "run.",
    "profile",
)


# Fields in which the processes of one run may differ from host to host: what rank 0 alone reads, and each host's cores.
HOSTS_OWN = (
    "data.root",
    "data.source",
    "data.download_timeout",
    "train.threads",
    "wandb.",
    "run.dir",
    "profile",
)


@dataclass(frozen=True)
class Range:
    """The numbers that a field accepts, both ends included."""

    lowest: int | float
    highest: int | float
    reason: str
    """Why no more than `highest`."""
    whole: bool = True

    def check(self, name: str, value: Any) -> None:
        """Check the value of the field `name`.

        Raises:
            InputError: it is not a number, or outside the range.
        """
        right_kind = isinstance(value, int) if self.whole else isinstance(value, int | float)
        # NaN compares false with everything.
        if not right_kind or isinstance(value, bool) or not self.lowest <= value <= self.highest:
            must = f"it must be a {'whole ' if self.whole else ''}number from {self}"
            because = f" ({self.reason})" if right_kind and value > self.highest else ""
            raise InputError(f"{name}={shortened(value)} can't be used: {must}{because}")

    def __str__(self) -> str:
        lowest, highest = (f"{end:,}" if isinstance(end, int) else f"{end:g}" for end in (self.lowest, self.highest))
        return f"{lowest} to {highest}"


_WEEK = 604_800  # seconds; in milliseconds, as gloo counts them, it fits into 32 bits
_WAIT = "a week is longer than any wait that ends well"
_STEPS = "at 1,000 steps a second that takes 11 days"
_EPOCHS = "no run gets there"
_WIDTH = "a matrix of that size has 4 terabytes"
_SCHEDULE = "no run gets there; leave the final value out to keep the first one"
_FACTOR = "single precision overflows beyond"
SEEDS = Range(0, 2**63 - 1, "it is stored as a 64-bit integer")

# field -> the numbers that it accepts. The bounds are far from useful values: they refuse mistyped numbers, which would
# exhaust the memory, hang, or raise inside a library.
RANGES: dict[str, Range] = {
    "data.stack": Range(1, 3, "an image has one channel or three"),
    "data.download_timeout": Range(0.1, _WEEK, _WAIT, whole=False),
    "model.latent_dim": Range(1, 1_000_000, _WIDTH),
    "model.hidden_dim": Range(1, 1_000_000, _WIDTH),
    "model.channels": Range(1, 1_000_000, _WIDTH),
    "optimizer.learning_rate": Range(1e-12, 10.0, "a step of Adam moves every weight by about that", whole=False),
    "optimizer.generator_factor": Range(1e-6, 1e6, _FACTOR, whole=False),
    "optimizer.final_learning_rate": Range(1e-12, 10.0, "a step of Adam moves every weight by about that", whole=False),
    "optimizer.decay_images": Range(1, 10**12, _SCHEDULE),
    "optimizer.beta1": Range(0, 0.999999, "1 would keep the first gradient for ever", whole=False),
    "optimizer.beta2": Range(0, 0.999999, "1 would keep the first gradient for ever", whole=False),
    "train.epochs": Range(1, 1_000_000, _EPOCHS),
    "train.steps": Range(1, 10**9, _STEPS),
    "train.batch_size": Range(1, 1_000_000, "no data set has more images"),
    "train.seed": SEEDS,
    "train.accumulation": Range(1, 1_000_000, "a micro-batch has an image at least"),
    "train.exact_shards": Range(1, 4_096, "each is a pass of its own, and its gradients are kept apart"),
    "train.max_rollbacks": Range(1, 1_000, "a run that goes back more often gets nowhere"),
    "train.log_hashes": Range(1, 10**9, _STEPS),
    "train.threads": Range(1, 1_024, "no machine has more cores for one process"),
    "penalty.r1": Range(0, 1e6, _FACTOR, whole=False),
    "penalty.r2": Range(0, 1e6, _FACTOR, whole=False),
    "penalty.final_factor": Range(1e-6, 1e6, _FACTOR, whole=False),
    "penalty.decay_images": Range(1, 10**12, _SCHEDULE),
    "penalty.gradient": Range(0, 1e6, _FACTOR, whole=False),
    "ema.half_life": Range(1e-3, 1e12, "no run sees so many images", whole=False),
    "ema.warm_up": Range(1e-6, 1e9, "from there on it bounds nothing", whole=False),
    "log.every_steps": Range(1, 1_000_000, "the figures of all these steps are kept in memory"),
    "samples.every_epochs": Range(1, 1_000_000, _EPOCHS),
    "evaluate.every_epochs": Range(1, 1_000_000, _EPOCHS),
    "evaluate.count": Range(LEAST_EVALUATED, 100_000, "all are kept in memory"),
    "checkpoint.every_steps": Range(1, 10**9, _STEPS),
    "checkpoint.keep": Range(1, 1_000_000, "no run has more"),
    "checkpoint.keep_every": Range(1, 10**9, _STEPS),
    "distributed.timeout": Range(5, _WEEK, _WAIT, whole=False),
    "wandb.timeout": Range(0.1, _WEEK, _WAIT, whole=False),
}
MAX_TEXT = 128  # characters of a name, as W&B allows
MAX_PATH_BYTES = 1_024  # Linux allows 4,096 for the whole path, the files of a run and the working directory included
MAX_NAME_BYTES = 200  # Linux allows 255 for a file or folder; while one is written its name is longer


def check_text(name: str, value: str, path: bool = False) -> None:
    """Check a name or a path: no system call or library chokes on it, and it can be printed.

    Raises:
        InputError: names the field.
    """
    problem = None
    if not value:
        problem = "it is empty"
    elif any("\ud800" <= letter <= "\udfff" for letter in value):
        problem = "it is not valid UTF-8"
    elif any(letter < " " or "\x7f" <= letter <= "\x9f" or letter in "\u2028\u2029" for letter in value):
        problem = "it holds a control character"
    elif path and len(value.encode()) > MAX_PATH_BYTES:
        problem = f"it is longer than {MAX_PATH_BYTES:,} bytes"
    elif path and any(len(part.encode()) > MAX_NAME_BYTES for part in value.split("/")):
        problem = f"a name in it is longer than {MAX_NAME_BYTES} bytes"
    elif not path and len(value) > MAX_TEXT:
        problem = f"it is longer than {MAX_TEXT} characters"
    if problem is not None:
        raise InputError(f"{name}={shortened(value)} can't be used: {problem}; choose another")


def shortened(value: Any) -> str:
    """A value for a message: on one line, printable, and not endless. Strings are quoted."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a huge number"
    return text if len(text) <= 60 else f"{text[:40]}…"


def validate(config: Config) -> None:
    """Check every field that can be checked without the data and the processes.

    Raises:
        InputError: names the field, its value and the values that work.
    """
    for name, value in _flatten(dataclasses.asdict(config)).items():
        if isinstance(value, str | Path):
            check_text(name, str(value), path=isinstance(value, Path))
        elif value is not None and name in RANGES:
            RANGES[name].check(name, value)
    if config.data.stack not in (1, 3):
        raise InputError(f"data.stack={config.data.stack} can't be used: it must be 1 or 3")
    if config.train.exact_shards is not None and config.train.accumulation > 1:
        raise InputError(
            "train.accumulation and train.exact_shards both cut the batch into parts; leave out train.accumulation"
        )
    if config.train.compile and config.train.mixed_precision == "fp16":
        raise InputError(
            "train.compile can't be had with train.mixed_precision=fp16; use bf16, or leave out one of them"
        )
    if config.penalty.gradient and (config.penalty.r1 or config.penalty.r2):
        raise InputError(
            "penalty.gradient draws the gradients' norms to 1 and penalty.r1, penalty.r2 draw them to 0; "
            "use the one or the others"
        )
    penalized = config.penalty.r1 or config.penalty.r2 or config.penalty.gradient
    if penalized and config.train.mixed_precision == "fp16":
        raise InputError(
            "penalties can't be had with train.mixed_precision=fp16: their gradients leave its range (R3GAN, "
            "arXiv:2501.05441, trains in bf16); use bf16, or no"
        )
    if config.data.source == "sample" and config.data.name != "mnist":
        raise InputError(
            f"data.source=sample has MNIST digits only, not data.name={config.data.name}; use source local or download"
        )


def doubts(config: Config) -> list[str]:
    """What the literature says against a configuration that can be used nevertheless: a line for each."""
    penalty, loss = config.penalty, config.train.loss
    said = []
    if loss == "wasserstein" and not penalty.gradient:
        said.append(
            "train.loss=wasserstein without penalty.gradient: nothing makes D 1-Lipschitz, so its loss measures no "
            "distance and may run away (Gulrajani et al. 2017, arXiv:1704.00028); try --penalty.gradient 10"
        )
    if loss == "relativistic" and not (penalty.r1 and penalty.r2):
        said.append(
            "train.loss=relativistic without both penalty.r1 and penalty.r2 need not converge (Huang et al. 2024, "
            "arXiv:2501.05441, section 3); try the preset r3"
        )
    if penalty.gradient and config.optimizer.beta1 > 0.5:
        said.append(
            f"penalty.gradient with optimizer.beta1={config.optimizer.beta1:g}: with momentum the critic's training is "
            "unstable (Arjovsky et al. 2017, arXiv:1701.07875, section 4); try --optimizer.beta1 0"
        )
    return said


def check_processes(config: Config, processes: int) -> None:
    """Check what depends on the number of processes.

    A batch has to be cut into equal parts: for the processes, and their micro-batches or shards.

    Raises:
        InputError: names the two nearest batch sizes, or the numbers of processes, that work.
    """
    shards, accumulation = config.train.exact_shards, config.train.accumulation
    if shards is not None and shards % processes:
        divisors = [str(n) for n in range(1, shards + 1) if shards % n == 0]
        raise InputError(
            f"train.exact_shards={shards} can't be spread over {processes} processes; use {', '.join(divisors)} of them"
        )
    parts, into = processes, f"{processes} processes"
    if shards is not None:
        parts, into = shards, f"train.exact_shards={shards}"
    elif accumulation > 1:
        parts, into = processes * accumulation, f"{into} x train.accumulation={accumulation}"
    size = config.train.batch_size
    if rest := size % parts:
        below, above = size - rest, size - rest + parts
        use = f"{below} or {above}" if below else f"{above}"
        raise InputError(f"train.batch_size={size} is not divisible by {into}; use {use}")


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as JSON has it: nested dictionaries, paths as strings."""
    return _plain(dataclasses.asdict(config))


def to_flat(config: Config) -> dict[str, Any]:
    """The configuration as one level of dotted names, as on the command line: {"train.epochs": 300, ...}."""
    return _flatten(to_dict(config))


def from_dict(values: Mapping[str, Any]) -> Config:
    """The configuration that `to_dict` gave.

    Raises:
        InputError: a field that this version does not know, a value of another type, or a section that is no
            dictionary.
    """
    return _build(Config, values, "")


def differences(before: Mapping[str, Any], config: Config) -> list[str]:
    """Fields in which a stored configuration (of `to_dict`) keeps this one from going on with its run.

    A field that it lacks, of a version before that field, had what is the default now.

    Returns:
        One "name: stored -> new" for each, in the order of the fields.

    Raises:
        InputError: it has fields that this version does not know.
    """
    old, new = to_flat(from_dict(before)), to_flat(config)
    return [
        f"{name}: {old[name]} -> {new[name]}"
        for name in new
        if not name.startswith(CHANGEABLE_ON_RESUME) and old[name] != new[name]
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _build(cls: type, values: Any, prefix: str) -> Any:
    if not isinstance(values, Mapping):
        raise InputError(f"the stored configuration's {prefix.rstrip('.') or 'whole'} is not a dictionary")
    hints = typing.get_type_hints(cls)
    arguments = {}
    for key, value in values.items():
        if key not in hints:
            raise InputError(f"the stored configuration has a field {prefix + key} that this version doesn't know")
        kind = hints[key]
        if type(value) is int and float in (kind, *typing.get_args(kind)) and abs(value) <= 2**53:
            value = float(value)
        if dataclasses.is_dataclass(kind):
            arguments[key] = _build(typing.cast(type, kind), value, f"{prefix}{key}.")
        elif not _fits(value, kind):
            raise InputError(f"the stored configuration's {prefix + key}={shortened(value)} is of the wrong type")
        else:
            arguments[key] = Path(value) if kind is Path else value
    return cls(**arguments)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value that was read from JSON can be a field's."""
    if typing.get_origin(kind) is Literal:
        return value in typing.get_args(kind)
    if alternatives := typing.get_args(kind):  # X | None
        return any(_fits(value, alternative) for alternative in alternatives)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, str if kind is Path else kind)
