"""What may differ between a run and its continuation, and between the hosts of one run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gan_dist.config.derived import fields_to_derive
from gan_dist.config.sections import Config
from gan_dist.config.stored import from_dict, to_flat

# A resumed run may change these fields, or whole sections (with a dot): they set locations, intervals and the end of a
# run, but do not affect the trajectory. All other fields must stay the same.
CHANGEABLE_ON_RESUME = (
    "data.root",
    "data.source",
    "data.memory",
    "data.verify",
    "data.download_timeout",
    "train.epochs",
    "train.steps",
    "train.on_nonfinite",
    "train.max_rollbacks",
    "train.log_hashes",
    "train.threads",
    "train.capture",
    "train.channels_last",
    "train.cudnn_benchmark",
    "log.",
    "samples.",
    "evaluate.",
    "checkpoint.",
    "distributed.",
    "tracking.",
    "wandb.",
    "run.",
    "profile",
)

# Fields that may differ between the hosts of one run: read by rank 0 only, or a property of the host.
HOST_SPECIFIC = (
    "data.root",
    "data.source",
    "data.memory",
    "data.verify",
    "data.download_timeout",
    "train.threads",
    "tracking.",
    "wandb.",
    "run.dir",
    "profile",
)


def differences(before: Mapping[str, Any], config: Config) -> list[str]:
    """Fields that prevent a configuration from continuing the run of a stored one.

    Args:
        before: the stored configuration, of `to_dict`. A field that it lacks, because it was written by an older
            version, has the default.
        config: the new one. Fields that are still to be derived from the data are not compared.

    Returns:
        One "name: stored -> new" per field, in the order of the fields.

    Raises:
        InputError: `before` has fields that this version does not know.
    """
    old, new = to_flat(from_dict(before)), to_flat(config)
    unknown = fields_to_derive(config)
    return [
        f"{name}: {old[name]} -> {new[name]}"
        for name in new
        if not name.startswith(CHANGEABLE_ON_RESUME) and name not in unknown and old[name] != new[name]
    ]
