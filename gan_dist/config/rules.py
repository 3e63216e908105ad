"""Rules between fields. The range of a single field is part of its declaration, in sections.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from gan_dist.config.errors import InputError
from gan_dist.config.hub import HUB_EXAMPLE, hub_id
from gan_dist.config.ranges import check_ranges, check_text
from gan_dist.config.sections import (
    DATA_NAMES,
    INCEPTION,
    TRACKER_NAMES,
    TRANSFORMATION_NAMES,
    AugmentConfig,
    Config,
)
from gan_dist.config.stored import flatten
from gan_dist.config.suggestions import nearest
from gan_dist.config.text import shortened

OWN_FILES = ("folder", "arrays")
COLOUR = ("cifar10", "svhn")
CHARACTERS = ("mnist", "qmnist", "kmnist", "svhn")  # digits and letters
MAX_TAG = 64  # characters, as W&B allows
SAFE_PROBABILITY = 0.8  # of an augmentation; above it the generator may learn to augment, too


def is_any_size(name: str) -> bool:
    """Whether a data set may have pictures of any size, which are prepared."""
    return name in OWN_FILES or hub_id(name) is not None


def unknown_data(name: str) -> str | None:
    """What is wrong with data.name; None if it names a reader."""
    if name in DATA_NAMES or hub_id(name) is not None:
        return None
    return f"data.name={shortened(name)} is not supported; {nearest(name, (*DATA_NAMES, HUB_EXAMPLE))}"


def validate(config: Config) -> None:
    """Check everything that does not depend on the data and the number of processes.

    Raises:
        InputError: names the field, its value and the values that work.
    """
    for name, value in flatten(dataclasses.asdict(config)).items():
        if isinstance(value, str | Path):
            check_text(name, str(value), path=isinstance(value, Path))
    check_ranges(config)
    for message in contradictions(config):
        raise InputError(message)


def contradictions(config: Config) -> Iterator[str]:
    """Combinations of values that are each valid and incompatible with each other: one line per combination."""
    data, train, penalty = config.data, config.train, config.penalty
    if (unknown := unknown_data(data.name)) is not None:
        yield unknown
    if data.stack not in (1, 3):
        yield f"data.stack={data.stack} is not supported: it must be 1 or 3"
    if data.source == "sample" and data.name != "mnist":
        yield f"data.source=sample has MNIST digits only, not data.name={data.name}; use source local or download"
    if data.source == "download" and data.name in OWN_FILES:
        yield f"data.source=download is for named data sets, not data.name={data.name}; pass --data.root"
    if data.stack > 1 and (is_any_size(data.name) or data.name in COLOUR):
        yield f"data.stack={data.stack} is for data sets of 28x28, not data.name={data.name}; omit it"
    if data.stack > 1 and data.mirror:
        yield "data.mirror is incompatible with data.stack: the channels are independent images; omit one of them"
    if not is_any_size(data.name) and (data.size is not None or data.channels != "auto"):
        yield f"data.size and data.channels are for data.name=folder, arrays and hf: sets, not {data.name}; omit them"
    if wrong := wrong_features("evaluate.features", config.evaluate.features):
        yield wrong
    yield from _wrong_augmentation(config.augment)
    yield from _wrong_tracking(config)
    if train.exact_shards is not None and train.accumulation > 1:
        yield "train.accumulation is incompatible with train.exact_shards: both split the batch; omit one of them"
    if train.capture == "on" and config.profile:
        yield "train.capture=on is incompatible with profile: the phases of a graph can't be timed; omit one of them"
    yield from _inexact_kernels(config)
    if config.distributed.gradients == "ddp":
        if train.exact_shards is not None:
            yield (
                "distributed.gradients=ddp is incompatible with train.exact_shards: the exact mode adds the gradients "
                "of all shards in a fixed order, after the backward passes; omit one of them"
            )
        if train.capture == "on":
            yield (
                "distributed.gradients=ddp is incompatible with train.capture=on: a CUDA graph can't replay DDP's "
                "hooks, which run in Python; omit one of them"
            )
    if config.model.conditional:
        if data.labels == "none":
            yield "model.labels=conditional is incompatible with data.labels=none; omit one of them"
        if data.stack > 1:
            yield "model.labels=conditional is incompatible with data.stack: stacked images have no class; omit one"
        if penalty.gradient and train.fake_labels == "drawn":
            yield (
                "penalty.gradient with model.labels=conditional requires train.fake_labels=paired: an interpolation of "
                "two classes has no label"
            )
    r1, r2 = penalty.r1 != 0, penalty.r2 != 0  # None, derived from the data, is above 0
    if penalty.gradient and (r1 or r2):
        yield (
            "penalty.gradient is incompatible with penalty.r1 and penalty.r2: it draws gradient norms to 1, they draw "
            "them to 0; use one or the others"
        )
    if penalty.order == "first" and penalty.gradient:
        yield "penalty.order=first is for penalty.r1 and penalty.r2, not for penalty.gradient; omit it"
    if (r1 or r2 or penalty.gradient) and train.mixed_precision == "fp16":
        yield (
            "penalties are incompatible with train.mixed_precision=fp16: their gradients exceed its range (R3GAN, "
            "arXiv:2501.05441, trains in bf16); use bf16, or no"
        )


def _inexact_kernels(config: Config) -> Iterator[str]:
    """Settings of the kernels that the exact mode refuses."""
    if config.train.exact_shards is None:
        return
    reasons = {
        "tf32": "only some GPUs have TensorFloat-32, and others would compute other bits",
        "channels_last": "whether a kernel follows this layout, and so the order of its sums, depends on the device",
        "cudnn_benchmark": "the fastest kernel differs between GPUs, and between two starts on one",
    }
    for field, reason in reasons.items():
        if getattr(config.train, field):
            yield f"train.{field} is incompatible with train.exact_shards: {reason}; omit one of them"


def _wrong_augmentation(augment: AugmentConfig) -> Iterator[str]:
    for name in augment.names:
        if name not in TRANSFORMATION_NAMES:
            yield f"augment.transforms={shortened(name)} is not supported; {nearest(name, TRANSFORMATION_NAMES)}"
    if len(set(augment.names)) < len(augment.names):
        yield f"augment.transforms={augment.transforms} names a transformation twice; name each once"
    if augment.target is not None and augment.probability > SAFE_PROBABILITY:
        yield (
            f"augment.probability={augment.probability:g} is incompatible with augment.target: an adaptive probability "
            f"is at most {SAFE_PROBABILITY:g}; use a lower one, or omit it"
        )


def _wrong_tracking(config: Config) -> Iterator[str]:
    names, tags = config.tracking.names, config.wandb.tag_names
    for name in names:
        if name not in TRACKER_NAMES:
            yield f"tracking.with={shortened(name)} is not supported; {nearest(name, TRACKER_NAMES)}"
    if len(set(names)) < len(names):
        yield f"tracking.with={config.tracking.with_} names a tracker twice; name each once"
    for tag in tags:
        if not 1 <= len(tag) <= MAX_TAG:
            yield f"wandb.tags={shortened(tag)} is not supported: a tag has 1 to {MAX_TAG} characters"


def wrong_features(name: str, features: Path) -> str | None:
    """What is wrong with the value of evaluate.features, here called `name`; None if it can be used."""
    value = str(features)
    if value == "auto" or (value.startswith(INCEPTION) and value != INCEPTION):
        return None
    return f"{name}={value} is not supported: it must be auto or {INCEPTION}FILE"


def warnings(config: Config) -> list[str]:
    """Combinations of values that work and that the literature advises against: one line per combination."""
    penalty, loss = config.penalty, config.train.loss
    found = image_warnings(config)
    if loss == "wasserstein" and not penalty.gradient:
        found.append(
            "train.loss=wasserstein without penalty.gradient: nothing keeps D 1-Lipschitz, so its loss is not a "
            "distance and may diverge (Gulrajani et al. 2017, arXiv:1704.00028); try --penalty.gradient 10"
        )
    # None is derived from the data.
    if loss == "relativistic" and 0 in (penalty.r1, penalty.r2):
        found.append(
            "train.loss=relativistic without both penalty.r1 and penalty.r2 may not converge (Huang et al. 2024, "
            "arXiv:2501.05441, section 3); try the preset r3"
        )
    if penalty.gradient and config.optimizer.beta1 > 0.5:
        found.append(
            f"penalty.gradient with optimizer.beta1={config.optimizer.beta1:g}: training the critic with momentum is "
            "unstable (Arjovsky et al. 2017, arXiv:1701.07875, section 4); try --optimizer.beta1 0"
        )
    return found


def image_warnings(config: Config) -> list[str]:
    """Those of `warnings` that concern what the discriminator sees of the images."""
    augment, found = config.augment, []
    flips = augment.on and "flip" in augment.names
    for field, used in {"data.mirror": config.data.mirror, "augment.transforms=flip": flips}.items():
        if used and config.data.name in CHARACTERS:
            found.append(
                f"{field} with data.name={config.data.name}: a mirrored digit or letter is another one or none, and "
                "the generator learns to make them; omit it"
            )
    if augment.on and augment.probability > SAFE_PROBABILITY:
        found.append(
            f"augment.probability={augment.probability:g}: above {SAFE_PROBABILITY:g} the generator may make augmented "
            "images itself (Karras et al. 2020, arXiv:2006.06676, section 2.2); try --augment.probability "
            f"{SAFE_PROBABILITY:g}"
        )
    return found


def check_processes(config: Config, processes: int) -> None:
    """Check that a batch can be divided into equal parts: per process, and per micro-batch or shard.

    Raises:
        InputError: names the two nearest batch sizes, or the numbers of processes, that work.
    """
    shards, accumulation = config.train.exact_shards, config.train.accumulation
    if shards is not None and shards % processes:
        divisors = [str(n) for n in range(1, shards + 1) if shards % n == 0]
        raise InputError(
            f"train.exact_shards={shards} is not divisible by {processes} processes; use {', '.join(divisors)} of them"
        )
    parts, divisor = processes, f"{processes} processes"
    if shards is not None:
        parts, divisor = shards, f"train.exact_shards={shards}"
    elif accumulation > 1:
        parts, divisor = processes * accumulation, f"{divisor} x train.accumulation={accumulation}"
    size = config.train.batch_size
    if size is None:  # derived from the data, which are not known yet
        return
    if rest := size % parts:
        below, above = size - rest, size - rest + parts
        use = f"{below} or {above}" if below else f"{above}"
        raise InputError(f"train.batch_size={size} is not divisible by {divisor}; use {use}")
