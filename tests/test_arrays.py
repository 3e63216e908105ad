"""Arrays in .npz and .npy files as data sets, and `gan-dist data`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, draw_images, launcher, picture_size, run_command

from gan_dist import cli
from gan_dist.config import DataConfig, InputError
from gan_dist.data.readers.reader import NoHeldOut
from gan_dist.data.sources import load_held_out, load_images

COUNT = 250
SHARE = REPOSITORY / "tests" / "share_call.py"


pytestmark = pytest.mark.usefixtures("cache")


def quiet(line: str) -> None:
    """Ignores announcements."""


def colours(count: int = COUNT, side: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def write(file: Path, **arrays: Any) -> DataConfig:
    np.savez(file, **arrays)
    return DataConfig(name="arrays", root=file)


def test_keras_files_are_read_as_idx_files(tmp_path: Path) -> None:
    images, classes = draw_images(), (np.arange(200) % 10).astype(np.uint8)
    config = write(tmp_path / "mnist.npz", x_train=images, y_train=classes, x_test=images[:30], y_test=classes[:30])
    train, test = load_images(config, quiet), load_held_out(config, quiet)
    assert torch.equal(train.images[:, 0], torch.from_numpy(images))
    assert torch.equal(test.images[:, 0], torch.from_numpy(images[:30]))
    assert train.labels is not None
    assert train.labels.tolist() == classes.tolist()
    assert train.spec == test.spec
    assert (train.spec.name, train.spec.shape, train.spec.held_out) == ("mnist", (1, 28, 28), 30)
    assert train.spec.classes == tuple("0123456789")
    assert train.mapped is not None
    again = train.mapped.open()
    assert again is not None
    assert torch.equal(again, train.images)


def test_every_tenth_image_is_held_out(tmp_path: Path) -> None:
    images = colours()
    np.save(tmp_path / "some.npy", images)
    config = DataConfig(name="arrays", root=tmp_path / "some.npy")
    train, test = load_images(config, quiet), load_held_out(config, quiet)
    chosen = np.arange(COUNT) % 10 == 9
    expected = torch.from_numpy(images).permute(0, 3, 1, 2)
    assert torch.equal(test.images, expected[chosen])
    assert torch.equal(train.images, expected[~chosen])
    assert train.labels is None
    assert (train.spec.features, train.spec.classes) == ("unlabelled", None)
    few = write(tmp_path / "few.npz", images=images[:90])
    assert load_images(few, quiet).spec.count == 90
    with pytest.raises(NoHeldOut, match="0 held-out images"):
        load_held_out(few, quiet)


def test_sizes_and_channels(tmp_path: Path) -> None:
    grey = np.repeat(colours()[..., :1], 3, 3)
    config = write(tmp_path / "grey.npz", images=grey)
    assert load_images(config, quiet).shape == (1, 12, 12)
    for changes, shape in (({"channels": "3"}, (3, 12, 12)), ({"size": 8}, (1, 8, 8)), ({"size": 24}, (1, 24, 24))):
        found = load_images(DataConfig(name="arrays", root=config.root, **changes), quiet)  # type: ignore[arg-type]
        assert found.shape == shape
    flat = np.full((COUNT, 10, 14, 3), 77, np.uint8)
    found = load_images(DataConfig(name="arrays", root=write(tmp_path / "flat.npz", x=flat).root, size=5), quiet)
    assert found.images.unique().tolist() == [77]


def test_a_changed_file_is_prepared_again(tmp_path: Path) -> None:
    config = write(tmp_path / "a.npz", images=colours())
    first = load_images(config, quiet)
    write(config.root, images=255 - colours())
    announced: list[str] = []
    assert torch.equal(load_images(config, announced.append).images, 255 - first.images)
    assert any("has changed since it was prepared" in line for line in announced)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"pictures": colours()}, "holds no array of images under x_train"),
        ({"images": colours().astype(np.float32)}, "holds images of float32, 250x12x12x3; images are uint8"),
        ({"images": colours()[0, 0]}, "images are uint8 of"),
        ({"images": np.zeros((9, 4, 4, 4), np.uint8)}, "with 4 channels"),
        ({"images": np.zeros((0, 4, 4), np.uint8)}, "with sides of"),
        ({"images": colours(), "labels": np.zeros(9, int)}, "not one whole number for each image"),
        ({"images": colours(), "labels": np.zeros(COUNT)}, "not one whole number for each image"),
        ({"images": colours(), "labels": np.full(COUNT, -1)}, "outside of 0 to 9999"),
        ({"x_train": colours(), "x_test": colours(40, 8)}, "another shape in x_test than in x_train"),
        ({"images": np.array([None] * 9)}, "is not a .npz or .npy file, or is damaged"),
        ({"images": colours(1)}, r"holds 1 training image\(s\)"),
    ],
)
def test_arrays_that_cannot_be_used_are_named(tmp_path: Path, arrays: dict[str, Any], says: str) -> None:
    config = write(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=says) as refusal:
        load_images(config, quiet)
    assert str(config.root) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01", b"something"])
def test_a_file_that_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    for suffix in ("npy", "npz"):
        file = tmp_path / f"a.{suffix}"
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"is not a \.npz or \.npy file, or is damaged"):
            load_images(DataConfig(name="arrays", root=file), quiet)
    with pytest.raises(InputError, match=r"can't be read .*; pass --data.root FILE.npz"):
        cli.COMMANDS["data"][1](["--data.name", "arrays", "--data.root", str(tmp_path / "nothing.npz")])


def test_data_shows_what_a_run_would_see(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = draw_images()
    images[7] = images[3]
    file = write(tmp_path / "discs.npz", images=images, labels=np.arange(200) // 195).root
    words = ["data", "--data.name", "arrays", "--data.root", str(file), "--output", str(tmp_path / "seen.png")]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "1 class(es) have fewer than 10 training images: 1 (4)" in said
    assert "1 training images have the same pixels" in said
    assert "28x28, grey" in said
    assert "of the classes of discs" in said
    assert picture_size(tmp_path / "seen.png") == (242, 242)
    assert cli.main([*words[:-1], str(tmp_path / "seen.gif")]) == 2
    assert "must end in .png" in capsys.readouterr().err


@pytest.mark.processes(2)
def test_every_rank_gets_the_images_of_rank_0(tmp_path: Path) -> None:
    file = write(tmp_path / "some.npz", images=colours(), labels=np.arange(COUNT) % 3).root
    load_images(DataConfig(name="arrays", root=file), quiet)  # prepare
    cache = tmp_path / "cache"
    ended = run_command(*launcher(2), SHARE, tmp_path, file, GAN_DIST_CACHE=str(cache))
    assert ended.code == 0, ended.err
    got = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert got[0] == got[1]
    assert got[0] == {
        "in memory": {"read": [0], "received": [1]},
        "visible": {"read": [0], "mapped": [1]},
        "invisible": {"read": [0], "received": [1]},
    }
    assert list((cache / "received").iterdir()) == []
