"""The process that loads a Hugging Face data set with the package `datasets`, and says which files hold its rows."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gan_dist.data.readers.arrow import ArrowFile, PictureColumn
from gan_dist.data.readers.labels import HELD_OUT_FOLDERS, TRAIN_FOLDER
from gan_dist.data.readers.layout import HELD_OUT_SHARE
from gan_dist.data.readers.picture import measure
from gan_dist.files import BadFile, first_line

IMAGE_NAMES, LABEL_NAMES = ("image", "img"), ("label", "labels")
SAVED = ("state.json", "dataset_dict.json")  # files that save_to_disk writes


def main() -> None:
    """Load the data set whose id or absolute path is in sys.argv[1], and print its answer as JSON."""
    output = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no part of the answer
    os.chdir("/")  # load_dataset would take a folder with the name of the data set for it
    with os.fdopen(output, "w") as stream:
        json.dump(answer(sys.argv[1]), stream)


def answer(where: str) -> dict[str, Any]:
    """The description of a data set; {"problem": …} if it can't be used, {"error": …} if it can't be loaded.

    Args:
        where: as in `load`.
    """
    try:
        return describe(load(where))
    except BadFile as error:
        return {"problem": str(error)}
    except Exception as error:  # of any kind: of networks, files and formats
        return {"error": reason(error)}


def load(where: str) -> Mapping[str, Any]:
    """Load a data set, and download it if necessary, without executing code that comes with it.

    Args:
        where: an id, or an absolute path: a folder that save_to_disk wrote, or one of files that load_dataset reads.

    Returns:
        Name of a split -> its datasets.Dataset.

    Raises:
        BadFile: it refers to files elsewhere.
        Exception: whatever `datasets` raises.
    """
    import datasets

    datasets.config.HF_DATASETS_TRUST_REMOTE_CODE = False  # versions before 4 have scripts, and would ask
    if not any(os.path.exists(os.path.join(where, name)) for name in SAVED):
        return datasets.load_dataset(where, keep_in_memory=False)
    loaded = datasets.load_from_disk(where, keep_in_memory=False)
    splits = loaded if isinstance(loaded, Mapping) else {TRAIN_FOLDER: loaded}
    for rows in splits.values():
        for file in rows.cache_files:
            if not Path(file["filename"]).resolve().is_relative_to(Path(where).resolve()):
                raise BadFile("refers to files outside of its folder")
    return splits


def describe(splits: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a loaded data set; `huggingface_find.parse` says what it holds.

    Raises:
        BadFile: it has no training split, no column of pictures, or is damaged.
    """
    train = TRAIN_FOLDER if TRAIN_FOLDER in splits else next(iter(splits)) if len(splits) == 1 else None
    if train is None:
        raise BadFile(f"has the splits {', '.join(splits)}, but none named {TRAIN_FOLDER}")
    features = splits[train].features
    column = _image_column(features)
    label, names, problem = _label_column(features)
    described = {train: _rows(splits[train], column, label)}
    held_out = {}
    for name in HELD_OUT_FOLDERS:
        if name in splits and name != train:
            if any(splits[name].features.get(each) != features[each] for each in (column, label) if each is not None):
                raise BadFile(f"has other columns in {name} than in {train}; save a copy with the same ones")
            held_out[name] = _rows(splits[name], column, label)
    if held_out:
        # Test splits of competitions have no labels, but their validation splits have.
        name = next((name for name, rows in held_out.items() if not _without_label(rows)), next(iter(held_out)))
        described[name] = held_out[name]
    return {
        "column": column,
        "label": label,
        "names": names,
        "label_problem": problem,
        "measured": _measure(described[train], column),
        "splits": [{"name": name, **rows} for name, rows in described.items()],
    }


def _image_column(features: Mapping[str, Any]) -> str:
    """The column of pictures."""
    import datasets

    found = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if not found:  # files that other tools wrote
        found = [name for name in IMAGE_NAMES if _holds_bytes(features.get(name))]
    named = [name for name in found if name in IMAGE_NAMES]
    if len(found) > 1 and len(named) != 1:
        raise BadFile(f"has several columns of pictures: {', '.join(found)}; save a copy with one of them")
    if not found:
        raise BadFile(f"has no column of pictures, but {', '.join(features)}; save a copy with a column of type Image")
    return (named or found)[0]


def _holds_bytes(feature: Any) -> bool:
    if isinstance(feature, Mapping):  # {"bytes": …, "path": …}
        feature = feature.get("bytes")
    return getattr(feature, "dtype", None) in ("binary", "large_binary")


def _label_column(features: Mapping[str, Any]) -> tuple[str | None, list[str] | None, str | None]:
    """The column of classes, the names of the classes if it has them, and why there is none although there could be."""
    import datasets

    found = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    named = [name for name in found if name in LABEL_NAMES]
    if len(found) > 1 and len(named) != 1:
        return None, None, f"has several columns of classes: {', '.join(found)}; save a copy with one of them"
    if found:
        label = (named or found)[0]
        return label, list(features[label].names), None
    for name in LABEL_NAMES:
        if str(getattr(features.get(name), "dtype", "")).startswith(("int", "uint", "string", "large_string")):
            return name, None, None
    return None, None, None


def _rows(rows: Any, column: str, label: str | None) -> dict[str, Any]:
    """The files of a split, the number of its rows and their labels."""
    files = []
    for file in rows.cache_files:
        status = os.stat(file["filename"])
        files.append(ArrowFile(os.path.abspath(file["filename"]), status.st_size, status.st_mtime_ns))
    if len(PictureColumn(files, column)) != len(rows):
        raise BadFile(f"has {len(rows):,} rows, but its files hold another number; save or download it again")
    labels = None if label is None else rows.data.column(label).to_pylist()
    return {"files": files, "count": len(rows), "labels": labels}


def _without_label(rows: Mapping[str, Any]) -> bool:
    """Whether labels are missing: null or -1."""
    return rows["labels"] is not None and any(label in (None, -1) for label in rows["labels"])


def _measure(rows: Mapping[str, Any], column: str) -> tuple[int, int, int] | None:
    """Row, width and height of the first picture that can be read; None if too many can't."""
    pictures = PictureColumn(rows["files"], column)
    for row in range(min(len(pictures), 1 + len(pictures) // HELD_OUT_SHARE)):
        try:
            return (row, *measure(pictures.content(row)))
        except BadFile:
            continue
    return None


def reason(error: BaseException) -> str:
    """Why `datasets` failed, in one line."""
    generic = type(error).__name__ == "DatasetGenerationError"  # its message says no more
    return reason(error.__cause__) if generic and error.__cause__ is not None else first_line(error)
