"""The reader of Hugging Face data sets: local copies, splits, labels, what is refused, and a run."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import draw_images, train_here
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gan_dist import cli
from gan_dist.config import DataConfig, InputError, Stopped
from gan_dist.data.readers import huggingface_find, huggingface_load, reader_for
from gan_dist.data.readers.arrow import picture_bytes
from gan_dist.data.readers.child import Ended, Script
from gan_dist.data.readers.huggingface_rows import HubData, parse
from gan_dist.data.readers.reader import Context, NoHeldOut, RawImages
from gan_dist.data.sources import pin_source
from gan_dist.data.spec import Split
from gan_dist.files import BadFile
from gan_dist.outputs.records import read_config

datasets = pytest.importorskip("datasets")

CLASSES = ["b", "a", "c"]  # not sorted: their order is that of the labels
NAME = "hf:me/tiny"


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GAN_DIST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load data sets in this process, which saves the seconds that another one takes to import `datasets`."""

    def run(script: Script, *_: Any) -> Ended:
        return Ended(0, json.dumps(huggingface_load.answer(script.arguments[1])), "")

    monkeypatch.setattr(huggingface_find, "run_script", run)


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


PIXELS = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 3)).astype(np.uint8)
PNGS = [png(pixels) for pixels in PIXELS]


def make(start: int, stop: int, pictures: list[Any] | None = None, **columns: Any) -> Any:
    """Rows from start to stop, of which the class of row i is i % 3."""
    given = [{"bytes": content, "path": None} for content in PNGS[start:stop]] if pictures is None else pictures
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)}
    columns = {"label": [i % 3 for i in range(start, stop)], **columns}
    features |= {name: datasets.Value("string") for name in columns.keys() - {"label"}}
    return datasets.Dataset.from_dict({"image": given, **columns}, features=datasets.Features(features))


def save(root: Path, *splits: Any, **named: Any) -> None:
    """Write ROOT/me/tiny as save_to_disk does."""
    made = splits[0] if splits else datasets.DatasetDict(named)
    made.save_to_disk(str(root / "me" / "tiny"))


def clone(root: Path, **splits: Any) -> None:
    """Write ROOT/me/tiny as a clone of the hub's repository."""
    folder = root / "me" / "tiny" / "data"
    folder.mkdir(parents=True)
    for name, rows in splits.items():
        rows.to_parquet(str(folder / f"{name}-00000-of-00001.parquet"))


def read(root: Path, split: Split = "train", **settings: Any) -> tuple[RawImages, list[str]]:
    announced: list[str] = []
    config = DataConfig(NAME, root, **settings)
    return reader_for(NAME).read(config, split, Context(announced.append)), announced


def refusal(root: Path, name: str = NAME, **settings: Any) -> str:
    with pytest.raises(InputError) as caught:
        reader_for(name).read(DataConfig(name, root, **settings), "train", Context(lambda line: None))
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# Copies


@pytest.mark.parametrize("write", [save, clone])
def test_a_copy_has_what_was_put_in(write: Callable[..., None], tmp_path: Path, caches: Path) -> None:
    write(tmp_path, train=make(0, 60), test=make(60, 90))
    images, announced = read(tmp_path)
    assert announced == []
    assert np.array_equal(images.pixels, PIXELS[:60].transpose(0, 3, 1, 2))
    assert images.labels is not None
    assert images.labels.tolist() == [i % 3 for i in range(60)]
    assert (images.spec.name, images.spec.classes) == ("me/tiny", tuple(CLASSES))
    assert (images.spec.count, images.spec.held_out, images.spec.features) == (60, 30, "classifier")
    origin = images.provenance
    assert (origin.name, origin.source, origin.file) == ("me/tiny", "local", str(tmp_path / "me/tiny"))
    held_out, _ = read(tmp_path, "test", source="local")  # from the record: nothing is loaded again
    assert np.array_equal(held_out.pixels, PIXELS[60:90].transpose(0, 3, 1, 2))
    assert held_out.labels is not None
    assert held_out.labels.tolist() == [i % 3 for i in range(60, 90)]
    assert held_out.notes[:2] == ("classes: the column label", "held out: the split test")
    assert len(list(caches.glob("huggingface-*.json"))) == 1


@pytest.mark.usefixtures("here")
def test_a_later_start_loads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, train=make(0, 60), test=make(60, 90))
    first, _ = read(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(huggingface_find, "run_script", lambda *_: Ended(1, "", "loaded again"))
        assert np.array_equal(read(tmp_path)[0].pixels, first.pixels)
        rows = tmp_path / "me/tiny/train/data-00000-of-00001.arrow"
        rows.touch()
        assert "me/tiny could not be loaded (loaded again)" in refusal(tmp_path)
    _, announced = read(tmp_path)
    assert announced == [f"data.name={NAME} has changed since it was prepared, so it is prepared again"]


def test_files_that_are_named_instead_of_held(tmp_path: Path) -> None:
    pictures = tmp_path / "me" / "tiny"
    for i in range(30):
        (pictures / CLASSES[i % 3]).mkdir(parents=True, exist_ok=True)
        (pictures / CLASSES[i % 3] / f"{i:02d}.png").write_bytes(PNGS[i])
    images, _ = read(tmp_path)
    order = sorted(range(30), key=lambda i: (CLASSES[i % 3], i))
    assert np.array_equal(images.pixels, PIXELS[order].transpose(0, 3, 1, 2))
    assert images.spec.classes == ("a", "b", "c")


def test_the_cache_of_the_package_is_used_without_a_network(tmp_path: Path) -> None:
    clone(tmp_path, train=make(0, 60), test=make(60, 90))
    copy, _ = read(tmp_path)
    shutil.rmtree(tmp_path / "me")
    hub = tmp_path / "huggingface/datasets"
    (hub / "tiny").rename(hub / "me___tiny")  # as if it came from the hub
    loaded, announced = read(tmp_path / "empty")
    assert np.array_equal(loaded.pixels, copy.pixels)
    assert (loaded.provenance.source, loaded.provenance.file) == ("download", "me/tiny")
    pinned = pin_source(DataConfig(NAME, tmp_path / "empty"), loaded.provenance.source)
    shutil.move(hub, tmp_path / "moved")
    assert "the files of me/tiny are no longer in the cache of datasets" in refusal(pinned.root, source="local")
    shutil.move(tmp_path / "moved", hub)
    assert reader_for(NAME).read(pinned, "test", Context(announced.append)).spec.held_out == 30
    assert announced == []
    next(hub.rglob("tiny-train.arrow")).touch()
    assert "or have changed" in refusal(pinned.root, source="local")


# Splits and labels


@pytest.mark.usefixtures("here")
def test_one_split_holds_out_a_tenth_by_the_row(tmp_path: Path, caches: Path) -> None:
    save(tmp_path / "first", make(0, 300))
    sharded = datasets.DatasetDict(train=make(0, 300))
    sharded.save_to_disk(str(tmp_path / "second" / "tiny"), num_shards={"train": 7})  # without the user's folder
    first, second = (read(tmp_path / name, split)[0] for name, split in (("first", "test"), ("second", "test")))
    assert 20 <= len(first.pixels) < 60
    assert np.array_equal(first.pixels, second.pixels)
    images, _ = read(tmp_path / "first")
    together = np.concatenate([images.pixels, first.pixels]).reshape(300, -1)
    assert {row.tobytes() for row in together} == {pixels.transpose(2, 0, 1).tobytes() for pixels in PIXELS}
    assert images.notes[1] == "held out: a tenth, by the hash of each row's number"


@pytest.mark.usefixtures("here")
def test_few_rows_hold_out_nothing(tmp_path: Path) -> None:
    save(tmp_path, make(0, 60))
    assert read(tmp_path)[0].spec.held_out == 0
    with pytest.raises(NoHeldOut, match="0 held-out pictures"):
        read(tmp_path, "test")


@pytest.mark.usefixtures("here")
def test_a_validation_split_with_labels_is_taken_before_a_test_split_without(tmp_path: Path) -> None:
    save(tmp_path, train=make(0, 30), test=make(30, 60, label=[-1] * 30), validation=make(60, 90))
    held_out, _ = read(tmp_path, "test")
    assert np.array_equal(held_out.pixels, PIXELS[60:90].transpose(0, 3, 1, 2))


@pytest.mark.usefixtures("here")
def test_labels_that_are_ignored_or_are_not_there(tmp_path: Path) -> None:
    save(tmp_path / "ignored", train=make(0, 60), test=make(60, 90))
    images, _ = read(tmp_path / "ignored", labels="none")
    assert (images.labels, images.spec.classes, images.spec.features) == (None, None, "unlabelled")
    save(tmp_path / "without", make(0, 60).remove_columns("label"))
    images, _ = read(tmp_path / "without")
    assert (images.labels, images.spec.classes) == (None, None)
    assert images.notes[0] == "classes: no column of classes"


@pytest.mark.usefixtures("here")
def test_labels_without_names(tmp_path: Path) -> None:
    rows = make(0, 30).cast_column("label", datasets.Value("int64"))
    save(tmp_path / "numbers", rows)
    assert read(tmp_path / "numbers")[0].spec.classes == ("0", "1", "2")
    names = [["y", "x"][i % 2] for i in range(30)]
    save(tmp_path / "names", make(0, 30).remove_columns("label").add_column("label", names))
    images, _ = read(tmp_path / "names")
    assert images.spec.classes == ("x", "y")
    assert images.labels is not None
    assert images.labels.tolist() == [1, 0] * 15


# Pictures


@pytest.mark.usefixtures("here")
def test_settings_of_pictures_apply(tmp_path: Path) -> None:
    grey = [{"bytes": png(image), "path": None} for image in draw_images(30)]
    save(tmp_path, make(0, 30, grey))
    assert read(tmp_path)[0].spec.shape == (1, 28, 28)
    assert read(tmp_path, size=16)[0].spec.shape == (1, 16, 16)
    assert read(tmp_path, channels="3")[0].spec.shape == (3, 28, 28)


@pytest.mark.usefixtures("here")
def test_pictures_of_different_sizes(tmp_path: Path) -> None:
    small = {"bytes": png(PIXELS[0][:6]), "path": None}
    save(tmp_path, make(0, 30, [*({"bytes": content, "path": None} for content in PNGS[:29]), small]))
    assert "train/0000000 has 8x8 pixels, train/0000029 8x6; pass --data.size N" in refusal(tmp_path)
    assert read(tmp_path, size=4)[0].spec.shape == (3, 4, 4)


@pytest.mark.usefixtures("here")
def test_damaged_pictures_are_left_out(tmp_path: Path) -> None:
    bad = [{"bytes": PNGS[0][:60], "path": None}, None, {"bytes": b"", "path": None}]
    good = [{"bytes": content, "path": None} for content in PNGS[3:50]]
    save(tmp_path / "few", make(0, 50, [*bad, *good]))
    images, announced = read(tmp_path / "few")
    assert np.array_equal(images.pixels, PIXELS[3:50].transpose(0, 3, 1, 2))
    assert announced == ["3 of 50 pictures are not used, the first train/0000000: is damaged (image file is truncated)"]
    assert "not used: train/0000001 has no picture" in images.notes
    assert "not used: train/0000002 is empty" in images.notes
    save(tmp_path / "many", make(0, 20, [*bad, *good[:17]]))
    assert "has 3 unusable pictures among 20, more than a tenth, the first train/0000000" in refusal(tmp_path / "many")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "has no picture"),
        ("x.png", "has no picture"),
        ({"bytes": None, "path": None}, "has no picture"),
        ({"bytes": "text", "path": "/etc/hostname"}, "has no picture"),
        ({"bytes": None, "path": "x.png"}, "names a file instead of a picture, without its folder"),
        ({"bytes": None, "path": "zip://x.png::/x.zip"}, "without its folder"),
        ({"bytes": None, "path": "/nowhere/x.png"}, "can't be read (No such file"),
        ({"bytes": None, "path": "/dev/zero"}, "is not a regular file"),
    ],
)
def test_rows_without_a_picture(value: Any, says: str) -> None:
    with pytest.raises(BadFile) as caught:
        picture_bytes(value)
    assert says in str(caught.value)


# What is refused


def two_classes() -> Any:
    features = datasets.Features(
        {name: datasets.ClassLabel(names=CLASSES) for name in ("fine", "coarse")} | {"image": datasets.Image()}
    )
    rows = {"fine": [0] * 30, "coarse": [1] * 30, "image": [{"bytes": content, "path": None} for content in PNGS[:30]]}
    return datasets.Dataset.from_dict(rows, features=features)


REFUSED = {
    "no pictures": (lambda: make(0, 30).remove_columns("image"), "has no column of pictures, but label"),
    "two columns of pictures": (
        lambda: make(0, 30).rename_column("image", "x").add_column("y", [None] * 30).cast_column("y", datasets.Image()),
        "has several columns of pictures: x, y",
    ),
    "two columns of classes": (two_classes, "has several columns of classes: fine, coarse"),
    "labels that are missing": (
        lambda: make(0, 30, label=[None, *[1] * 29]),
        "has no label for 1 of 30 pictures, the first train/0000000; pass --data.labels none",
    ),
    "one row": (lambda: make(0, 1), "holds 1 usable training pictures"),
    "splits of other names": (
        lambda: datasets.DatasetDict(one=make(0, 30), two=make(30, 60)),
        "has the splits one, two, but none named train",
    ),
    "a class without training rows": (
        lambda: datasets.DatasetDict(train=make(0, 2), test=make(2, 30)),
        "has held-out pictures of 1 classes without training pictures",
    ),
}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_used_is_named(kind: str, tmp_path: Path) -> None:
    write, says = REFUSED[kind]
    save(tmp_path, write())
    assert says in refusal(tmp_path)


@pytest.mark.usefixtures("here")
def test_several_columns_of_classes_may_be_ignored(tmp_path: Path) -> None:
    save(tmp_path, two_classes())
    assert read(tmp_path, labels="none")[0].spec.classes is None


def test_a_damaged_copy_is_named(tmp_path: Path) -> None:
    clone(tmp_path / "parquet", train=make(0, 30), test=make(30, 60))
    file = tmp_path / "parquet/me/tiny/data/test-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:500])
    assert "could not be loaded (Could not open Parquet input source" in refusal(tmp_path / "parquet")


@pytest.mark.usefixtures("here")
def test_a_copy_that_holds_no_rows_is_named(tmp_path: Path) -> None:
    save(tmp_path / "saved", make(0, 30))
    state = tmp_path / "saved/me/tiny/state.json"
    outside = tmp_path / "outside.arrow"
    (state.parent / "data-00000-of-00001.arrow").rename(outside)
    values = json.loads(state.read_text())
    state.write_text(json.dumps(values | {"_data_files": [{"filename": "../../../outside.arrow"}]}))
    assert "refers to files outside of its folder" in refusal(tmp_path / "saved")
    (tmp_path / "empty/me/tiny").mkdir(parents=True)
    assert "could not be loaded (" in refusal(tmp_path / "empty")


def test_a_set_that_is_nowhere(tmp_path: Path) -> None:
    says = refusal(tmp_path)
    assert f"data.name={NAME} could not be loaded (Couldn't reach 'me/tiny' on the Hub (OfflineModeIsEnabled)" in says
    assert f"pass --data.root DIR with a copy in DIR/{NAME[3:]}" in says
    says = refusal(tmp_path, source="local")
    assert f"data.root={tmp_path} holds no copy of me/tiny: looked for {tmp_path}/me/tiny" in says


def test_the_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, make(0, 30))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"needs the package datasets: pip install 'gan_dist\[datasets\]'"):
        reader_for(NAME).check(DataConfig(NAME, tmp_path))


def test_loading_is_stopped(tmp_path: Path) -> None:
    save(tmp_path, make(0, 30))
    with pytest.raises(Stopped, match="the conversion of"):
        reader_for(NAME).read(DataConfig(NAME, tmp_path), "train", Context(print, lambda: True))
    assert not (tmp_path / "cache").exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.sampled_from(["name", "files", "x"]), inside),
    max_leaves=5,
)
RECORD: dict[str, Any] = {
    "column": "image",
    "label": "label",
    "names": CLASSES,
    "label_problem": None,
    "measured": [0, 8, 8],
    "splits": [{"name": "train", "files": [["/x", 1, 2]], "count": 2, "labels": [0, 1]}],
}


@pytest.mark.fuzz
@given(
    changed=st.dictionaries(st.sampled_from(sorted(RECORD)), JSON),
    rows=st.dictionaries(st.sampled_from(["name", "files", "count", "labels"]), JSON),
)
def test_any_record_is_checked(changed: dict[str, Any], rows: dict[str, Any]) -> None:
    assert parse(RECORD).splits[0].files[0].size == 1
    try:
        found = parse({**RECORD, "splits": [{**RECORD["splits"][0], **rows}], **changed})
    except BadFile:
        return
    assert isinstance(found, HubData)
    assert all(rows.labels is None or len(rows.labels) == rows.count for rows in found.splits)


# Names


@pytest.mark.parametrize("name", ["hf:", "hf:../x", "hf:a/../b", "hf:/etc", "hf:a/b/c", "hf:.x", "HF:a/b", "hf:a b"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(InputError, match=r"is not supported; .*choose from mnist, .*, hf:USER/SET"):
        reader_for(name)


# A run


def test_a_run_trains_and_resumes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, train=make(0, 120), test=make(120, 150))
    data = ["--data.name", NAME, "--data.root", str(tmp_path), "--data.size", "16"]
    run = ["pictures", *data, "--run.dir", str(tmp_path / "run"), "--wandb.mode", "disabled"]
    run += ["--model.channels", "4", "--train.batch-size", "8", "--train.threads", "1"]
    run += ["--evaluate.every-epochs", "None"]
    for steps in ("2", "3"):  # the second run resumes the first
        assert train_here([*run, "--train.steps", steps]) == 0
        assert "me/tiny, 120 images (local" in capfd.readouterr().out
    assert read_config(tmp_path / "run/config.json").data.name == NAME
    recorded = json.loads((tmp_path / "run/environment.json").read_text())["data"]
    assert (recorded["name"], recorded["source"]) == ("me/tiny", "local")
    assert cli.main(["data", *data, "--output", str(tmp_path / "seen.png")]) == 0
    said = capfd.readouterr()
    assert "of the classes of me/tiny" in said.out
    assert said.err == ""


def test_a_set_that_is_nowhere_ends_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--data.name", NAME, "--data.root", str(tmp_path), "--data.source", "local"]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "holds no copy of me/tiny" in said
