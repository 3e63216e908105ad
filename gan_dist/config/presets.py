"""Named sets of values to start from. A new preset is a function and a line in PRESETS."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from gan_dist.config.sections import (
    FROM_DATA,
    CheckpointConfig,
    Config,
    DataConfig,
    EmaConfig,
    EvaluateConfig,
    ModelConfig,
    OptimizerConfig,
    PenaltyConfig,
    RunConfig,
    SamplesConfig,
    TrainConfig,
)


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


def digits() -> Config:
    """conv with labels: a generator that is asked for a digit.

    With a smaller gamma, and a learning rate that falls faster and further.
    """
    preset = conv()
    return dataclasses.replace(
        preset,
        model=dataclasses.replace(preset.model, labels="conditional"),
        optimizer=dataclasses.replace(preset.optimizer, final_learning_rate=1e-4, decay_images=1_500_000),
        train=dataclasses.replace(preset.train, epochs=30),
        penalty=PenaltyConfig(r1=0.7),
        run=RunConfig(dir=Path("runs/digits")),
    )


def stacked() -> Config:
    """r3-conv on Stacked MNIST: three digits an image, 1,000 combinations."""
    return dataclasses.replace(
        r3_conv(),
        data=DataConfig(stack=3),
        evaluate=EvaluateConfig(every_epochs=10, count=26_000),
        run=RunConfig(dir=Path("runs/stacked")),
    )


def pictures() -> Config:
    """r3-conv for any pictures, with settings derived from the data.

    Sizes, batch, gamma, learning rate, average and epochs.
    """
    return Config(
        data=DataConfig(name="folder"),
        model=ModelConfig(architecture="conv", initialization="he", hidden_dim=FROM_DATA, channels=FROM_DATA),
        optimizer=OptimizerConfig(
            learning_rate=FROM_DATA, final_learning_rate=3e-4, decay_images=5_000_000, beta1=0.0, beta2=0.99
        ),
        train=TrainConfig(loss="relativistic", batch_size=FROM_DATA, epochs=FROM_DATA),
        penalty=PenaltyConfig(r1=FROM_DATA, r2=FROM_DATA, final_factor=0.1, decay_images=2_000_000),
        ema=EmaConfig(batches=8_000.0),
        samples=SamplesConfig(every_epochs=10),
        evaluate=EvaluateConfig(every_epochs=20),
        checkpoint=CheckpointConfig(every_steps=1_000),
        run=RunConfig(dir=Path("runs/pictures")),
    )


def cifar10() -> Config:
    """R3GAN on CIFAR-10, with classes, for several GPUs.

    Huang et al. 2024, arXiv:2501.05441, appendix D, table 9: networks of 21 million weights each, and hyperparameters
    that change over the first 20 of 250 million images. Differences: beta2 is its final value from the beginning, the
    gammas fall exponentially instead of along a cosine, and the half-life of the average grows in proportion to the
    images seen.
    """
    return Config(
        data=DataConfig(name="cifar10", mirror=True),
        model=ModelConfig(architecture="residual", labels="conditional", label_dim=64, channels=768, max_channels=768),
        optimizer=OptimizerConfig(
            learning_rate=2e-4, final_learning_rate=5e-5, decay_images=20_000_000, beta1=0.0, beta2=0.99
        ),
        train=TrainConfig(loss="relativistic", fake_labels="paired", batch_size=512, epochs=5_000),
        penalty=PenaltyConfig(r1=0.05, r2=0.05, final_factor=0.1, decay_images=20_000_000),
        ema=EmaConfig(half_life=5_000_000.0, warm_up=0.25),
        samples=SamplesConfig(every_epochs=10),
        evaluate=EvaluateConfig(every_epochs=50),
        checkpoint=CheckpointConfig(every_steps=1_000),
        run=RunConfig(dir=Path("runs/cifar10")),
    )


PRESETS: dict[str, Callable[[], Config]] = {
    "seed": seed,
    "r3": r3,
    "conv": conv,
    "r3-conv": r3_conv,
    "digits": digits,
    "stacked": stacked,
    "pictures": pictures,
    "cifar10": cifar10,
}
