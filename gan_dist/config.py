"""What a run is: every setting with its unit and range, the presets, and the checks that need no data.

This module imports neither torch nor anything else of the package: `--help` and a typing error answer at once.
"""

from __future__ import annotations

import dataclasses
import math
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
    """Longest that a download may take, in seconds (> 0)."""


@dataclass(frozen=True)
class ModelConfig:
    architecture: Literal["mlp", "conv"] = "mlp"
    """Pair of networks, by name. mlp: the seed's. conv: a small convolutional one."""
    latent_dim: int = 64
    """Numbers in a latent vector (>= 1)."""
    hidden_dim: int = 256
    """Units in a hidden layer, of both networks (>= 1)."""
    channels: int = 32
    """Channels of conv's feature maps (>= 1)."""
    initialization: Literal["torch", "he"] = "torch"
    """First weights. torch: those of its layers. he: normal, so large that signals keep their size on the way through
    the network, and biases of 0."""


@dataclass(frozen=True)
class OptimizerConfig:
    learning_rate: float = 2e-4
    """Adam's step size at the beginning (> 0); the generator's is generator_factor times as large."""
    generator_factor: float = 1.0
    """The generator's step size as a multiple of the discriminator's, throughout (> 0): two time scales (Heusel et al.
    2017, arXiv:1706.08500)."""
    final_learning_rate: float | None = None
    """Adam's step size at the end of decay_images (> 0). None: as at the beginning."""
    decay_images: int = 1_000_000
    """Images over which the learning rate goes from its first value to its final one, in half a cosine (>= 1); there it
    stays. Not the length of the run, which may change."""
    beta1: float = 0.9
    """Adam's decay of the gradient's mean (in [0, 1))."""
    beta2: float = 0.999
    """Adam's decay of the gradient's square (in [0, 1))."""


@dataclass(frozen=True)
class TrainConfig:
    epochs: int = 300
    """Passes over the data set (>= 1)."""
    steps: int | None = None
    """End after this many steps, even inside an epoch (>= 1). None: epochs decides."""
    batch_size: int = 100
    """Images in one step over all processes together (>= 1, divisible by the number of processes)."""
    seed: int = 0
    """With the rest of the configuration it fixes the run: first weights, order of the images, latents (>= 0)."""
    loss: Literal["bce", "relativistic", "hinge", "least-squares", "wasserstein"] = "bce"
    """Adversarial loss, by name. bce: binary cross entropy, non-saturating. relativistic: each real image against the
    fake one beside it (RpGAN), which wants penalty.r1 and penalty.r2."""
    accumulation: int = 1
    """Micro-batches that a process cuts its share of a batch into, to save memory (>= 1, divides the share)."""
    exact_shards: int | None = None
    """Cut every batch into so many shards and add their gradients in one fixed order: bit for bit the same run on any
    number of processes that divides it. None: the fast way, equal to rounding."""
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None
    """Precision of the forward passes; fp16 needs a GPU. None: what accelerate launch was given, else no."""
    on_nonfinite: Literal["stop", "skip", "rollback"] = "stop"
    """What a loss or gradient that is NaN or infinite does, on any rank; its update is never applied. stop: save the
    state before that step and end. skip: go on without the update. rollback: go back to the newest checkpoint and try
    again; stop if the same step fails again."""
    max_rollbacks: int = 3
    """Rollbacks of one session before it stops (>= 1)."""
    log_hashes: int | None = None
    """Steps between two lines of hashes.jsonl (>= 1), which gan-dist diff compares. None: none are written."""
    threads: int | None = None
    """CPU threads of a process (>= 1). None: the machine's cores divided by the processes on it."""
    compile: bool = False
    """On CUDA: record the kernels of each update once and play them back as a CUDA graph, which spares launching them
    one by one; the results are the same bit for bit. Not with fp16."""


@dataclass(frozen=True)
class PenaltyConfig:
    r1: float = 0.0
    """Gamma of R1: adds gamma/2 times the mean squared gradient of D's logit at real images, in every step (>= 0)."""
    r2: float = 0.0
    """Gamma of R2: the same at generated images (>= 0)."""
    final_factor: float = 1.0
    """What both gammas are multiplied with in the end, after decay_images (> 0); they get there by equal factors."""
    decay_images: int = 1_000_000
    """Images over which the gammas go to their final value, if there is one (>= 1); there they stay."""
    gradient: float = 0.0
    """Lambda of WGAN-GP: adds lambda times the mean squared distance of that gradient's norm from 1, between real and
    generated images, in every step (>= 0)."""


@dataclass(frozen=True)
class EmaConfig:
    half_life: float | None = None
    """Keep an exponential moving average of the generator with this half-life, in images (> 0), and use it for samples,
    evaluation and export. None: use the trained generator itself."""
    warm_up: float = 0.05
    """While the run is young the half-life is at most this share of the images seen (> 0)."""


@dataclass(frozen=True)
class LogConfig:
    every_steps: int = 100
    """Steps between two lines of metrics.jsonl (>= 1); a line holds the means since the one before."""


@dataclass(frozen=True)
class SamplesConfig:
    every_epochs: int = 1
    """Epochs between two grids of generated images (>= 1)."""


@dataclass(frozen=True)
class EvaluateConfig:
    every_epochs: int | None = 20
    """Epochs between two evaluations of the generator to use (>= 1): distances from the real images, precision and
    recall, classes; lines of evaluations.jsonl. None: none."""
    count: int = 10_000
    """Images generated for an evaluation (>= 100); a distance falls with their number."""


@dataclass(frozen=True)
class CheckpointConfig:
    every_steps: int | None = None
    """Steps between two checkpoints (>= 1). None: one at the end of each epoch."""
    keep: int = 3
    """Newest checkpoints that stay on disk (>= 1)."""
    keep_every: int | None = None
    """Of the checkpoints that every_steps or the epochs ask for, each so manieth stays for good (>= 1). None: none."""


@dataclass(frozen=True)
class DistributedConfig:
    timeout: float = 300.0
    """Longest wait of a process for the others, in seconds (>= 5); then the run ends and says which one was lost. They
    also wait while rank 0 downloads the data or talks to W&B."""
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
    """Longest wait for the W&B server, at the start and again at the end, in seconds (> 0)."""


@dataclass(frozen=True)
class RunConfig:
    dir: Path = Path("runs/seed")
    """Folder of the run: configuration, metrics, samples, checkpoints."""
    resume: Literal["auto", "never", "must"] = "auto"
    """auto: go on where the run in dir stopped, start if there is none. never, must: refuse the one or the other."""
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
    """The teaching notebook's GAN: two small MLPs, binary cross entropy, Adam 2e-4, batch 100, 300 epochs."""
    return Config()


def r3() -> Config:
    """The seed's networks with what the field knows today: relativistic loss, R1 and R2 in every step, an averaged
    generator (R3GAN, Huang et al. 2024, arXiv:2501.05441)."""
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
    """The seed's loss for a small convolutional pair, with R1, a falling learning rate and an averaged generator."""
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
    """A small convolutional pair with the loss, the penalties and the averaged generator of r3."""
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
    """Stacked MNIST with r3-conv: three digits as the channels of an image, 1,000 combinations to find."""
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


def validate(config: Config) -> None:
    """Check every field that can be checked without the data and the processes.

    Raises:
        InputError: names the field, its value and the values that work.
    """

    def require(ok: bool, name: str, must: str) -> None:
        if not ok:
            raise InputError(f"{name}={to_flat(config)[name]} can't be used: it must be {must}")

    at_least_one = {
        "model.latent_dim": config.model.latent_dim,
        "model.hidden_dim": config.model.hidden_dim,
        "model.channels": config.model.channels,
        "optimizer.decay_images": config.optimizer.decay_images,
        "penalty.decay_images": config.penalty.decay_images,
        "train.epochs": config.train.epochs,
        "train.steps": config.train.steps,
        "train.batch_size": config.train.batch_size,
        "train.accumulation": config.train.accumulation,
        "train.exact_shards": config.train.exact_shards,
        "train.max_rollbacks": config.train.max_rollbacks,
        "train.threads": config.train.threads,
        "log.every_steps": config.log.every_steps,
        "train.log_hashes": config.train.log_hashes,
        "samples.every_epochs": config.samples.every_epochs,
        "evaluate.every_epochs": config.evaluate.every_epochs,
        "checkpoint.every_steps": config.checkpoint.every_steps,
        "checkpoint.keep": config.checkpoint.keep,
        "checkpoint.keep_every": config.checkpoint.keep_every,
    }
    for name, value in at_least_one.items():
        require(value is None or value >= 1, name, "a whole number of at least 1")
    require(config.data.stack in (1, 3), "data.stack", "1 or 3")
    enough = config.evaluate.count >= LEAST_EVALUATED
    require(enough, "evaluate.count", f"a whole number of at least {LEAST_EVALUATED}")
    require(config.train.seed >= 0, "train.seed", "a whole number of at least 0")
    positive = {
        "optimizer.learning_rate": config.optimizer.learning_rate,
        "data.download_timeout": config.data.download_timeout,
        "wandb.timeout": config.wandb.timeout,
        "optimizer.final_learning_rate": config.optimizer.final_learning_rate,
        "optimizer.generator_factor": config.optimizer.generator_factor,
        "penalty.final_factor": config.penalty.final_factor,
        "ema.half_life": config.ema.half_life,
        "ema.warm_up": config.ema.warm_up,
    }
    for name, number in positive.items():
        require(number is None or (math.isfinite(number) and number > 0), name, "a finite number above 0")
    penalties = {f"penalty.{name}": getattr(config.penalty, name) for name in ("r1", "r2", "gradient")}
    for name, number in penalties.items():
        require(math.isfinite(number) and number >= 0, name, "a finite number of at least 0")
    require(0 <= config.optimizer.beta1 < 1, "optimizer.beta1", "in [0, 1)")
    require(0 <= config.optimizer.beta2 < 1, "optimizer.beta2", "in [0, 1)")
    timeout = config.distributed.timeout
    require(math.isfinite(timeout) and timeout >= 5, "distributed.timeout", "a finite number of at least 5")
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
    if any(penalties.values()) and config.train.mixed_precision == "fp16":
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

    A batch has to be cut into equal parts: for the processes, and their micro-batches or shards. And the processes
    have to wait longer for each other than rank 0 may be busy alone.

    Raises:
        InputError: names the two nearest batch sizes, the numbers of processes, or the timeouts, that work.
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
    busy = {"wandb.timeout": config.wandb.timeout}
    if config.data.source in ("auto", "download"):
        busy["data.download_timeout"] = config.data.download_timeout
    for name, seconds in busy.items():
        if processes > 1 and config.distributed.timeout <= seconds:
            raise InputError(
                f"distributed.timeout={config.distributed.timeout:g} is too short, since the others wait while rank 0 "
                f"may be busy for {name}={seconds:g} seconds; use more, or a smaller {name}"
            )


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as JSON has it: nested dictionaries, paths as strings."""
    return _plain(dataclasses.asdict(config))


def to_flat(config: Config) -> dict[str, Any]:
    """The configuration as one level of dotted names, as on the command line: {"train.epochs": 300, ...}."""
    return _flatten(to_dict(config))


def from_dict(values: Mapping[str, Any]) -> Config:
    """The configuration that `to_dict` gave.

    Raises:
        InputError: a field that this version does not know, or a section that is no dictionary.
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
        if dataclasses.is_dataclass(kind):
            arguments[key] = _build(typing.cast(type, kind), value, f"{prefix}{key}.")
        else:
            arguments[key] = Path(value) if kind is Path else value
    return cls(**arguments)
