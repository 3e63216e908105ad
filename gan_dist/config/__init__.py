"""The configuration of a run: its settings, presets, rules, and how it is stored. Nothing here imports torch."""

from gan_dist.config.errors import BAD_INPUT_EXIT_CODE, STOPPED_EXIT_CODE, InputError, Stopped, TrainingFailed
from gan_dist.config.presets import PRESETS
from gan_dist.config.ranges import Range, check_text
from gan_dist.config.resume import CHANGEABLE_ON_RESUME, HOST_SPECIFIC, differences
from gan_dist.config.rules import check_processes, validate, warnings
from gan_dist.config.sections import (
    EVALUATED,
    MIN_EVALUATED,
    SEEDS,
    AugmentConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    DataName,
    DataSource,
    DistributedConfig,
    EmaConfig,
    EvaluateConfig,
    LogConfig,
    ModelConfig,
    OptimizerConfig,
    PenaltyConfig,
    RunConfig,
    SamplesConfig,
    TrackingConfig,
    TrainConfig,
    WandbConfig,
    Weights,
)
from gan_dist.config.stored import from_dict, to_dict, to_flat
from gan_dist.config.text import shortened
from gan_dist.config.version import package_version

__all__ = [
    "BAD_INPUT_EXIT_CODE",
    "CHANGEABLE_ON_RESUME",
    "EVALUATED",
    "HOST_SPECIFIC",
    "MIN_EVALUATED",
    "PRESETS",
    "SEEDS",
    "STOPPED_EXIT_CODE",
    "AugmentConfig",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "DataName",
    "DataSource",
    "DistributedConfig",
    "EmaConfig",
    "EvaluateConfig",
    "InputError",
    "LogConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PenaltyConfig",
    "Range",
    "RunConfig",
    "SamplesConfig",
    "Stopped",
    "TrackingConfig",
    "TrainConfig",
    "TrainingFailed",
    "WandbConfig",
    "Weights",
    "check_processes",
    "check_text",
    "differences",
    "from_dict",
    "package_version",
    "shortened",
    "to_dict",
    "to_flat",
    "validate",
    "warnings",
]
