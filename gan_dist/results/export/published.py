"""What of a run may be published: its configuration without paths and names of the machine."""

from __future__ import annotations

import dataclasses

from gan_dist.config import Config, DataConfig, RunConfig, WandbConfig
from gan_dist.config.sections import EvaluateConfig


def published_config(config: Config) -> Config:
    """A configuration with the defaults where it names folders, files, or projects of the user."""
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, root=DataConfig.root),
        evaluate=dataclasses.replace(config.evaluate, features=EvaluateConfig.features),
        wandb=WandbConfig(),
        run=RunConfig(),
    )
