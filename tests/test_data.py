"""Where images come from, what is refused, and in which order they reach a step."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import http.server
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import IMAGES, draw_images, idx_bytes, labels_bytes, write_root
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from gan_dist.config import DataConfig, InputError
from gan_dist.data import sources
from gan_dist.data.dataset import GlobalBatches, ResidentImages, denormalize, make_loader, normalize
from gan_dist.data.sources import load_images, load_labelled

CPU = torch.device("cpu")


def quiet(line: str) -> None:
    """Where a test does not mind what is announced."""


def test_normalize_is_the_notebooks_formula() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    images = normalize(pixels)
    assert torch.allclose(images, (pixels / 255 - 0.5) / 0.5, atol=1e-6)
    assert (images.min().item(), images.max().item()) == (-1.0, 1.0)
    assert torch.allclose(denormalize(images), pixels / 255, atol=1e-6)
    assert torch.equal(denormalize(images).mul(255).round().to(torch.uint8), pixels)


def test_torchvision_reads_the_same_pixels(tmp_path: Path) -> None:
    """A root of torchvision's is read as torchvision reads it."""
    data_root = tmp_path
    write_root(data_root, idx_bytes(draw_images()))
    (data_root / "MNIST/raw/train-labels-idx1-ubyte").write_bytes(labels_bytes(np.zeros(IMAGES, np.uint8)))
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (data_root / "MNIST/raw" / name).touch()
    theirs = MNIST(str(data_root), train=True, transform=ToTensor())
    ours = ResidentImages(load_images(DataConfig(root=data_root), quiet).images)
    assert len(ours) == len(theirs) == IMAGES
    for i in (0, 17, IMAGES - 1):
        assert torch.allclose(ours[i], (theirs[i][0] - 0.5) / 0.5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", "MNIST/raw/train-images-idx3-ubyte"),
        ("mnist", "MNIST/raw/train-images-idx3-ubyte.gz"),
        ("mnist", "train-images-idx3-ubyte.gz"),
        ("fashion-mnist", "FashionMNIST/raw/train-images-idx3-ubyte"),
        ("kmnist", "KMNIST/raw/train-images-idx3-ubyte.gz"),
        ("qmnist", "QMNIST/raw/qmnist-train-images-idx3-ubyte"),
    ],
)
def test_every_data_set_plain_or_gzipped(tmp_path: Path, name: str, file: str) -> None:
    where = write_root(tmp_path, idx_bytes(draw_images()), file)
    announced: list[str] = []
    found = load_images(DataConfig(name=name, root=tmp_path), announced.append)  # type: ignore[arg-type]
    assert torch.equal(found.images[:, 0], torch.from_numpy(draw_images()))
    assert found.provenance.source == "local"
    assert found.provenance.file == str(where)
    assert found.provenance.sha256 == hashlib.sha256(draw_images().tobytes()).hexdigest()
    # 200 images are not the published 60,000: said once, and recorded.
    assert len(announced) == 1
    assert "200 images" in announced[0]
    assert "not the 60,000 published" in found.provenance.verified


def damage(kind: str) -> bytes:
    whole = idx_bytes(draw_images())
    return {
        "empty": b"",
        "truncated": whole[:-1],
        "header only": whole[:9],
        "too long": whole + b"x",
        "wrong magic": b"\x00\x00\x08\x01" + whole[4:],
        "is empty of pictures": idx_bytes(np.zeros((3, 28, 28), np.uint8)),
        "no images": idx_bytes(np.zeros((0, 28, 28), np.uint8)),
        "other size": idx_bytes(np.ones((3, 32, 32), np.uint8)),
        "torn gzip": gzip.compress(whole)[:-100],
        "gzip with a flipped bit": (lambda g: g[:500] + bytes([g[500] ^ 1]) + g[501:])(gzip.compress(whole)),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("empty", "is empty"),
        ("truncated", "is truncated: 156,815 bytes instead of 156,816"),
        ("header only", "is truncated"),
        ("too long", "is too long"),
        ("wrong magic", "begins with 0x00000801 instead of 0x00000803"),
        ("is empty of pictures", "every pixel is the same"),
        ("no images", "no picture"),
        ("other size", "32x32 instead of 28x28"),
        ("torn gzip", "damaged gzip"),
        ("gzip with a flipped bit", "damaged gzip"),
    ],
)
def test_a_damaged_file_is_named_and_nothing_else_is_taken(tmp_path: Path, kind: str, says: str) -> None:
    file = write_root(tmp_path, damage(kind))
    with pytest.raises(InputError, match=says) as refusal:
        load_images(DataConfig(root=tmp_path, source="auto"), quiet)
    assert str(file) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_published_count_with_another_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_root(tmp_path, idx_bytes(draw_images()))
    published = dataclasses.replace(
        sources.PUBLISHED["mnist"], count=IMAGES, md5=hashlib.md5(idx_bytes(draw_images())).hexdigest()
    )
    monkeypatch.setitem(sources.PUBLISHED, "mnist", published)
    assert load_images(DataConfig(root=tmp_path), quiet).provenance.verified == "shape, range, count and md5"
    monkeypatch.setitem(sources.PUBLISHED, "mnist", dataclasses.replace(published, md5="0" * 32))
    with pytest.raises(InputError, match="md5 differs"):
        load_images(DataConfig(root=tmp_path), quiet)


def test_a_root_without_the_data_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"data\.root={tmp_path} holds no mnist.*--data\.root"):
        load_images(DataConfig(root=tmp_path, source="local"), quiet)


def test_sample_digits_are_real_ones() -> None:
    found = load_images(DataConfig(source="sample"), quiet)
    assert found.images.shape == (5000, 1, 28, 28)
    assert (int(found.images.min()), int(found.images.max())) == (0, 255)
    assert found.provenance.sha256 == "2913c6b6527114b7307e1086335a7665e3f94c74aba3d67525e6f116bf5ae20f"


HELD_OUT = 40  # images that the mirror has beside the training images


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A mirror of (Q)MNIST on this machine, where torchvision downloads from in this process and its children."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    handler = lambda *a: http.server.SimpleHTTPRequestHandler(*a, directory=str(folder))  # noqa: E731
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        resources: list[tuple[str, str]] = []
        parts: dict[str, list[tuple[str, str]]] = {}
        for split, count in (("train", IMAGES), ("test", HELD_OUT)):
            images, mnist = idx_bytes(draw_images(count)), split.replace("test", "t10k")
            resources += [
                put(folder, f"{mnist}-images-idx3-ubyte.gz", images),
                put(folder, f"{mnist}-labels-idx1-ubyte.gz", labels_bytes(np.zeros(count, np.uint8))),
            ]
            parts[split] = [
                put(folder, f"qmnist-{split}-images-idx3-ubyte.gz", images, url),
                put(folder, f"qmnist-{split}-labels-idx2-int.gz", labels_bytes(np.zeros((count, 8), ">i4")), url),
            ]
        _use_mirror(tmp_path, monkeypatch, url, [f"d.MNIST.resources = {resources}", f"d.QMNIST.resources = {parts}"])
        yield folder
        server.shutdown()


def put(folder: Path, name: str, content: bytes, url: str = "") -> tuple[str, str]:
    """Put a file on the mirror; returns where it is and its md5, as torchvision's lists have them."""
    packed = gzip.compress(content)
    (folder / name).write_bytes(packed)
    return url + name, hashlib.md5(packed).hexdigest()


def _use_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, resources: Sequence[str] = ()) -> None:
    """Have torchvision, in the child process that downloads, find MNIST at `url`."""
    site = tmp_path / "site"
    site.mkdir()
    lines = ["import torchvision.datasets as d", f"d.MNIST.mirrors = [{url!r}]", *resources]
    (site / "sitecustomize.py").write_text("\n".join(lines))
    monkeypatch.setenv("PYTHONPATH", str(site))


def test_a_download_is_verified_and_kept(tmp_path: Path, mirror: Path) -> None:
    root = tmp_path / "root"
    found = load_images(DataConfig(root=root, source="download"), quiet)
    assert found.provenance.source == "download"
    assert torch.equal(found.images[:, 0], torch.from_numpy(draw_images()))
    assert [path.name for path in root.iterdir()] == ["MNIST"]
    again = load_images(DataConfig(root=root, source="auto"), quiet)
    assert again.provenance.source == "local"


@pytest.mark.parametrize("name", ["mnist", "qmnist"])
def test_a_download_has_labels_and_held_out_images(tmp_path: Path, mirror: Path, name: str) -> None:
    config = DataConfig(name=name, root=tmp_path / "root", source="download")  # type: ignore[arg-type]
    train, test = (load_labelled(config, split, quiet) for split in ("train", "test"))
    assert (len(train.labels), len(test.labels)) == (IMAGES, HELD_OUT)
    assert torch.equal(test.images[:, 0], torch.from_numpy(draw_images(HELD_OUT)))


def test_what_is_there_is_not_downloaded_again(tmp_path: Path, mirror: Path) -> None:
    config = DataConfig(root=tmp_path / "root", source="download")
    first = load_images(config, quiet)
    (mirror / "train-images-idx3-ubyte.gz").unlink()
    again = load_images(config, quiet)
    assert again.provenance.source == "local"
    assert torch.equal(again.images, first.images)


def test_a_download_goes_beside_what_is_left_of_another(tmp_path: Path, mirror: Path) -> None:
    config = DataConfig(root=tmp_path / "root", source="download")
    file = Path(load_images(config, quiet).provenance.file)
    for damaged in file.parent.glob("train-images*"):
        damaged.unlink()
    assert load_images(config, quiet).provenance.source == "download"
    assert [path.name for path in config.root.iterdir()] == ["MNIST"]


def test_a_download_with_another_md5_leaves_nothing(tmp_path: Path, mirror: Path) -> None:
    (mirror / "train-images-idx3-ubyte.gz").write_bytes(b"something else")
    with pytest.raises(InputError, match=r"data\.name=mnist could not be downloaded .*--data\.root"):
        load_images(DataConfig(root=tmp_path / "root", source="download"), quiet)
    assert not (tmp_path / "root").exists()


def test_a_silent_server_ends_in_the_sample_announced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and never answers
        _use_mirror(tmp_path, monkeypatch, f"http://127.0.0.1:{server.getsockname()[1]}/")
        announced: list[str] = []
        config = DataConfig(root=tmp_path / "root", source="auto", download_timeout=12.0)
        found = load_images(config, announced.append)
    assert found.provenance.source == "sample"
    assert "nothing within 12 s" in (found.provenance.fallback or "")
    assert len(announced) == 1
    assert "sample of 5,000 real digits" in announced[0]
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(("size", "batch"), [(100, 20), (100, 30), (7, 7), (50, 49)])
def test_every_image_comes_once_an_epoch(size: int, batch: int) -> None:
    epochs = 6
    steps = -(-size * epochs // batch)
    stream = torch.cat(list(GlobalBatches(size, batch, 5, range(steps), CPU)))
    orders = []
    for epoch in range(epochs):
        seen = stream[epoch * size : (epoch + 1) * size]
        assert sorted(seen.tolist()) == list(range(size))
        orders.append(tuple(seen.tolist()))
    assert len(set(orders)) == epochs  # another order each time


def test_the_order_depends_on_seed_and_step_alone() -> None:
    whole = list(GlobalBatches(50, 20, 1, range(30), CPU))
    assert all(torch.equal(a, b) for a, b in zip(whole[13:], GlobalBatches(50, 20, 1, range(13, 30), CPU), strict=True))
    other = list(GlobalBatches(50, 20, 2, range(30), CPU))
    assert not all(torch.equal(a, b) for a, b in zip(whole, other, strict=True))


def test_the_loader_fetches_whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.from_numpy(draw_images()).unsqueeze(1)
    batches = GlobalBatches(IMAGES, 32, 0, range(9), CPU)
    monkeypatch.setattr(ResidentImages, "__getitem__", lambda *_: pytest.fail("fetched image by image"))
    loaded = list(make_loader(ResidentImages(images), batches))
    assert len(loaded) == 9
    for batch, indices in zip(loaded, batches, strict=True):
        assert batch.shape == (32, 1, 28, 28)
        assert torch.equal(batch, normalize(images[indices]))


def test_stacked_images_take_every_image_once_an_epoch_in_every_channel() -> None:
    images = torch.arange(IMAGES, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    batches = GlobalBatches(IMAGES, 20, 0, range(10), CPU, stack=3)
    epoch = torch.cat(list(make_loader(ResidentImages(images), batches)))
    assert epoch.shape == (IMAGES, 3, 2, 2)
    numbers = ((epoch[:, :, 0, 0] + 1) * 127.5).round().long()  # (IMAGES, 3)
    for channel in numbers.T:
        assert sorted(channel.tolist()) == list(range(IMAGES))
    assert not torch.equal(numbers[:, 0], numbers[:, 1])
    assert not torch.equal(numbers[:, 1], numbers[:, 2])
    alone = torch.cat(list(GlobalBatches(IMAGES, 20, 0, range(10), CPU)))
    assert torch.equal(numbers[:, 0], alone)  # the first channel is what there is without the others


def test_a_stack_changes_the_shape_and_nothing_else(data_root: Path) -> None:
    alone, stacked = (load_images(DataConfig(root=data_root, stack=stack), quiet) for stack in (1, 3))
    assert torch.equal(alone.images, stacked.images)
    assert alone.provenance == stacked.provenance
    assert (alone.shape, stacked.shape) == ((1, 28, 28), (3, 28, 28))
