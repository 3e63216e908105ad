"""Input checks that do not need torch, whose import takes seconds to a minute."""

from __future__ import annotations

import dataclasses
import os

from gan_dist.config import Config, InputError, check_processes, differences
from gan_dist.config.trackers import check_trackers
from gan_dist.data.readers import reader_for
from gan_dist.evaluation.inception_file import check_inception
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json


def check_early(config: Config) -> None:
    """Run the checks that are repeated, in the same order, before the first step. Writes nothing.

    Every process runs them, since a launcher may keep the others waiting for one that ends. They are skipped if another
    error may have precedence: on several hosts, where only rank 0 needs the data, and in fp16, which requires a GPU.

    Args:
        config: a valid configuration.

    Raises:
        InputError: the batch size, the run folder or the data are invalid.
    """
    ranks = os.environ.get("WORLD_SIZE", "1")
    precision = config.train.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    one_host = ranks.isdigit() and ranks == os.environ.get("LOCAL_WORLD_SIZE", "1")
    if not one_host or precision not in ("no", "bf16"):
        return
    train = dataclasses.replace(config.train, mixed_precision="bf16" if precision == "bf16" else "no")
    config = dataclasses.replace(config, train=train)
    check_processes(config, int(ranks))
    folder = RunFolder(config.run.dir)
    folder.check_usable()
    check_resume(config, folder)
    check_inception(config.evaluate.features)
    check_trackers(config)
    reader_for(config.data.name).check(config.data)


def check_resume(config: Config, folder: RunFolder) -> None:
    """Check that a run may start or resume in its folder.

    Args:
        config: the resolved configuration.
        folder: the run folder.

    Raises:
        InputError: run.resume excludes it, it belongs to another configuration, or it is not a run folder.
    """
    there = folder.holds_a_run()
    if there and config.run.resume == "never":
        raise InputError(
            f"run.dir={folder.path} already holds a run, and run.resume=never refuses to resume it; "
            "choose another --run.dir"
        )
    if not there and config.run.resume == "must":
        raise InputError(
            f"run.dir={folder.path} holds no run to resume, as run.resume=must requires; "
            "give the folder of a run, or omit --run.resume"
        )
    if not there and folder.path.is_dir() and (others := folder.unrelated_files()):
        shown = ", ".join(others[:4]) + (", …" if others[4:] else "")
        raise InputError(
            f"run.dir={folder.path} holds files and no {folder.config.name}, so it is not a run folder ({shown}); "
            f"choose another --run.dir, or restore {folder.config.name} (every checkpoint's state.json contains it)"
        )
    if there and (fields := _differences(folder, config)):
        raise InputError(
            f"run.dir={folder.path} belongs to another configuration ({'; '.join(fields)}); "
            "choose another --run.dir, or pass the stored values"
        )


def _differences(folder: RunFolder, config: Config) -> list[str]:
    """As `differences`, with the configuration in the folder.

    Raises:
        InputError: names the file, which is damaged, or of a version with other fields.
    """
    stored = read_json(folder.config)
    try:
        return differences(stored, config)
    except InputError as error:
        raise InputError(
            f"{folder.config} can't be used ({error}); restore it, use the version of gan_dist that wrote it, or "
            "choose another --run.dir"
        ) from error
