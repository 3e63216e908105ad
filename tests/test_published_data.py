"""CIFAR-10 and SVHN: files as torchvision keeps them, its download, and what is refused."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import serving_folder
from scipy.io import savemat
from torchvision import datasets

from gan_dist.config import DataConfig, InputError
from gan_dist.data.readers import cifar10, svhn
from gan_dist.data.readers.reader import NoHeldOut
from gan_dist.data.sources import load_held_out, load_images
from gan_dist.files import BadFile

EACH = 30  # images in a file


def quiet(line: str) -> None:
    """Ignores announcements."""


def pixels_of(seed: int, count: int = EACH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 32), np.uint8)


def labels_of(seed: int, count: int = EACH) -> list[int]:
    return np.random.default_rng(seed).integers(0, 10, count).tolist()  # type: ignore[no-any-return]


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined, misc]
    """Writes bytes as Python 2 wrote its strings, as in the published files."""

    dispatch = pickle._Pickler.dispatch.copy()  # type: ignore[attr-defined]

    def save_bytes(self, text: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(text)) + text)
        self.memoize(text)

    dispatch[bytes] = save_bytes


def python2_pickle(value: object) -> bytes:
    stream = io.BytesIO()
    Python2Pickler(stream, protocol=2).dump(value)
    return stream.getvalue()


def batch_bytes(seed: int, count: int = EACH) -> bytes:
    """A batch file of CIFAR-10."""
    batch = {b"data": pixels_of(seed, count).reshape(count, -1), b"labels": labels_of(seed, count)}
    return python2_pickle(batch | {b"batch_label": b"a batch", b"filenames": [b"a.png"] * count})


def mat_bytes(seed: int, count: int = EACH) -> bytes:
    labels = np.array(labels_of(seed, count))
    stream = io.BytesIO()
    savemat(
        stream,
        {"X": pixels_of(seed, count).transpose(2, 3, 1, 0), "y": np.where(labels == 0, 10, labels)[:, None]},
        do_compression=True,
    )
    return stream.getvalue()


def files_of(name: str) -> dict[str, bytes]:
    """Name of each file -> its content, training files first."""
    if name == "svhn":
        return {"train_32x32.mat": mat_bytes(1), "test_32x32.mat": mat_bytes(6)}
    train = {f"data_batch_{i}": batch_bytes(i) for i in range(1, 6)}
    return train | {"test_batch": batch_bytes(6)}


def write_files(root: Path, name: str) -> Path:
    folder = root if name == "svhn" else root / "cifar-10-batches-py"
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files_of(name).items():
        (folder / file).write_bytes(content)
    return folder


def assert_as_written(config: DataConfig) -> None:
    announced: list[str] = []
    train, test = load_images(config, announced.append), load_held_out(config, quiet)
    seeds = [1] if config.name == "svhn" else range(1, 6)
    assert torch.equal(train.images, torch.from_numpy(np.concatenate([pixels_of(seed) for seed in seeds])))
    assert torch.equal(test.images, torch.from_numpy(pixels_of(6)))
    assert train.labels is not None
    assert train.labels.tolist() == [label for seed in seeds for label in labels_of(seed)]
    assert train.spec == test.spec
    assert (train.spec.count, train.spec.held_out, train.spec.shape) == (len(train.images), EACH, (3, 32, 32))
    assert train.spec.classes is not None
    assert len(train.spec.classes) == 10
    assert train.provenance.sha256 == hashlib.sha256(train.images.numpy().tobytes()).hexdigest()
    assert any("treated as a custom data set" in line for line in announced)


@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_local_files_are_read(tmp_path: Path, name: str) -> None:
    write_files(tmp_path, name)
    assert_as_written(DataConfig(name=name, root=tmp_path, source="local"))
    without = load_images(DataConfig(name=name, root=tmp_path, labels="none"), quiet)
    assert without.labels is None
    assert (without.spec.classes, without.spec.features) == (None, "unlabelled")


def test_torchvision_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_files(tmp_path, "cifar10")
    meta = python2_pickle({b"label_names": [b"%d" % i for i in range(10)]})
    (folder / "batches.meta").write_bytes(meta)
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": hashlib.md5(meta).hexdigest()})
    theirs = datasets.CIFAR10(str(tmp_path), train=True)
    ours = load_images(DataConfig(name="cifar10", root=tmp_path), quiet)
    assert np.array_equal(ours.images.permute(0, 2, 3, 1).numpy(), theirs.data)
    assert ours.labels is not None
    assert ours.labels.tolist() == theirs.targets


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A local server from which torchvision downloads in the child process."""
    served = tmp_path / "mirror"
    served.mkdir()
    with serving_folder(served) as url:
        md5 = lambda content: hashlib.md5(content).hexdigest()  # noqa: E731
        batches = files_of("cifar10") | {"batches.meta": python2_pickle({b"label_names": [b"a"]})}
        with tarfile.open(served / "cifar.tar.gz", "w:gz") as archive:
            for name, content in batches.items():
                entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        numbers = files_of("svhn")
        for name, content in numbers.items():
            (served / name).write_bytes(content)
        listed = [[name, md5(content)] for name, content in batches.items()]
        splits = {name.split("_")[0]: [url + name, name, md5(content)] for name, content in numbers.items()}
        lines = [
            "import torchvision.datasets as d",
            f"d.CIFAR10.url, d.CIFAR10.filename = {url + 'cifar.tar.gz'!r}, 'cifar.tar.gz'",
            f"d.CIFAR10.tgz_md5 = {md5((served / 'cifar.tar.gz').read_bytes())!r}",
            f"d.CIFAR10.train_list, d.CIFAR10.test_list = {listed[:5]}, {listed[5:6]}",
            f"d.CIFAR10.meta = {{'filename': 'batches.meta', 'key': 'label_names', 'md5': {listed[6][1]!r}}}",
            f"d.SVHN.split_list = {splits}",
        ]
        site = tmp_path / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text("\n".join(lines))
        monkeypatch.setenv("PYTHONPATH", str(site))
        yield url


@pytest.mark.parametrize("name", ["cifar10", pytest.param("svhn", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("mirror")
def test_a_download_is_kept(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    found = load_images(DataConfig(name=name, root=root), quiet)
    assert found.provenance.source == "download"
    assert_as_written(DataConfig(name=name, root=root, source="local"))
    assert not any(path.name.startswith("gan-dist") for path in root.iterdir())


class Payload:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch executed",)


class HugeArray:
    def __reduce__(self) -> object:
        from numpy._core.multiarray import _reconstruct  # type: ignore[attr-defined]

        return _reconstruct, (np.ndarray, (2**40,), b"b")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not a batch"),
        (batch_bytes(1)[:-1000], "is not a batch"),
        (pickle.dumps(Payload()), "refers to posix.system"),
        (pickle.dumps({b"data": HugeArray()}), "an array that numpy did not write"),
        (pickle.dumps({b"data": np.zeros((2, 3072), object)}), "not 8-bit pixels"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.float32)}), "not 8-bit pixels"),
        (pickle.dumps({b"data": np.zeros((2, 3000), np.uint8)}), "3000 pixels instead of"),
        (pickle.dumps({b"data": np.zeros((0, 3072), np.uint8)}), "no array of pixels"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}), "no list of one label"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, "a"]}), "no list of one label"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2**70]}), "out of range"),
        (pickle.dumps([1]), "no array of pixels"),
    ],
)
def test_a_batch_that_is_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadFile, match=says):
        cifar10.parse(content)
    assert not list(tmp_path.iterdir())


def mat_of(**values: object) -> bytes:
    stream = io.BytesIO()
    savemat(stream, values)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not a MATLAB file"),
        (mat_bytes(1)[:-1000], "is not a MATLAB file"),
        (mat_of(y=np.ones(3)), "no images of 32x32"),
        (mat_of(X=np.zeros((32, 32, 3, 2))), "no images of 32x32"),
        (mat_of(X=np.zeros((28, 28, 3, 2), np.uint8)), "no images of 32x32"),
        (mat_of(X=np.zeros((32, 32, 3, 2), np.uint8), y=np.ones((3, 1), np.uint8)), "one label per image"),
    ],
)
def test_a_mat_file_that_is_none_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(BadFile, match=says):
        svhn.parse(content)


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    config = DataConfig(name="cifar10", root=tmp_path, source="local")
    with pytest.raises(InputError, match=r"holds no cifar10: looked for .*cifar-10-batches-py/data_batch_1"):
        load_images(config, quiet)
    folder = write_files(tmp_path, "cifar10")
    (folder / "test_batch").unlink()
    assert load_images(config, quiet).spec.held_out == 0
    with pytest.raises(NoHeldOut, match="holds no test_batch"):
        load_held_out(config, quiet)
    (folder / "test_batch").write_bytes(batch_bytes(6, count=5))
    with pytest.raises(NoHeldOut):
        load_held_out(config, quiet)
    (folder / "data_batch_3").write_bytes(b"nothing")
    with pytest.raises(InputError, match="data_batch_3 is not a batch of CIFAR-10") as refusal:
        load_images(config, quiet)
    assert "\n" not in str(refusal.value)
    (folder / "data_batch_3").write_bytes(pickle.dumps({b"data": pixels_of(1).reshape(EACH, -1), b"labels": [11] * 30}))
    with pytest.raises(InputError, match="other classes than 0 to 9"):
        load_images(config, quiet)


def test_the_published_count_with_another_content_is_refused(tmp_path: Path) -> None:
    folder = write_files(tmp_path, "cifar10")
    for i in range(1, 6):
        (folder / f"data_batch_{i}").write_bytes(batch_bytes(i, count=10_000))
    with pytest.raises(InputError, match="its md5 differs"):
        load_images(DataConfig(name="cifar10", root=tmp_path), quiet)
