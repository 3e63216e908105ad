"""Where a run starts: its images, and its newest checkpoint if it was stopped before. Rank 0 finds it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gan_dist.config import Config, InputError
from gan_dist.data.sources import ImageSet, load_images
from gan_dist.run.checkpoint import Checkpoint, Checkpoints
from gan_dist.run.early import check_resume
from gan_dist.run.folder import RunFolder


@dataclass(frozen=True)
class Start:
    images: ImageSet
    checkpoint: Checkpoint | None
    """None: begin at step 0."""


def find_start(config: Config, folder: RunFolder, announce: Callable[[str], None]) -> Start:
    """Read all that a run starts from and check that it fits together. Writes nothing.

    Args:
        config: the resolved configuration.
        folder: the run's folder; locked from here on if it exists.
        announce: called with one line for each thing that is not as the user might think.

    Raises:
        InputError: the folder, the data or the checkpoints can't be used with this configuration.
    """
    folder.check_usable()
    if folder.path.exists():
        folder.lock()
    there = folder.holds_a_run()
    check_resume(config, folder)
    images = load_images(config.data, announce)
    count = len(images.images)
    if config.train.batch_size > count:
        raise InputError(
            f"train.batch_size={config.train.batch_size} is more than the {count:,} images of the data set; "
            f"use at most {count}"
        )
    checkpoint = Checkpoints(folder.checkpoints, config.checkpoint.keep).newest(announce) if there else None
    if there and checkpoint is None:
        announce(f"the run in {folder.path} ended before its first checkpoint: it begins again")
    if checkpoint is not None and checkpoint.state["data_sha256"] != images.provenance.sha256:
        raise InputError(
            f"run.dir={folder.path} was trained on other images (data sha256 {checkpoint.state['data_sha256'][:12]}…, "
            f"now {images.provenance.sha256[:12]}… from {images.provenance.source}); "
            "give --data.root and --data.source as they were, or choose another --run.dir"
        )
    return Start(images, checkpoint)
