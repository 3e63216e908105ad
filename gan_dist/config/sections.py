"""Every setting of a run: its type, accepted range, default and unit. Imports no torch: --help must not wait for it.

Ranges are far wider than the useful values. They refuse mistyped numbers, which would exhaust the memory, hang, or
raise inside a library.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from tyro.conf import arg

from gan_dist.config.hub import HUB_EXAMPLE
from gan_dist.config.ranges import Range
from gan_dist.config.tables import keys_of

DATA_NAMES = keys_of("data/readers/__init__.py", "READERS")
TRANSFORMATION_NAMES = keys_of("gan/augmentation.py", "TRANSFORMATIONS")
TRACKER_NAMES = keys_of("outputs/trackers/__init__.py", "TRACKERS")
if TYPE_CHECKING:
    ArchitectureName: TypeAlias = str
    LossName: TypeAlias = str
    DataName: TypeAlias = str
else:
    ArchitectureName = Literal[keys_of("models/__init__.py", "ARCHITECTURES")]
    LossName = Literal[keys_of("gan/losses.py", "LOSSES")]
    DataName = Literal[(*DATA_NAMES, HUB_EXAMPLE)] | str  # `rules` checks it

DataSource = Literal["auto", "local", "download", "sample"]
Weights = Literal["average", "live", "best"]  # of a run's generators

SEEDS = Range(0, 2**63 - 1, "it is stored as a 64-bit integer")
MIN_EVALUATED = 100  # images; with fewer, the figures are meaningless
EVALUATED = Range(MIN_EVALUATED, 100_000, "all images are kept in memory")
INCEPTION = "inception:"  # before the file of the weights, in evaluate.features

_NO_RUN = "no run is that long"
Width = Annotated[int, Range(1, 1_000_000, "a matrix of that size takes 4 terabytes")]
Epochs = Annotated[int, Range(1, 1_000_000, _NO_RUN)]
Steps = Annotated[int, Range(1, 10**9, "at 1,000 steps per second that takes 11 days")]
DecayImages = Annotated[int, Range(1, 10**12, f"{_NO_RUN}; omit the final value to keep the first one")]
LearningRate = Annotated[float, Range(1e-12, 10.0, "one step of Adam moves every weight by about that", whole=False)]
Beta = Annotated[float, Range(0, 0.999999, "1 would keep the first gradient forever", whole=False)]
Factor = Annotated[float, Range(1e-6, 1e6, "single precision overflows above it", whole=False)]
PenaltyWeight = Annotated[float, Range(0, 1e6, "single precision overflows above it", whole=False)]
Probability = Annotated[float, Range(0, 1, "it is a probability", whole=False)]
BatchSize = Annotated[int, Range(1, 1_000_000, "no data set has more images")]

# None until the data are known; `config.derived` replaces it. The types are those of a resolved configuration.
if TYPE_CHECKING:
    DerivableWidth: TypeAlias = int
    DerivableEpochs: TypeAlias = int
    DerivableBatchSize: TypeAlias = int
    DerivableLearningRate: TypeAlias = float
    DerivablePenaltyWeight: TypeAlias = float
else:
    DerivableWidth = Width | None
    DerivableEpochs = Epochs | None
    DerivableBatchSize = BatchSize | None
    DerivableLearningRate = LearningRate | None
    DerivablePenaltyWeight = PenaltyWeight | None
FROM_DATA: Any = None

_WEEK = 604_800  # seconds; in milliseconds, as gloo counts them, it fits into 32 bits
Timeout = Annotated[float, Range(0.1, _WEEK, "no successful wait takes longer than a week", whole=False)]
Seconds = Annotated[float, Range(1e-3, _WEEK, "no output is due less than once a week", whole=False)]
PeerTimeout = Annotated[float, Range(5, _WEEK, "no successful wait takes longer than a week", whole=False)]


@dataclass(frozen=True)
class DataConfig:
    name: DataName = "mnist"
    """Data set. folder: pictures in root, a folder or a .zip file; sub-folders are classes. arrays: a .npz or .npy file
    as root. hf:USER/SET: a data set of the Hugging Face hub, or its copy in root/USER/SET. The others are named as in
    torchvision."""
    root: Path = Path("data")
    """Folder of the data set; downloads are written here too. For named data sets, in torchvision's layout."""
    source: DataSource = "auto"
    """Where the images come from. auto: local files in root, else a download, else, for mnist, the sample of 5,000
    digits."""
    size: Annotated[int, Range(4, 1_024, "networks for larger images need other architectures")] | None = None
    """Pixels per side, for folder, arrays and sets of the hub. The short side is resized with antialiasing, then the
    center is cropped. None: all pictures have the same size and keep it."""
    channels: Literal["auto", "1", "3"] = "auto"
    """Channels of an image, for folder, arrays and sets of the hub. 1 is grey, 3 is colour. auto: 1 if all pictures are
    grey."""
    background: Literal["white", "black", "gray"] = "white"
    """Colour behind transparent pixels, for folder and sets of the hub."""
    labels: Literal["auto", "none"] = "auto"
    """Classes of the images. auto: as the data set has them. none: ignore them."""
    mirror: bool = False
    """Flip each image horizontally with probability 1/2, as a function of the seed, the step and its place in the
    batch. Not for digits, letters, or other images with a direction."""
    stack: Annotated[int, Range(1, 3, "an image has one channel or three")] = 1
    """Number of independently drawn images that form the channels of one image, 1 or 3. 3 is Stacked MNIST, with 1,000
    combinations of digits as modes. For data sets of 28x28."""
    memory: Literal["auto", "device", "file"] = "auto"
    """Where the training images are kept. device: in the memory of the device. file: in a memory-mapped file, which is
    read a batch ahead. auto: on the device if they fit into a quarter of its free memory. The results are identical."""
    verify: bool = False
    """Read all prepared pixels at the start and compare their hash. Otherwise only names, sizes and times are
    compared."""
    download_timeout: Timeout = 120.0
    """Maximum duration of a download, in seconds."""


@dataclass(frozen=True)
class ModelConfig:
    architecture: ArchitectureName = "mlp"
    """Generator and discriminator. mlp: multi-layer perceptrons. conv: convolutional networks. residual: those of
    R3GAN."""
    labels: Literal["none", "conditional"] = "none"
    """Classes in the networks. conditional: the generator is asked for a class, and the discriminator judges each image
    with its class. none: they do not see the classes of the data."""
    latent_dim: Width = 64
    """Size of a latent vector."""
    label_dim: Width = 32
    """Size of the embedding of a class, which is appended to the latent vector. Only if labels is conditional."""
    hidden_dim: DerivableWidth = 256
    """Units of a hidden layer, in both networks of mlp and conv. None: derived from the data."""
    channels: DerivableWidth = 32
    """Channels of the largest feature maps, in convolutional networks. None: derived from the data."""
    max_channels: Width = 512
    """Upper bound of the channels of residual, which double each time that the feature maps are halved."""
    blocks: Annotated[int, Range(1, 1_000, "no network is that deep")] = 2
    """Residual blocks for each size of the feature maps of residual."""
    expansion: Annotated[int, Range(1, 1_000, "the channels inside a block are that many times those of the maps")] = 2
    """Ratio of the channels inside a block of residual to those of the feature maps."""
    group_size: Width = 16
    """Channels in each group of the grouped convolutions of residual: at least this many, and a divisor of all."""
    initialization: Literal["torch", "he"] = "torch"
    """Initial weights of mlp and conv. torch: the defaults of torch's layers. he: Kaiming-normal weights, zero biases.
    The initial weights of residual are those of its paper."""

    @property
    def conditional(self) -> bool:
        """Whether the networks take labels."""
        return self.labels != "none"


@dataclass(frozen=True)
class OptimizerConfig:
    learning_rate: DerivableLearningRate = 2e-4
    """Initial learning rate of Adam. The generator's is generator_factor times as large. None: derived from the
    data."""
    generator_factor: Factor = 1.0
    """Ratio of the generator's learning rate to the discriminator's (TTUR, Heusel et al. 2017, arXiv:1706.08500)."""
    final_learning_rate: LearningRate | None = None
    """Final learning rate, reached over decay_images along a half cosine. None: the learning rate is constant."""
    decay_images: DecayImages = 1_000_000
    """Number of images over which the learning rate decays. Independent of the length of the run, which may change."""
    beta1: Beta = 0.9
    """Adam's beta1."""
    beta2: Beta = 0.999
    """Adam's beta2."""


@dataclass(frozen=True)
class TrainConfig:
    epochs: DerivableEpochs = 300
    """Passes over the data set. None: derived from the data."""
    steps: Steps | None = None
    """Total number of steps, which may end inside an epoch. None: determined by epochs."""
    batch_size: DerivableBatchSize = 100
    """Global batch size, in images, over all processes. Divisible by the number of processes. None: derived from the
    data."""
    seed: Annotated[int, SEEDS] = 0
    """Random seed of the initial weights, the order of the images and the latents."""
    loss: LossName = "bce"
    """Adversarial loss. bce: non-saturating binary cross entropy. relativistic: RpGAN, to be used with penalty.r1 and
    penalty.r2."""
    fake_labels: Literal["drawn", "paired"] = "drawn"
    """Classes of the generated images, if model.labels is conditional. drawn: with the frequencies of the data, as a
    function of the seed, the step and the place in the batch. paired: those of the real images of the batch, so that
    paired losses compare images of one class."""
    accumulation: Annotated[int, Range(1, 1_000_000, "a micro-batch has at least one image")] = 1
    """Gradient accumulation: number of micro-batches per process and step. Divides the batch size per process."""
    exact_shards: Annotated[int, Range(1, 4_096, "each is a separate pass with separate gradients")] | None = None
    """Exact mode, with this number of shards: the batch is split into them, and their gradients are added in a fixed
    order. The weights are then bit-identical on every number of processes that divides it. None: fast mode, equal up to
    rounding."""
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None
    """Precision of the forward passes; fp16 requires a GPU. None: as passed to accelerate launch, else no."""
    on_nonfinite: Literal["stop", "skip", "rollback"] = "stop"
    """Reaction to a NaN or infinite loss or gradient on any rank, whose update is never applied. stop: save the state
    before that step and fail. skip: continue without the update. rollback: return to the latest checkpoint and retry;
    fail if the same step fails again."""
    max_rollbacks: Annotated[int, Range(1, 1_000, "a run with more rollbacks makes no progress")] = 3
    """Maximum number of rollbacks per session."""
    log_hashes: Steps | None = None
    """Steps between two lines of hashes.jsonl, which gan-dist diff compares. None: no hashes."""
    threads: Annotated[int, Range(1, 1_024, "no machine has more cores for one process")] | None = None
    """CPU threads per process. None: the number of cores divided by the number of local processes, or 1 if that is
    faster or required by the exact mode."""
    capture: Literal["auto", "on", "off"] = "auto"
    """Capture the whole step as a CUDA graph and replay it, with the same bits. auto: on CUDA, unless profile is set or
    distributed.gradients is ddp. on: the same, and both are refused. off: launch each operation."""
    tf32: bool = False
    """On CUDA: allow TensorFloat-32 in matrix products and convolutions of fp32 numbers. Faster on GPUs from Ampere on,
    with 10 instead of 23 bits of mantissa in their inputs. Incompatible with exact_shards."""
    channels_last: bool = False
    """Compute convolutions with the channels of a pixel next to each other in memory, which the tensor cores of GPUs
    need. The results are equal up to rounding. Incompatible with exact_shards."""
    cudnn_benchmark: bool = False
    """On CUDA: time cuDNN's kernels for each convolution at the start and use the fastest one. The results are equal up
    to rounding, and may differ between two starts. Incompatible with exact_shards."""


@dataclass(frozen=True)
class PenaltyConfig:
    r1: DerivablePenaltyWeight = 0.0
    """Gamma of the R1 penalty: adds gamma/2 times the mean squared gradient norm of D's logit at real images. None:
    derived from the data."""
    r2: DerivablePenaltyWeight = 0.0
    """Gamma of the R2 penalty: the same at generated images. None: derived from the data."""
    order: Literal["second", "first"] = "second"
    """How R1 and R2 are computed. second: from gradients, with a backward pass through a backward pass. first:
    estimated from the difference between the logits of an image and of the same one with a little noise."""
    final_factor: Factor = 1.0
    """Final multiplier of both gammas, reached exponentially over decay_images."""
    decay_images: DecayImages = 1_000_000
    """Number of images over which the gammas change."""
    gradient: PenaltyWeight = 0.0
    """Lambda of the WGAN-GP penalty: adds lambda times the mean squared distance of the gradient norm from 1, at random
    interpolations of real and generated images."""


@dataclass(frozen=True)
class AugmentConfig:
    probability: Probability = 0.0
    """Probability of each transformation, for every image that the discriminator sees. 0 without a target: no
    augmentation. With a target: the initial value."""
    transforms: str = "colour,translation,cutout"
    """Names of the transformations, separated by commas: colour (brightness, saturation, contrast), translation, cutout
    and flip (horizontal, not for digits, letters, or other images with a direction)."""
    target: Probability | None = None
    """Adaptive probability: it rises while augment/overfitting is above the target, else it falls. Karras et al. 2020
    (arXiv:2006.06676) use 0.6 for a similar figure. None: the probability is constant."""
    rise_images: Annotated[int, Range(1, 10**12, _NO_RUN)] = 500_000
    """Number of images over which an adaptive probability would rise from 0 to 1, or fall back to 0."""

    @property
    def names(self) -> tuple[str, ...]:
        """The transformations."""
        return tuple(name.strip() for name in self.transforms.split(","))

    @property
    def on(self) -> bool:
        """Whether images are augmented."""
        return self.probability > 0 or self.target is not None


@dataclass(frozen=True)
class EmaConfig:
    half_life: Annotated[float, Range(1e-3, 1e12, "no run sees that many images", whole=False)] | None = None
    """Half-life of the exponential moving average of the generator, in images. The average is sampled, evaluated and
    exported. None: no average, and the trained generator is used, unless batches is set."""
    batches: Annotated[float, Range(1e-3, 1e12, "no run has that many steps", whole=False)] | None = None
    """Half-life in batches, from which half_life is derived if that is None."""
    warm_up: Annotated[float, Range(1e-6, 1e9, "above it the warm-up has no effect", whole=False)] = 0.05
    """Upper bound of the half-life, as a fraction of the images seen so far."""


@dataclass(frozen=True)
class LogConfig:
    every_steps: Annotated[int, Range(1, 1_000_000, "the figures of all these steps are kept in memory")] = 100
    """Steps between two lines of metrics.jsonl. A line holds the means since the previous one."""


@dataclass(frozen=True)
class SamplesConfig:
    every_epochs: Epochs = 1
    """Epochs between two grids of generated images."""
    every_seconds: Seconds | None = None
    """Minimum seconds of training between two grids, for epochs of milliseconds. The clock is read at log points. The
    first grid, those of epochs 10, 50, 100 and 300, and that of the last epoch are always written. None: no limit."""


@dataclass(frozen=True)
class EvaluateConfig:
    every_epochs: Epochs | None = 20
    """Epochs between two evaluations of the generator, written to evaluations.jsonl. None: no evaluations."""
    every_seconds: Seconds | None = None
    """Minimum seconds of training between two evaluations, without the time that these take. The clock is read at log
    points. The first evaluation, and one that is due after the last step, are always made. None: no limit."""
    count: Annotated[int, EVALUATED] = 10_000
    """Number of images generated per evaluation. Distances decrease as it grows."""
    features: Path = Path("auto")
    """Features of the distances. auto: those of this package's classifiers. inception:FILE: also FID and KID as in
    papers, with the weights of torch-fidelity in FILE, which is not downloaded."""


@dataclass(frozen=True)
class CheckpointConfig:
    every_steps: Steps | None = None
    """Steps between two checkpoints. None: one at the end of each epoch."""
    every_seconds: Seconds | None = None
    """Minimum seconds of training between two scheduled checkpoints. The clock is read at log points. The first, the
    last, those at a stop or of the best evaluation, and permanent ones are always saved. None: no limit."""
    keep: Annotated[int, Range(1, 1_000_000, "no run has more")] = 3
    """Number of latest checkpoints kept on disk."""
    keep_every: Steps | None = None
    """Every N-th scheduled checkpoint is kept permanently. None: none is."""


@dataclass(frozen=True)
class DistributedConfig:
    gradients: Literal["auto", "flat", "ddp"] = "auto"
    """How the gradients of a network cross the processes. flat: as one vector after the backward pass. ddp: in the
    buckets of DistributedDataParallel, during the backward pass. auto: ddp for large networks on several GPUs. The
    results are equal up to rounding."""
    timeout: PeerTimeout = 300.0
    """Maximum wait for another process, in seconds; then the run fails and names the lost rank. While rank 0 downloads,
    evaluates or waits for W&B, the other ranks wait as long as it is alive."""
    shared_memory: bool = True
    """On Linux, processes that train on the CPU of one machine add their gradients in shared memory instead of through
    gloo. On several machines, one process of each then exchanges the sums with the others."""


@dataclass(frozen=True)
class TrackingConfig:
    with_: Annotated[str | None, arg(name="with")] = "wandb"
    """Trackers that receive the figures and images, separated by commas: wandb, tensorboard, trackio. wandb also
    depends on wandb.mode. None: no tracker."""

    @property
    def names(self) -> tuple[str, ...]:
        """The trackers."""
        return () if self.with_ is None else tuple(name.strip() for name in self.with_.split(","))


@dataclass(frozen=True)
class WandbConfig:
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """Weights & Biases. auto: as WANDB_MODE says, else online if there is an API key, else offline."""
    project: str = "gan_dist"
    """W&B project."""
    entity: str | None = None
    """User or team that owns the project. None: the default one of the account."""
    name: str | None = None
    """Name of the run on the dashboard. None: the name of the run folder."""
    group: str | None = None
    """Group of the run, such as the runs of one recipe with several seeds. None: no group."""
    job_type: str = "train"
    """Job type, which divides the runs of a group."""
    tags: str | None = None
    """Tags of the run, separated by commas. Each has at most 64 characters. None: no tags."""
    notes: str | None = None
    """Description of the run, in one line. None: no description."""
    artifacts: bool = False
    """Upload the generator to use and the best one when a session ends, as versions of one artifact with the aliases
    latest and best."""
    timeout: Timeout = 30.0
    """Maximum wait for W&B in seconds: at the start (once more for the offline attempt), at the end, and for an
    unresponsive service, after which tracking is turned off."""

    @property
    def tag_names(self) -> tuple[str, ...]:
        """The tags."""
        return () if self.tags is None else tuple(tag.strip() for tag in self.tags.split(","))


@dataclass(frozen=True)
class RunConfig:
    dir: Path = Path("runs/seed")
    """Run folder: configuration, metrics, samples, checkpoints."""
    resume: Literal["auto", "never", "must"] = "auto"
    """Whether to resume the run in dir. auto: resume it if there is one, else start a new one. never: refuse to resume.
    must: refuse to start a new run."""
    shared: bool = True
    """Every host of the run sees dir. False: only the host of rank 0 does; it must be the same host after a stop."""


@dataclass(frozen=True)
class Config:
    """One training run. The seed and the configuration determine it; the number of processes only changes its speed."""

    data: DataConfig = field(default_factory=DataConfig)
    """Training images."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Generator and discriminator."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Adam, one for each network."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Training."""
    penalty: PenaltyConfig = field(default_factory=PenaltyConfig)
    """Gradient penalties of the discriminator."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation of real and generated images in the discriminator."""
    ema: EmaConfig = field(default_factory=EmaConfig)
    """Exponential moving average of the generator."""
    log: LogConfig = field(default_factory=LogConfig)
    """metrics.jsonl, console output and dashboard."""
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    """Grids of generated images."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """Evaluation of the generator."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Checkpoints."""
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    """Multiple processes."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Experiment trackers."""
    wandb: WandbConfig = field(default_factory=WandbConfig)
    """Weights & Biases."""
    run: RunConfig = field(default_factory=RunConfig)
    """Run folder."""
    profile: bool = False
    """Write a torch profiler trace of steps 50 to 60 and a table of the time per phase to RUN/profile, for this session
    and rank 0."""
