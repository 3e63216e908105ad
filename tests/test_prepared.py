"""Data sets that are prepared once: by one process, all or nothing, and checked before they are used."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, environment
from PIL import Image
from unprivileged import run_unprivileged

from gan_dist.config import DataConfig, InputError, Stopped
from gan_dist.data import preparation, prepared
from gan_dist.data.preparation import Advance, Source, prepare, write_blocks
from gan_dist.data.prepared import DESCRIPTION, LABELS, PIXELS, Contents, Prepared, open_prepared
from gan_dist.data.readers.folder import READER
from gan_dist.data.readers.reader import Context
from gan_dist.files import BadFile

COUNT, HELD_OUT = 50, 20
READ = """
import os, sys
from pathlib import Path
from gan_dist.config import DataConfig, InputError
from gan_dist.data.readers import decoding
from gan_dist.data.readers.folder import READER
from gan_dist.data.readers.reader import Context
decoding._MAX_FILES = 1
if "slow" in sys.argv[2:]:  # each picture takes 0.04 s
    decoding._SCRIPT = decoding._SCRIPT.replace("main()", '''
import gan_dist.data.readers.decoder as d, time
decode = d.decode
d.decode = lambda content, how: time.sleep(0.04) or decode(content, how)
main()
''')
def announce(line):
    print(line, flush=True)
try:
    images = READER.read(DataConfig("folder", Path(sys.argv[1]), size=4), "train", Context(announce))
except InputError as error:
    sys.exit(f"InputError: {error}")
announce(images.provenance.sha256)
"""


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    root.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3)).astype(np.uint8)
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(root / f"{i:02d}.png")
    return root


def all_pixels() -> np.ndarray:
    """Of `source`: (n, C, H, W)."""
    return np.random.default_rng(1).integers(0, 256, (COUNT + HELD_OUT, 3, 5, 7)).astype(np.uint8)


def source(build: Callable[[Path, Advance], Contents] | None = None, version: str = "1", bytes_: int = 1) -> Source:
    pixels = all_pixels()

    def fill(start: int, stop: int, block: np.ndarray) -> None:
        block[:] = pixels[start:stop]

    def write(file: Path, advance: Advance) -> Contents:
        write_blocks(file, pixels.shape, fill, advance)
        labels = np.arange(len(pixels)) % 2
        return Contents((3, 5, 7), COUNT, HELD_OUT, ("a", "b"), labels, {"found": "it"})

    return Source("data.root=x", {"root": "x"}, version, len(pixels), bytes_, build or write)


def run(source: Source, stop: Callable[[], bool] = lambda: False) -> tuple[Prepared, list[str]]:
    announced: list[str] = []
    return prepare(source, announced.append, stop, "train"), announced


def test_what_is_prepared_is_mapped(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "_BLOCK_BYTES", 1_000)
    first, announced = run(source())
    assert announced == []

    def never(file: Path, advance: Advance) -> Contents:
        raise AssertionError("prepared twice")

    again, announced = run(source(never))
    assert announced == []
    assert again.contents.details == {"found": "it"}
    for split, pixels in (("train", all_pixels()[:COUNT]), ("test", all_pixels()[COUNT:])):
        mapped = again.pixels(split)
        assert isinstance(mapped, np.memmap)
        assert (mapped.filename, mapped.offset) == (again.folder / PIXELS, again.offset(split))
        assert np.array_equal(mapped, pixels)
        mapped[:] = 0  # stays here
        assert np.array_equal(first.pixels(split), pixels)
        labels = again.labels(split)
        assert labels is not None
        assert labels.tolist() == [i % 2 for i in range(len(pixels))]
    assert [path.name for path in cache.iterdir()] == [first.folder.name]


def test_another_version_replaces_the_older_one(cache: Path) -> None:
    first, _ = run(source())
    mapped = first.pixels("train")
    second, announced = run(source(version="2"))
    assert announced == ["data.root=x has changed since it was prepared, so it is prepared again"]
    assert [path.name for path in cache.iterdir()] == [second.folder.name]
    assert np.array_equal(mapped, all_pixels()[:COUNT])  # of a run that still uses it


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def edit(folder: Path, **values: object) -> None:
    """Change a description and its digest."""
    stored = json.loads((folder / DESCRIPTION).read_text()) | values
    del stored["digest"]
    stored["digest"] = prepared._digest(stored)
    (folder / DESCRIPTION).write_text(json.dumps(stored))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit of the pixels": (lambda folder: flip(folder / PIXELS, 99), "sha256 is not that of the prepared pixels"),
    "short pixels": (lambda folder: os.truncate(folder / PIXELS, 100), "not a regular file of 7,350 bytes"),
    "no pixels": (lambda folder: (folder / PIXELS).unlink(), "unreadable pixels.bin"),
    "a bit of the labels": (lambda folder: flip(folder / LABELS, 0), "damaged labels.bin"),
    "no labels": (lambda folder: (folder / LABELS).unlink(), "can't be read"),
    "a bit of the description": (lambda folder: flip(folder / DESCRIPTION, 40), DESCRIPTION),
    "empty": (lambda folder: (folder / DESCRIPTION).write_bytes(b""), "not valid JSON"),
    "another format": (lambda folder: edit(folder, format=0), "another format"),
    "no shape": (lambda folder: edit(folder, shape=[3, 5]), "invalid shape"),
    "negative": (lambda folder: edit(folder, held_out=-1), "invalid held_out"),
    "no hash": (lambda folder: edit(folder, sha256={"train": "x", "test": "y"}), "invalid sha256"),
    "equal classes": (lambda folder: edit(folder, classes=["a", "a"]), "invalid classes"),
    "fewer classes": (lambda folder: edit(folder, classes=["a"]), "labels out of range"),
    "a file": (lambda folder: (shutil.rmtree(folder), folder.write_text("")), "can't be read"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_found_and_repaired(kind: str) -> None:
    damage, says = DAMAGE[kind]
    good, _ = run(source())
    damage(good.folder)
    again, announced = run(source())
    assert len(announced) == 1
    assert says in announced[0]
    assert np.array_equal(again.pixels("train"), all_pixels()[:COUNT])
    assert run(source())[1] == []


def test_links_in_the_cache_are_not_followed(tmp_path: Path) -> None:
    good, _ = run(source())
    for name in (PIXELS, DESCRIPTION, LABELS):
        (good.folder / name).rename(tmp_path / name)
        (good.folder / name).symlink_to(tmp_path / name)
        with pytest.raises(BadFile):
            open_prepared(good.folder)
        (good.folder / name).unlink()
        (tmp_path / name).rename(good.folder / name)
    assert open_prepared(good.folder) is not None


def test_a_stop_leaves_nothing(root: Path, cache: Path) -> None:
    threads = set(threading.enumerate())
    polls = iter([False] + [True] * 100)
    with pytest.raises(Stopped):
        run(source(), lambda: next(polls))
    assert list(cache.iterdir()) == []
    with pytest.raises(Stopped):
        READER.read(DataConfig("folder", root), "train", Context(print, lambda: True))
    assert list(cache.iterdir()) == []
    assert set(threading.enumerate()) <= threads


def test_a_failure_leaves_nothing(cache: Path) -> None:
    def fail(file: Path, advance: Advance) -> Contents:
        file.write_bytes(b"x")
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(InputError, match=r"the cache .* can't be written \(Input/output error\); set GAN_DIST_CACHE"):
        run(source(fail))
    assert list(cache.iterdir()) == []


def start(root: Path, *words: str) -> subprocess.Popen[str]:
    env = environment() | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen([sys.executable, "-c", READ, str(root), *words], stdout=subprocess.PIPE, text=True, env=env)


def wait_for(cache: Path, pattern: str) -> Path:
    deadline = time.monotonic() + 30
    while not (found := list(cache.glob(pattern))):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found[0]


def test_two_processes_prepare_once(root: Path, cache: Path) -> None:
    first = start(root, "slow")
    wait_for(cache, f".writing-*/{PIXELS}")
    second = start(root, "slow")
    outputs = [process.communicate(timeout=60)[0].splitlines() for process in (first, second)]
    assert len(outputs[0]) == 1
    assert outputs[1] == [f"waiting for another process that prepares data.root={root}", *outputs[0]]
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_leaves_nothing_that_is_used(root: Path, cache: Path, number: int) -> None:
    killed = start(root, "slow")
    unfinished = wait_for(cache, ".writing-*")
    time.sleep(0.2)
    killed.send_signal(number)
    killed.communicate(timeout=30)
    assert killed.returncode == -number
    assert unfinished.exists()
    other = cache / ".writing-0-data-0123456789abcdef-1"  # of another data set
    other.mkdir()
    again = start(root)
    (line,) = again.communicate(timeout=60)[0].splitlines()
    assert len(line) == 64
    assert [path.name[:5] for path in cache.iterdir()] == ["data-"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True)
    if done.returncode:
        pytest.skip("needs root to mount a file system")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk(root: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAN_DIST_CACHE", str(small_disk / "cache"))
    with pytest.raises(
        InputError, match=r"has 2 MB free, but data.root=.* needs 8 MB; free some space, or set GAN_DIST"
    ):
        READER.read(DataConfig("folder", root, size=320), "train", Context(print))
    # What else fills the disk meanwhile.
    free = shutil.disk_usage(small_disk)._replace(free=10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(InputError, match=r"can't be written \(No space left on device\); set GAN_DIST_CACHE"):
        READER.read(DataConfig("folder", root, size=320), "train", Context(print))
    assert list((small_disk / "cache").iterdir()) == []


def test_a_limit_of_the_size_of_files(root: Path, cache: Path) -> None:
    limited = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n" + READ
    env = environment() | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", limited, str(root)], capture_output=True, text=True, env=env)
    assert done.returncode == 1
    assert "can't be written (File too large); set GAN_DIST_CACHE to a writable folder" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(cache.iterdir()) == []


def test_a_read_only_cache(root: Path, cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o555)
    done = run_unprivileged(READ, root)
    assert f"InputError: the cache {cache} can't be written (Permission denied); set GAN_DIST_CACHE" in done.err
    cache.chmod(0o755)
    assert run_unprivileged(READ, root).code == 0
    cache.chmod(0o555)
    done = run_unprivileged(READ, root)  # what is there is used
    cache.chmod(0o755)
    assert done.code == 0


def test_a_changed_folder_is_noticed(root: Path) -> None:
    def read() -> tuple[str, list[str]]:
        announced: list[str] = []
        config = DataConfig("folder", root)
        return READER.read(config, "train", Context(announced.append)).provenance.sha256, announced

    before, announced = read()
    assert announced == []
    (root / "03.png").write_bytes((root / "04.png").read_bytes())
    after, announced = read()
    assert before != after
    assert announced == [f"data.root={root} has changed since it was prepared, so it is prepared again"]
    assert read() == (after, [])
    config = dataclasses.replace(DataConfig("folder", root), background="black")
    READER.read(config, "train", Context(announced.append))
    assert len(announced) == 1  # other settings are prepared beside it
    assert read() == (after, [])


def test_the_decoder_imports_no_torch() -> None:
    script = "import gan_dist.data.readers.decoder, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, env=environment() | {"PYTHONPATH": str(REPOSITORY)})
