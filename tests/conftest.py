"""What the tests share: a small data set, a way to launch real runs, and fixtures that notice what a test leaks."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

# Before the first matrix product: runs in this process and runs in others must not differ by their kernels.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as the package sets it where torch is not loaded yet

# Before anything imports the package: every shape and type in its signatures is checked in every test.
jaxtyping.install_import_hook("gan_dist", "beartype.beartype")

import torch  # noqa: E402
from many import reset_accelerate  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from gan_dist.outputs.folder import RunFolder  # noqa: E402
from gan_dist.outputs.records import read_json_lines  # noqa: E402

# python -m pytest -m fuzz --hypothesis-profile thorough tries what a commit's tests have no time for.
FUZZ: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}
settings.register_profile("quick", max_examples=100, **FUZZ)
settings.register_profile("thorough", max_examples=10_000, **FUZZ)
settings.load_profile("quick")

REPOSITORY = Path(__file__).resolve().parent.parent
INJECT = REPOSITORY / "benchmarks" / "inject.py"
TRAIN = REPOSITORY / "gan_dist" / "train.py"
IMAGES = 200  # in the small data set
STATE_FILES = ("generator", "discriminator", "generator_optimizer", "discriminator_optimizer")  # of a checkpoint


LONGEST_FILES = ("test_launch", "test_distributed", "test_resume", "test_wandb", "test_evaluation", "test_signals")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # make test hands out whole files in this order: one that is long and starts last is waited for alone.
    items.sort(key=lambda item: item.path.stem not in LONGEST_FILES)
    for item in items:
        if "gpu" in item.keywords and not torch.accelerator.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


def draw_images(count: int = IMAGES) -> np.ndarray:
    """(count, 28, 28) uint8: bright discs on black, no two alike; stands in for digits."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:28, :28]
    center, radius = rng.uniform(8, 20, (count, 2, 1, 1)), rng.uniform(3, 8, (count, 1, 1))
    distance = np.hypot(y - center[:, 0], x - center[:, 1])
    return (255 * np.clip(radius - distance, 0, 1)).astype(np.uint8)


def idx_bytes(images: np.ndarray) -> bytes:
    return b"".join(n.to_bytes(4, "big") for n in (0x803, *images.shape)) + images.tobytes()


def labels_bytes(labels: np.ndarray) -> bytes:
    magic = {np.dtype(np.uint8): 0x801, np.dtype(">i4"): 0xC02}[labels.dtype]
    return b"".join(n.to_bytes(4, "big") for n in (magic, *labels.shape)) + labels.tobytes()


def write_root(root: Path, content: bytes, name: str = "MNIST/raw/train-images-idx3-ubyte") -> Path:
    """Lay a data root out as torchvision does; returns the file of images."""
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return file


@contextlib.contextmanager
def serving_folder(folder: Path) -> Iterator[str]:
    """Yields the address of a local web server with the files of a folder."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def picture_size(file: Path) -> tuple[int, int]:
    with Image.open(file) as picture:
        return picture.size


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, in the folder of the test."""
    monkeypatch.setenv("GAN_DIST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_root(root, idx_bytes(draw_images()))
    return root


@pytest.fixture(scope="session")
def labelled_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images as digits, whose classes alternate."""
    return write_labelled(tmp_path_factory.mktemp("labelled"))


def write_labelled(root: Path) -> Path:
    write_root(root, idx_bytes(draw_images()))
    write_root(root, labels_bytes(np.arange(IMAGES, dtype=np.uint8) % 10), "MNIST/raw/train-labels-idx1-ubyte")
    return root


@dataclass(frozen=True)
class Ended:
    """A process that ran to its end."""

    code: int
    out: str
    err: str


def environment() -> dict[str, str]:
    """One OpenMP thread (two on busy cores spin), no W&B login of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "ACCELERATE_"))}
    return kept | {"OMP_NUM_THREADS": "1", "NETRC": os.devnull}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launcher(processes: int) -> list[str]:
    """accelerate launch with the repository's own config file."""
    config = str(REPOSITORY / "accelerate_config.yaml")
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", config]
    return [*command, "--num_processes", str(processes)]


def workers(launched: subprocess.Popen[bytes]) -> list[int]:
    """The processes that a launcher started, rank 0 first."""
    return [int(pid) for pid in Path(f"/proc/{launched.pid}/task/{launched.pid}/children").read_text().split()]


def run_command(*words: str | Path, timeout: float = 120, **env: str) -> Ended:
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=timeout,
        env=environment() | env,
        cwd=REPOSITORY,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def figures(folder: RunFolder) -> list[dict[str, Any]]:
    """metrics.jsonl without what depends on the clock."""
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in read_json_lines(folder.metrics)]


def assert_same_end(a: RunFolder, b: RunFolder, step: int) -> None:
    assert figures(a) == figures(b)
    for name in STATE_FILES:
        x, y = (load_file(folder.checkpoints / f"step-{step:08d}" / f"{name}.safetensors") for folder in (a, b))
        assert x.keys() == y.keys()
        assert all(torch.equal(x[key], y[key]) for key in x), name


def wait_for_step(folder: RunFolder, step: int, process: subprocess.Popen[bytes]) -> None:
    """Come back when a run has logged a step."""
    deadline = time.monotonic() + 90
    while not any(row["step"] >= step for row in read_json_lines(folder.metrics)):
        assert process.poll() is None, "the run ended too early"
        assert time.monotonic() < deadline, "the run does not get there"
        time.sleep(0.02)


def train_here(words: list[str]) -> int:
    """train.py's own main in this process: seconds faster than another one."""
    from gan_dist import train

    reset_accelerate()  # it holds on to its first precision
    return train.main(words)


@pytest.fixture(scope="session")
def flags(data_root: Path) -> Callable[..., list[str]]:
    """Flags of a small run of 10 steps an epoch, never evaluated; more may follow."""

    def make(folder: Path, *more: str) -> list[str]:
        return [
            *("--data.root", str(data_root), "--data.source", "local", "--run.dir", str(folder)),
            *("--train.batch-size", "20", "--train.threads", "1", "--log.every-steps", "5"),
            *("--evaluate.every-epochs", "None"),
            *more,
        ]

    return make


@pytest.fixture(autouse=True)
def clean_process() -> Iterator[None]:
    """Each test starts without Accelerate's global state, and leaves no process group and no variable behind."""
    reset_accelerate()
    threads, variables, random_state = torch.get_num_threads(), dict(os.environ), torch.get_rng_state()
    yield
    assert not torch.distributed.is_initialized(), "the test left a process group"
    torch.set_num_threads(threads)
    reset_accelerate()
    left = {name for name in os.environ.keys() ^ variables.keys() if not name.startswith(("PYTEST_", "WANDB_"))}
    # Accelerate and torch set these for libraries that they load.
    left -= {"ACCELERATE_MIXED_PRECISION", "FORK_LAUNCHED", "KMP_AFFINITY", "KMP_BLOCKTIME", "TORCHINDUCTOR_CACHE_DIR"}
    left -= {"KINETO_LOG_LEVEL"}  # of --profile
    left -= {"KMP_DUPLICATE_LIB_OK"}  # of threadpoolctl
    assert not left, f"the test left variables: {left}"
    assert torch.equal(torch.get_rng_state(), random_state), "something drew from the global generator"


@pytest.fixture(scope="session")
def device_process() -> Iterator[ProcessPoolExecutor]:
    """A process with the fake device. torch's autograd must not have run before that is registered: no fork."""
    from fake_device import register

    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), register) as executor:
        yield executor
