"""FID and KID: against torch-fidelity and the bootstrap, files of weights, the cache, training, the command."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, draw_images, idx_bytes, labels_bytes, launcher, run_command, train_here, write_root
from scipy.linalg import sqrtm
from small_inception import draw_weights, on_meta, use_small_network, write_small_weights
from torch import Tensor

from gan_dist import cli
from gan_dist.config import InputError
from gan_dist.data.readers.reader import MIN_COMPARED
from gan_dist.evaluation import inception, inception_judge, inception_network
from gan_dist.evaluation.inception import InceptionReference, _reference, fid, kid
from gan_dist.evaluation.inception_judge import make_judge
from gan_dist.evaluation.inception_network import load_inception
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json_lines

SMALL = REPOSITORY / "tests" / "small_inception.py"
HELD_OUT = 60


def quiet(line: str) -> None:
    """Ignores announcements."""


pytestmark = pytest.mark.usefixtures("cache")


def drawn(count: int, seed: int, shift: float = 0.0) -> Tensor:
    """(count, 4) features with skewed, dependent coordinates."""
    rng = np.random.default_rng(seed)
    independent = rng.exponential(1, (count, 4)) * [1, 2, 0.5, 1]
    mixed = independent @ [[1, 0, 0, 0], [0.5, 1, 0, 0], [0, 0, 1, 0.3], [shift, 0, 0, 1]] + shift
    return torch.from_numpy(mixed).float()


def deviation(low: float, high: float) -> float:
    return (high - low) / (2 * 1.96)


# The figures


@pytest.mark.parametrize("shift", [0.5, 0.1])
def test_the_interval_of_fid_is_that_of_the_bootstrap(shift: float) -> None:
    fake, real = drawn(400, 1, shift), drawn(1000, 2)
    found = fid(fake, _reference(real))
    mean, covariance = real.numpy().mean(0), np.cov(real.numpy().T)

    def distance(rows: np.ndarray) -> float:
        other = np.cov(rows.T)
        trace = np.trace(covariance + other - 2 * sqrtm(covariance @ other).real)
        return float(((rows.mean(0) - mean) ** 2).sum() + trace)

    rng = np.random.default_rng(0)
    samples = [distance(fake.numpy()[rng.integers(0, 400, 400)]) for _ in range(400)]
    assert found.value == pytest.approx(distance(fake.numpy()), rel=1e-4)
    assert deviation(max(found.low, 1e-9), found.high) == pytest.approx(np.std(samples), rel=0.15)


def test_fid_has_an_interval_with_fewer_images_than_features() -> None:
    rng = np.random.default_rng(0)
    fake, real = (torch.from_numpy(rng.normal(size=(count, 30))).float() for count in (20, 100))
    found = fid(fake + 1, _reference(real))
    assert 0 < found.high - found.value < found.value


def test_the_interval_of_kid_contains_the_variation_of_generated_images() -> None:
    reference = _reference(drawn(800, 2))
    found = [kid(drawn(300, 100 + seed, 0.3), reference) for seed in range(40)]
    claimed = np.mean([deviation(figure.low, figure.high) for figure in found])
    assert claimed == pytest.approx(np.std([figure.value for figure in found]), rel=0.3)


@pytest.mark.slow
def test_the_figures_are_those_of_torch_fidelity(tmp_path: Path) -> None:
    from torch_fidelity import calculate_metrics

    file = tmp_path / "weights.pth"
    torch.save(draw_weights(inception_network._without_weights().state_dict()), file)
    rng = np.random.default_rng(0)
    fake, real = (torch.from_numpy(rng.integers(0, 256, (12, 3, 16, 16), np.uint8)) for _ in range(2))
    real[:, :, 8:] //= 2

    class Images(torch.utils.data.Dataset[Tensor]):
        def __init__(self, images: Tensor) -> None:
            self.images = images

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, index: int) -> Tensor:
            return self.images[index]

    with torch.random.fork_rng(devices=[]):
        expected = calculate_metrics(
            input1=Images(fake),
            input2=Images(real),
            cuda=False,
            fid=True,
            kid=True,
            kid_subset_size=12,
            feature_extractor_weights_path=str(file),
            cache=False,
            save_cpu_ram=True,
            verbose=False,
        )
    judge = make_judge(Path(f"inception:{file}"), real, None, torch.device("cpu"), quiet)
    figures = judge.figures(fake)
    assert figures["inception/fid"].value == pytest.approx(expected["frechet_inception_distance"], rel=1e-4)
    assert figures["inception/kid"].value == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-4)
    # Grey images are images with three equal channels.
    grey = fake[:2, :1]
    features = [inception.inception_features(judge.inception.network, x) for x in (grey, grey.repeat(1, 3, 1, 1))]
    assert torch.equal(*features)


# The weights


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.file}",)


def saved(value: object) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def compressed(size: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(size))
    return stream.getvalue()


def altered(**changes: Tensor | None) -> bytes:
    """Weights of the small network with other tensors."""
    weights: dict[str, Tensor | None] = {**draw_weights(on_meta().state_dict())}
    weights |= {name.replace("__", "."): tensor for name, tensor in changes.items()}
    return saved({name: tensor for name, tensor in weights.items() if tensor is not None})


FAULTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "does not hold weights"),
    "text": (lambda: b"no weights", "does not hold weights"),
    "truncated": (lambda: altered()[:-100], "does not hold weights"),
    "list": (lambda: saved([torch.zeros(1)]), "does not hold a dictionary of tensors"),
    "nested": (lambda: saved({"state_dict": {"layer.weight": torch.zeros(1)}}), "a dictionary of tensors"),
    "missing": (lambda: altered(layer__bias=None), "lacks the tensor layer.bias"),
    "unexpected": (lambda: altered(other=torch.zeros(1)), "unexpected tensor 'other'"),
    "shape": (lambda: altered(layer__bias=torch.zeros(17)), "layer.bias of shape [17] instead of [16]"),
    "type": (lambda: altered(layer__bias=torch.zeros(16).half()), "layer.bias as torch.float16"),
    "nan": (lambda: altered(layer__bias=torch.full((16,), torch.nan)), "layer.bias with values that are not finite"),
    "bomb": (lambda: compressed(inception_network.MAX_BYTES + 1), "when unpacked"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_file_without_the_weights_is_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_network(monkeypatch.setattr)
    content, says = FAULTS[name]
    file = tmp_path / "weights.pth"
    file.write_bytes(content())
    with pytest.raises(InputError) as refusal:
        load_inception(Path(f"inception:{file}"))
    assert str(refusal.value).startswith(f"evaluate.features=inception:{file}: the file ")
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_code_in_a_file_of_weights_is_not_executed(tmp_path: Path) -> None:
    file, ran = tmp_path / "weights.pth", tmp_path / "ran"
    for content in (saved({"layer.weight": Payload(ran)}), pickle.dumps({"layer.weight": Payload(ran)})):
        file.write_bytes(content)
        with pytest.raises(InputError, match="can load safely"):
            load_inception(Path(f"inception:{file}"))
        assert not ran.exists()
    torch.load(io.BytesIO(saved({"layer.weight": Payload(ran)})), weights_only=False)
    assert ran.exists()  # the payload works


def test_weights_of_an_older_torch_have_no_counters(tmp_path: Path) -> None:
    expected = inception_network._without_weights().state_dict()
    weights = draw_weights(expected)
    older = {name: tensor for name, tensor in weights.items() if tensor.dtype != torch.int64}
    assert len(older) < len(weights)
    file = tmp_path / "weights.pth"
    torch.save(older, file)
    loaded = load_inception(Path(f"inception:{file}"))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in loaded.network.parameters())
    assert not loaded.network.training
    assert not loaded.published


# The cache


def test_features_of_real_images_are_computed_once(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_network(monkeypatch.setattr)
    features = Path(f"inception:{write_small_weights(tmp_path / 'weights.pth')}")
    images = torch.from_numpy(draw_images(150))[:, None]

    def make(train: Tensor = images[:100], held_out: Tensor | None = images[100:]) -> InceptionReference:
        return make_judge(features, train, held_out, torch.device("cpu"), quiet).reference

    def same(one: InceptionReference, other: InceptionReference) -> bool:
        return torch.equal(one.features, other.features) and one.floor == other.floor

    first = make()
    (file,) = cache.iterdir()
    content = file.read_bytes()
    assert first.features.shape == (100, 16)
    for damaged in (content[:-1], content[:-1] + bytes([content[-1] ^ 1]), b""):
        file.write_bytes(damaged)
        assert same(make(), first)
        assert file.read_bytes() == content
    with monkeypatch.context() as patch:
        patch.setattr(inception, "inception_features", lambda *_: pytest.fail("computed again"))
        assert same(make(), first)
    assert make(held_out=None).floor != first.floor
    assert not same(make(train=images[:101]), first)
    assert len(list(cache.iterdir())) == 3


# Training


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNIST with few images."""
    root, images = tmp_path_factory.mktemp("data"), draw_images(200 + HELD_OUT)
    labels = np.arange(len(images), dtype=np.uint8) % 10
    for split, part in (("train", slice(200)), ("t10k", slice(200, None))):
        write_root(root, idx_bytes(images[part]), f"MNIST/raw/{split}-images-idx3-ubyte")
        write_root(root, labels_bytes(labels[part]), f"MNIST/raw/{split}-labels-idx1-ubyte")
    assert HELD_OUT >= MIN_COMPARED
    return root


@pytest.fixture
def words(data: Path, tmp_path: Path) -> list[str]:
    """Flags of a run of two epochs of 10 steps, each evaluated."""
    return [
        *("--data.root", str(data), "--data.source", "local", "--run.dir", str(tmp_path / "run")),
        *("--train.batch-size", "20", "--train.threads", "1", "--train.steps", "20", "--wandb.mode", "disabled"),
        *("--evaluate.every-epochs", "1", "--evaluate.count", "100"),
    ]


def inception_flags(file: Path) -> list[str]:
    return ["--evaluate.features", f"inception:{file}"]


def test_a_run_records_fid_and_kid(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_small_network(monkeypatch.setattr)
    file = write_small_weights(tmp_path / "weights.pth")
    assert train_here([*words, *inception_flags(file)]) == 0
    out, folder = capsys.readouterr().out, RunFolder(tmp_path / "run")
    rows, floor = read_json_lines(folder.evaluations), json.loads(folder.floor.read_text())
    assert len(rows) == 2
    for row in rows:
        assert row["distance/frechet"] > 0
        for name in ("inception/fid", "inception/kid"):
            low, high = row["intervals"][name]
            assert low <= row[name] <= high
            assert floor[name] < low  # discs against an untrained network's noise
        assert f", FID {row['inception/fid']:.1f} ({row['intervals']['inception/fid'][0]:.1f} to" in " ".join(
            out.split()
        )
        assert row["inception"] == load_inception(Path(f"inception:{file}")).id
    said = " ".join(out.split())
    assert said.count("FID and KID: 100 generated images, 200 training images (real images: 60 held-out images)") == 1
    assert "from 28x28 to 299x299 by torch-fidelity, bilinear as in TensorFlow 1" in said
    assert f"weights {rows[0]['inception']} (not the published ones" in said


@pytest.mark.parametrize("fault", ["damaged", "package", "memory"])
def test_a_fault_during_the_run_costs_only_fid_and_kid(
    words: list[str], fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_small_network(monkeypatch.setattr)
    file = write_small_weights(tmp_path / "weights.pth")

    def raise_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    if fault == "damaged":
        file.write_bytes(b"damaged")
    elif fault == "memory":
        monkeypatch.setattr(inception_judge, "inception_figures", raise_memory)
    else:
        monkeypatch.setitem(sys.modules, "torch_fidelity.metric_fid", None)
    assert train_here([*words, *inception_flags(file)]) == 0
    rows = read_json_lines(RunFolder(tmp_path / "run").evaluations)
    assert len(rows) == 2
    assert all("distance/frechet" in row and "inception/fid" not in row for row in rows)
    assert capsys.readouterr().out.count("FID and KID are off: ") == 1


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("inception:/nowhere/weights.pth", "the file can't be read (No such file or directory); use weights-inception"),
        ("inception:/tmp", "the file is not a regular file"),
        ("inception:", "is not supported: it must be auto or inception:FILE"),
        ("clip", "evaluate.features=clip is not supported: it must be auto or inception:FILE"),
    ],
)
def test_a_run_without_the_weights_does_not_start(
    words: list[str], value: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_here([*words, "--evaluate.features", value]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.startswith("gan_dist: evaluate.features=")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_run_without_the_package_does_not_start(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch_fidelity" else found(name))
    assert train_here([*words, *inception_flags(write_small_weights(tmp_path / "weights.pth"))]) == 2
    error = capsys.readouterr().err
    assert "needs torch-fidelity; pip install 'gan_dist[fid]'" in error
    assert error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.processes(2)
def test_the_figures_do_not_depend_on_the_number_of_processes(words: list[str], tmp_path: Path) -> None:
    exact = [*words, *inception_flags(write_small_weights(tmp_path / "weights.pth")), "--train.exact-shards", "2"]
    rows = []
    for processes in (1, 2):
        folder = tmp_path / f"on-{processes}"
        start = launcher(2) if processes == 2 else [sys.executable]
        ended = run_command(*start, SMALL, *exact, "--run.dir", folder, GAN_DIST_CACHE=str(tmp_path / str(processes)))
        assert ended.code == 0, ended.err
        rows.append(read_json_lines(RunFolder(folder).evaluations))
        assert ended.out.count("FID and KID: ") == 1
    assert [row["inception/fid"] for row in rows[0]] == [row["inception/fid"] for row in rows[1]]
    for one, two in zip(*rows, strict=True):
        assert {**one, "seconds": 0} == {**two, "seconds": 0}


# The command


def test_evaluate_shows_fid_and_kid(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_small_network(monkeypatch.setattr)
    file, run = write_small_weights(tmp_path / "weights.pth"), str(tmp_path / "run")
    assert train_here([*words, "--train.steps", "3", *inception_flags(file)]) == 0
    names = {"inception/fid", "inception/kid"}

    def evaluate(*more: str) -> tuple[set[str], str]:
        capsys.readouterr()
        assert cli.main(["evaluate", run, "--count", "100", *more]) == 0
        written = json.loads((tmp_path / "run" / "evaluation.json").read_text())
        assert set(written["figures"]) == set(written["real"])
        return names & set(written["figures"]), " ".join(capsys.readouterr().out.split())

    found, said = evaluate()  # as in the run
    assert found == names
    assert "FID and KID: 100 generated images, 200 training images" in said
    assert "inception/fid" in said
    assert evaluate("--features", "auto")[0] == set()
    file.rename(tmp_path / "moved.pth")
    found, said = evaluate()
    assert found == set()
    assert said.count("the file can't be read") == 1
    assert evaluate("--features", f"inception:{tmp_path / 'moved.pth'}")[0] == names
    assert cli.main(["evaluate", run, "--features", f"inception:{file}"]) == 2
    error = capsys.readouterr().err
    assert "the file can't be read" in error
    assert error.count("\n") == 1
