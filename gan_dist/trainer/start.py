"""What a run starts from: its folder, its images and the checkpoint to resume. Determined by rank 0."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gan_dist.config import Config, InputError, differences
from gan_dist.config.derived import derive
from gan_dist.config.rules import SAFE_PROBABILITY
from gan_dist.config.trackers import check_trackers
from gan_dist.data.images import ImageSet
from gan_dist.data.readers.names import quoted
from gan_dist.data.sources import load_images
from gan_dist.data.spec import DataSpec, are_classes
from gan_dist.distributed.preemption import StopRequest
from gan_dist.evaluation.inception_file import check_inception
from gan_dist.files import BadFile
from gan_dist.models import build_pair, count_classes
from gan_dist.models.cost import count_weights
from gan_dist.outputs.checkpoint import Checkpoints
from gan_dist.outputs.checkpoint_format import Checkpoint, DamagedCheckpoint, ForeignCheckpoint
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import is_number, read_optional_json
from gan_dist.trainer.early import check_resume
from gan_dist.trainer.images import ImagesDescription, describe_images
from gan_dist.trainer.meter import METRICS


@dataclass(frozen=True)
class Start:
    images: ImagesDescription
    checkpoint: Checkpoint | None
    """Checkpoint to resume; None: start at step 0."""
    run_id: str
    """Identifies the checkpoints of this run."""
    folder_suffix: str = ""
    """Appended to the name of the run folder if a fallback replaces the requested data."""


def find_start(
    config: Config, folder: RunFolder, announce: Callable[[str], None], request: StopRequest
) -> tuple[Start, ImageSet]:
    """Lock the run folder, read what the run starts from, and check that it is consistent.

    Only the lock is written. The folder is created if it does not exist; `folder.close` removes it if it stays empty.

    Args:
        config: the resolved configuration.
        folder: the run folder; locked from here on.
        announce: called with one line per fact that the user may not expect.
        request: receives a stop request if another run takes over the folder.

    Returns:
        What all ranks need to know, and the images, which are not pickled.

    Raises:
        InputError: the folder, the data or the checkpoints do not fit this configuration.
        Stopped: a stop was requested during a download.
    """
    there, suffix = _take_folder(config, folder, announce, request), ""
    check_inception(config.evaluate.features)
    check_trackers(config)
    images = load_images(config.data, announce, lambda: request.pending)
    if images.provenance.fallback is not None and not there:
        # A later start with the requested data must find its folder unused.
        folder.close()
        suffix = "-sample"
        folder.use(folder.path.with_name(folder.path.name + suffix))
        announce(f"this run is stored in {folder.path}, separately from one with the full data set")
        there = _take_folder(config, folder, announce, request)
    count = len(images.images)
    config, _ = derive(config, images.shape, count)
    check_resume(config, folder)  # with the derived settings
    if config.train.batch_size > count:
        raise InputError(
            f"train.batch_size={config.train.batch_size} is more than the {count:,} images of the data set; "
            f"use at most {count}"
        )
    check_classes(config, images)
    described = describe_images(images)
    if not there:
        return Start(described, None, uuid.uuid4().hex, suffix), images
    earlier, _ = read_optional_json(folder.environment)
    run_id = earlier.get("run_id")
    run_id = run_id if isinstance(run_id, str) else ""
    _check_same_classes(config, folder, earlier, images)
    checkpoints = Checkpoints(folder.checkpoints, config.checkpoint.keep, run_id=run_id)
    checkpoint = latest_checkpoint(checkpoints, config, images.spec, announce)
    if checkpoint is None:
        announce(f"the run in {folder.path} ended before its first checkpoint and starts again")
        return Start(described, None, run_id or uuid.uuid4().hex, suffix), images
    if checkpoint.state["data_sha256"] != images.provenance.sha256:
        raise InputError(_other_images(folder, checkpoint, images))
    if config.model.conditional and checkpoint.state.get("labels_sha256") != images.labels_sha256:
        raise InputError(_other_labels(folder, "the classes of some images have changed"))
    return Start(described, checkpoint, checkpoint.run_id, suffix), images


def check_classes(config: Config, images: ImageSet) -> None:
    """Check that a conditional run has images of every class.

    Raises:
        InputError: the data have no classes, or a class has no images.
    """
    names, counts = images.spec.classes, images.class_counts
    if not count_classes(config.model, names):
        return
    assert names is not None
    assert counts is not None
    if empty := [name for name, count in zip(names, counts.tolist(), strict=True) if not count]:
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise InputError(
            f"model.labels={config.model.labels} requires training images of every class, and {images.provenance.file} "
            f"has none of {quoted(empty[0])}{more}; add images, remove the class, or omit model.labels"
        )


def _take_folder(config: Config, folder: RunFolder, announce: Callable[[str], None], request: StopRequest) -> bool:
    """Lock the folder; returns whether it holds a run that this one resumes."""
    folder.check_usable()
    folder.lock(announce, request.ask)
    there = folder.holds_a_run()
    check_resume(config, folder)
    return there


def _other_images(folder: RunFolder, checkpoint: Checkpoint, images: ImageSet) -> str:
    found = images.provenance
    why = f"{found.fallback}; " if found.fallback else ""
    return (
        f"run.dir={folder.path} was trained on other images (data sha256 {checkpoint.state['data_sha256'][:12]}, "
        f"now {found.sha256[:12]} from {found.source}); {why}"
        "pass the original --data.root and --data.source, or choose another --run.dir"
    )


def _check_same_classes(config: Config, folder: RunFolder, earlier: dict[str, Any], images: ImageSet) -> None:
    """Check that a conditional run has the classes of its earlier sessions, before its checkpoints are read: their
    tensors would not fit.

    Args:
        config: of the run.
        folder: the run folder.
        earlier: its environment.json, as far as it is there.
        images: the training images.

    Raises:
        InputError: it has not.
    """
    data = earlier.get("data")
    spec = data.get("spec") if isinstance(data, dict) else None
    before = spec.get("classes") if isinstance(spec, dict) else None
    now = list(images.spec.classes or ())
    if not config.model.conditional or not are_classes(before) or before == now:
        return
    changed = [f"without {quoted(name)}" for name in before if name not in now]
    changed += [f"with {quoted(name)}" for name in now if name not in before]
    shown = ", ".join(changed[:4]) or "in another order"
    raise InputError(_other_labels(folder, f"it had {len(before)} classes, now {len(now)} ({shown})"))


def _other_labels(folder: RunFolder, what: str) -> str:
    return (
        f"run.dir={folder.path} was trained with other labels: {what}; "
        "restore the labels of the data, or choose another --run.dir"
    )


def latest_checkpoint(
    checkpoints: Checkpoints, config: Config, spec: DataSpec, announce: Callable[[str], None]
) -> Checkpoint | None:
    """The latest checkpoint that a run of this configuration can resume; None if there are none.

    Args:
        checkpoints: of the run.
        config: its resolved configuration.
        spec: of its images.
        announce: called with one line per checkpoint that is skipped.

    Raises:
        InputError: all checkpoints are damaged.
    """
    expected = expected_tensors(config, spec)
    return checkpoints.latest(announce, expected, lambda found: check_state(found.state, config))


def expected_tensors(config: Config, spec: DataSpec) -> dict[str, dict[str, Tensor]]:
    """The tensors in the checkpoints of a run: stem of the file -> name -> meta tensor with shape and dtype."""
    classes = count_classes(config.model, spec.classes)
    with torch.device("meta"):
        networks = build_pair(config.model, spec.shape, 0, classes)
        pair = dict(zip(("generator", "discriminator"), networks, strict=True))
        expected: dict[str, dict[str, Tensor]] = {}
        for name, network in pair.items():
            expected[name] = network.state_dict()
            weights = count_weights(network)
            flat = {key: torch.empty(weights) for key in ("0.exp_avg", "0.exp_avg_sq")}
            expected[f"{name}_optimizer"] = flat | {"0.step": torch.empty(())}
        if config.ema.half_life is not None:
            expected["average"] = expected["generator"]
    return expected


def check_state(state: dict[str, Any], config: Config) -> None:
    """Check state.json of a checkpoint.

    Raises:
        DamagedCheckpoint: a value is missing or has the wrong type.
        ForeignCheckpoint: the checkpoint was written with another configuration.
    """
    penalty = config.penalty
    spec, labels = state.get("data_spec"), state.get("labels_sha256")
    adaptive = config.augment.target is not None
    figures = len(METRICS) + sum(map(bool, (penalty.r1, penalty.r2, penalty.gradient, adaptive)))
    window, best, ids = state.get("metrics_window"), state.get("best"), state.get("tracker_ids", {})
    for name, ok in {
        "config": isinstance(state.get("config"), dict),
        "data_sha256": isinstance(state.get("data_sha256"), str),
        "data_spec": spec is None or _is_spec(spec),  # earlier versions did not store it
        "labels_sha256": labels is None or isinstance(labels, str),
        "seconds": _is_duration(state.get("seconds")),
        "evaluating_seconds": _is_duration(state.get("evaluating_seconds")),
        "best": best is None or (_is_list(best, 2) and all(map(is_number, best)) and isinstance(best[0], int)),
        "scaler": isinstance(state.get("scaler"), dict) and all(map(is_number, state["scaler"].values())),
        "wandb_id": isinstance(state.get("wandb_id"), str | None),  # of earlier versions
        "tracker_ids": isinstance(ids, dict) and all(isinstance(id, str) for id in ids.values()),
        "updates_skipped": isinstance(state.get("updates_skipped"), int),
        "metrics_window": isinstance(window, list)
        and all(_is_list(row, figures) and all(map(is_number, row)) for row in window),
        "augmentation": _is_augmentation(state.get("augmentation"), adaptive),
    }.items():
        if not ok:
            raise DamagedCheckpoint(f"state.json has no valid {name}")
    try:
        fields = differences(state["config"], config)
    except InputError as error:
        raise ForeignCheckpoint(str(error)) from error
    if fields:
        raise ForeignCheckpoint(f"it was written with another configuration ({'; '.join(fields)})")


def _is_spec(value: Any) -> bool:
    try:
        DataSpec.from_dict(value)
    except BadFile:
        return False
    return True


def _is_augmentation(value: Any, adaptive: bool) -> bool:
    """Whether a value is the state of a constant probability, None, or that of an adaptive one."""
    if not adaptive or not isinstance(value, dict):
        return value is None and not adaptive
    probability, window = value.get("probability"), value.get("window")
    steps = isinstance(window, list) and all(_is_list(row, 1) and is_number(row[0]) for row in window)
    return steps and isinstance(probability, float) and 0 <= probability <= SAFE_PROBABILITY


def _is_duration(value: Any) -> bool:
    return is_number(value) and 0 <= value < math.inf


def _is_list(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length
