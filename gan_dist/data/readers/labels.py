"""Which pictures of a folder are held out, and their classes: from sub-folders, metadata.jsonl or dataset.json."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gan_dist.config import InputError
from gan_dist.data.readers.layout import IGNORE, Entry, Layout, Value, hold_out, number_classes, printable
from gan_dist.data.readers.listing import File, Listing
from gan_dist.data.readers.names import LABEL_FILES, quoted
from gan_dist.data.spec import Split
from gan_dist.files import MAX_JSON_BYTES, BadFile, is_whole, parse_json_object

TRAIN_FOLDER = "train"
HELD_OUT_FOLDERS = ("test", "val", "valid", "validation")  # the first that is there is used


def arrange(listing: Listing, use_labels: bool) -> Layout:
    """Find the splits and the classes of pictures.

    Splits: the folders train and test (else val, valid, validation) at the top, in any case. Otherwise one in
    HELD_OUT_SHARE, by the hash of each file's path, if these are at least MIN_COMPARED; each class keeps
    some for training.

    Classes: those of metadata.jsonl (`file_name`, `label`; Hugging Face's imagefolder), else of dataset.json (`labels`:
    pairs of a name and a class, or null; StyleGAN's), at the top or in the folder of a split. Else the sub-folders: the
    first folder of each path, as torchvision does. Pictures that are both beside and in sub-folders have no classes, as
    with Hugging Face.

    Args:
        listing: of a folder or zip file.
        use_labels: False: no classes.

    Raises:
        InputError: a file of labels is damaged or does not match the pictures, or only one split has classes.
    """
    remarks: list[str] = []
    train, held_out = _split_folders(listing.files)
    files = [file for file in listing.files if file.name.startswith((train, held_out or train))]
    if len(files) < len(listing.files):
        unused = len(listing.files) - len(files)
        remarks.append(f"{unused:,} pictures outside of {quoted(train)} and {quoted(held_out)} are not used")
    values, labelled_by = _classes_of(listing, files, (train, held_out), remarks) if use_labels else (None, "ignored")
    if held_out:
        splits: list[Split] = ["test" if file.name.startswith(held_out) else "train" for file in files]
        held_out_by = f"the folder {quoted(held_out)}"
    else:
        splits, held_out_by = hold_out([file.name for file in files], values)
    if values is not None and len({*values}) < 2:
        labelled_by, values = "all pictures are of one class", None
    classes, labels = (
        (None, [-1] * len(files)) if values is None else number_classes(quoted(listing.root), splits, values)
    )
    entries = [Entry(*entry) for entry in zip(files, splits, labels, strict=True)]
    entries.sort(key=lambda entry: entry.split == "test")  # stable: each split remains sorted by name
    return Layout(entries, classes, labelled_by, held_out_by, remarks)


def _split_folders(files: Iterable[File]) -> tuple[str, str]:
    """The folders of training and held-out pictures, with "/"; "" for what is not there.

    A folder "train" among others is a class, unless there is also one of HELD_OUT_FOLDERS.
    """
    tops = sorted({file.name.partition("/")[0] for file in files if "/" in file.name})
    loose = any("/" not in file.name for file in files)
    train = next((top for top in tops if top.lower() == TRAIN_FOLDER), None)
    held_out = next((top for name in HELD_OUT_FOLDERS for top in tops if top.lower() == name), None)
    if train is None or (held_out is None and (loose or len(tops) > 1)):
        return "", ""
    return f"{train}/", f"{held_out}/" if held_out else ""


def _classes_of(
    listing: Listing, files: list[File], folders: tuple[str, str], remarks: list[str]
) -> tuple[list[Value] | None, str]:
    """The class of each file, and where it is from; None if there are no classes."""
    for kind, parse in PARSERS.items():
        found = [place for place in dict.fromkeys(("", *folders)) if f"{place}{kind}" in listing.label_files]
        if found:
            named: dict[str, Value | None] = {}
            for place in found:
                named |= _read_labels(listing, place, kind, parse)
            return _match(listing, files, named, f"{found[0]}{kind}")
    train, held_out = folders
    parts = [[file for file in files if file.name.startswith(train)]] if train else [files]
    if held_out:
        parts.append([file for file in files if file.name.startswith(held_out)])
    values = [_from_folders(part, folder, remarks) for part, folder in zip(parts, folders, strict=False)]
    if all(value is None for value in values):
        return None, "no sub-folders, or pictures beside them"
    for value, folder in zip(values, folders, strict=False):
        if value is None:
            raise InputError(
                f"{quoted(listing.root / folder)} has no sub-folders of classes, or pictures beside them, but the "
                f"other split has classes; sort its pictures into sub-folders, or {IGNORE}"
            )
    of_file = {
        file.name: value
        for part, some in zip(parts, values, strict=True)
        for file, value in zip(part, some or (), strict=True)
    }
    return [of_file[file.name] for file in files], "sub-folders"


def _from_folders(files: list[File], folder: str, remarks: list[str]) -> list[Value] | None:
    """The first folder below the folder of a split, for each of its files; None if not all files have one."""
    names = [file.name.removeprefix(folder) for file in files]
    beside = [name for name in names if "/" not in name]
    if not beside:
        return [printable(name.partition("/")[0]) for name in names]
    if len(beside) < len(names):
        remarks.append(
            f"{len(beside):,} pictures are beside the sub-folders, the first {quoted(folder + beside[0])}: all "
            "pictures are used, without classes; move these into sub-folders to have classes"
        )
    return None


def _match(
    listing: Listing, files: list[File], named: dict[str, Value | None], source: str
) -> tuple[list[Value] | None, str]:
    """The class of each file by its name."""
    shown = quoted(listing.root / source)
    known = {file.name for file in listing.files} | {name for name, _ in listing.left_out}
    missing = sorted(named.keys() - known)
    if missing:
        raise InputError(
            f"{shown} names {len(missing):,} pictures that do not exist, the first {quoted(missing[0])}; "
            f"correct it, or {IGNORE}"
        )
    if all(value is None for value in named.values()):
        return None, f"{source} has no labels"
    values = [named.get(file.name) for file in files]
    without = [file.name for file, value in zip(files, values, strict=True) if value is None]
    if without:
        raise InputError(
            f"{shown} has no label for {len(without):,} of {len(files):,} pictures, the first {quoted(without[0])}; "
            f"add them, or {IGNORE}"
        )
    labels = [value for value in values if value is not None]
    if len({type(value) for value in labels}) > 1:
        raise InputError(f"{shown} has both numbers and names as labels; use one of them, or {IGNORE}")
    return labels, source


def _read_labels(
    listing: Listing, place: str, kind: str, parse: Callable[[bytes], Iterator[tuple[Any, Any]]]
) -> dict[str, Value | None]:
    """The labels in a file, by name relative to the root."""
    shown = quoted(listing.root / f"{place}{kind}")
    content = listing.read(f"{place}{kind}", MAX_JSON_BYTES)
    labels: dict[str, Value | None] = {}
    try:
        for name, value in parse(content):
            if not isinstance(name, str) or "\0" in name:
                raise BadFile("has a name of a file that is not text")
            if value is not None and not is_whole(value) and not isinstance(value, str):
                raise BadFile(f"has a label for {quoted(name)} that is neither text nor a whole number")
            labels[posixpath.normpath(place + name)] = printable(value) if isinstance(value, str) else value
    except BadFile as error:
        raise InputError(f"{shown} {error}; correct it, or {IGNORE}") from error
    return labels


def _metadata_jsonl(content: bytes) -> Iterator[tuple[Any, Any]]:
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            try:
                values = parse_json_object(line)
            except BadFile as error:
                raise BadFile(f"{error} in line {number:,}") from error
            if "file_name" not in values:
                raise BadFile(f"has no file_name in line {number:,}")
            yield values["file_name"], values.get("label")


def _dataset_json(content: bytes) -> Iterator[tuple[Any, Any]]:
    pairs = parse_json_object(content).get("labels")
    if pairs is None:
        return
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise BadFile('has other "labels" than pairs of a name and a class')
    yield from pairs


# Name of a file of labels -> how it is parsed. The first that is there is used.
PARSERS = dict(zip(LABEL_FILES, (_metadata_jsonl, _dataset_json), strict=True))
