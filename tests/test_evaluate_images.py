"""gan-dist evaluate with images in folders and files, in the place of a run's images, of the real ones, or of both."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import draw_images, idx_bytes, labels_bytes, train_here, write_root
from PIL import Image
from small_inception import use_small_network, write_small_weights

from gan_dist import cli
from gan_dist.evaluation import extractors
from gan_dist.evaluation.classifier_training import train_classifier

SIDE = 28
DISCS = draw_images(420)
TRAIN, TEST, FAKE = DISCS[:200], DISCS[200:260], DISCS[260:]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for all tests, whose classifiers are trained for one epoch."""
    monkeypatch.setenv("GAN_DIST_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setattr(extractors, "train_classifier", lambda *given: train_classifier(*given, epochs=1))


def write_pictures(folder: Path, images: np.ndarray, classes: int = 1) -> Path:
    """Pictures as PNG files, in folders of classes if there are several."""
    for i, image in enumerate(images):
        file = folder / (f"class{i % classes}" if classes > 1 else "") / f"{i:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return folder


def noise(count: int, shape: tuple[int, ...] = (SIDE, SIDE)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two classes, in train/ and test/."""
    folder = tmp_path_factory.mktemp("pictures") / "real"
    write_pictures(folder / "train", TRAIN, 2)
    write_pictures(folder / "test", TEST, 2)
    return folder


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures") / "flat", TRAIN)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps on the same images, as digits."""
    root = tmp_path_factory.mktemp("run")
    for split, images in (("train", TRAIN), ("t10k", TEST)):
        write_root(root, idx_bytes(images), f"MNIST/raw/{split}-images-idx3-ubyte")
        labels = np.arange(len(images), dtype=np.uint8) % 10
        write_root(root, labels_bytes(labels), f"MNIST/raw/{split}-labels-idx1-ubyte")
    words = ["--data.root", str(root), "--data.source", "local", "--run.dir", str(root / "run")]
    words += ["--train.batch-size", "20", "--train.threads", "1", "--train.steps", "3", "--wandb.mode", "disabled"]
    assert train_here([*words, "--evaluate.every-epochs", "None"]) == 0
    return root / "run"


def evaluate(result: Path, *words: str | Path) -> dict[str, Any]:
    assert cli.main(["evaluate", *map(str, words)]) == 0
    written: dict[str, Any] = json.loads(result.read_text())
    return written


def ratio(evaluation: dict[str, Any]) -> float:
    """The Fréchet distance, relative to that of real images."""
    figures = (evaluation[kind]["distance/frechet"]["value"] for kind in ("figures", "real"))
    return next(figures) / next(figures)


def test_two_folders(real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = evaluate(tmp_path / "good-evaluation.json", write_pictures(tmp_path / "good", FAKE), real)
    said = capsys.readouterr().out
    assert f"{tmp_path / 'good'}: 160 images, classifier" in said
    assert f"figures in {tmp_path / 'good-evaluation.json'}" in said
    assert "distance/frechet" in said
    bad = evaluate(tmp_path / "bad.v2-evaluation.json", write_pictures(tmp_path / "bad.v2", noise(160)), real)
    assert ratio(good) < 3
    assert ratio(bad) > 20
    assert bad["figures"]["distance/frechet"]["low"] > good["figures"]["distance/frechet"]["high"]
    assert good["count"] == 160
    assert (good["seed"], good["generator"], good["step"]) == (None, None, None)
    assert good["classes"] == ["class0", "class1"]
    assert good["data"]["count"] == 200  # the held-out pictures are in the floor
    assert set(good["real"]) == set(good["figures"]) > {"classes/0", "nearest/ratio", "coverage"}


@pytest.mark.slow
def test_all_images_are_judged_whatever_their_folders(real: Path, tmp_path: Path) -> None:
    """A tenth of such pictures would be held out of a training."""
    flat = evaluate(tmp_path / "flat-evaluation.json", write_pictures(tmp_path / "flat", DISCS[:400]), real)
    sorted_ = evaluate(tmp_path / "sorted-evaluation.json", write_pictures(tmp_path / "sorted", DISCS[:400], 2), real)
    for split, images in (("train", DISCS[:390]), ("test", DISCS[390:400])):
        write_pictures(tmp_path / "split" / split, images)
    split_ = evaluate(tmp_path / "split-evaluation.json", tmp_path / "split", real)
    assert flat["count"] == sorted_["count"] == split_["count"] == 400
    for other in (sorted_, split_):
        assert other["figures"]["classes/0"] == flat["figures"]["classes/0"]
        assert other["figures"]["distance/frechet"]["value"] == pytest.approx(
            flat["figures"]["distance/frechet"]["value"], rel=1e-6
        )


def test_files_of_pictures_and_of_pixels(unlabelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_pictures(tmp_path / "folder", FAKE)
    with zipfile.ZipFile(tmp_path / "zipped.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    np.savez(tmp_path / "sampled.npz", images=FAKE[:, None])  # as gan-dist sample writes it
    np.savez(tmp_path / "real.npz", images=TRAIN, labels=np.arange(200) % 2)
    as_folder = evaluate(tmp_path / "folder-evaluation.json", folder, unlabelled)
    assert "without labels, the figures of classes are left out" in capsys.readouterr().out
    assert "classes/0" not in as_folder["figures"]
    zipped = evaluate(tmp_path / "zipped-evaluation.json", tmp_path / "zipped.zip", unlabelled)
    assert zipped["figures"] == as_folder["figures"]
    # The held-out images are moved to the end of an array.
    sampled = evaluate(tmp_path / "sampled-evaluation.json", tmp_path / "sampled.npz", unlabelled)
    assert sampled["count"] == 160
    for name in ("distance/frechet", "precision"):
        expected = as_folder["figures"][name]["value"]
        assert sampled["figures"][name]["value"] == pytest.approx(expected, rel=1e-5)
    labelled = evaluate(tmp_path / "sampled-evaluation.json", tmp_path / "sampled.npz", tmp_path / "real.npz")
    assert labelled["classes"] == ["0", "1"]


def test_size_resizes_both(real: Path, tmp_path: Path) -> None:
    larger = FAKE.repeat(2, axis=1).repeat(2, axis=2)
    folder, result = write_pictures(tmp_path / "larger", larger), tmp_path / "larger-evaluation.json"
    assert ratio(evaluate(result, folder, real, "--size", "14")) < 3


def test_colours_are_announced_where_the_real_images_are_grey(
    real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    colours = np.stack([FAKE, FAKE // 2, FAKE], 3)
    evaluate(tmp_path / "colour-evaluation.json", write_pictures(tmp_path / "colour", colours), real)
    assert capsys.readouterr().out.count("has colours, which are ignored, because the images of") == 1


def test_a_folder_and_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluate(tmp_path / "fake-evaluation.json", write_pictures(tmp_path / "fake", FAKE), run)
    assert ratio(found) < 3
    assert found["data"]["name"] == "mnist"
    assert "of the classes of mnist" in capsys.readouterr().out
    assert not (run / "evaluation.json").exists()


def test_a_run_and_a_folder(run: Path, real: Path) -> None:
    found = evaluate(run / "evaluation.json", run, real, "--count", "100")
    assert ratio(found) > 20  # it is hardly trained
    assert found["generator"] == str(run / "generator.safetensors")
    assert found["data"]["file"] == str(real)
    assert found["classes"] == ["class0", "class1"]
    (run / "evaluation.json").unlink()


def test_fid_of_two_folders(real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_network(monkeypatch.setattr)
    weights = f"inception:{write_small_weights(tmp_path / 'weights.pth')}"
    good, bad = (
        evaluate(
            *(tmp_path / f"{name}-evaluation.json", write_pictures(tmp_path / name, images), real),
            *("--features", weights),
        )
        for name, images in (("good", FAKE), ("bad", noise(100)))
    )
    assert good["figures"]["inception/fid"]["high"] < bad["figures"]["inception/fid"]["low"]
    assert "160 generated images, 200 training images (real images: 60 held-out images)" in good["inception"]
    assert good["real"]["inception/kid"] == bad["real"]["inception/kid"]


@pytest.fixture(scope="module")
def given(real: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Arguments by name."""
    tmp_path = tmp_path_factory.mktemp("given")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_text("no archive")
    (tmp_path / "file.txt").write_text("no images")
    np.savez(tmp_path / "floats.npz", images=np.zeros((200, 28, 28), np.float32))
    mixed = write_pictures(tmp_path / "mixed", noise(100))
    Image.fromarray(noise(1, (9, 9))[0]).save(mixed / "small.png")
    return {
        "REAL": real,
        "RUN": run,
        "SMALL": write_pictures(tmp_path / "small", noise(120, (20, 16))),
        "FEW": write_pictures(tmp_path / "few", FAKE[:99]),
        "FAKE": write_pictures(tmp_path / "fake", FAKE),
        "MIXED": mixed,
        "EMPTY": tmp_path / "empty",
        "TEXT": tmp_path / "text.zip",
        "FILE": tmp_path / "file.txt",
        "FLOATS": tmp_path / "floats.npz",
        "NONE": tmp_path / "none.zip",
    }


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("SMALL REAL", "small has images of 16x20, but those of {real} are of 28x28; pass --size N to resize them"),
        ("SMALL RUN", "small has images of 16x20, but those of {run} are of 28x28; pass --size N"),
        ("RUN SMALL", "small has images of 16x20, but those of {run} are of 28x28; pass --size N"),
        ("FAKE RUN --size 20", "size=20 is not that of the images of {run}, 28x28; omit it"),
        ("RUN REAL --size 20", "size=20 is not that of the images of {run}, 28x28; omit it"),
        ("RUN --size 20", "size=20 is not that of the images of {run}, 28x28; omit it"),
        ("FEW REAL", "few holds 99 usable images; an evaluation needs 100 to 100,000"),
        ("MIXED REAL", "pass --size N to resize them to NxN"),
        ("EMPTY REAL", "and no other files; use another"),
        ("TEXT REAL", "text.zip"),
        ("FLOATS REAL", "floats.npz holds images of float32, 200x28x28; images are uint8"),
        ("FAKE EMPTY", "empty holds no pictures"),
        ("FAKE FILE", "file.txt is neither a run folder, which holds config.json, nor a .safetensors file"),
        ("FAKE NONE", "none.zip does not exist; pass a folder or .zip file"),
        ("FILE REAL", "file.txt is neither a run folder"),
        ("FAKE", "fake holds images and no run; give the real images, too"),
        ("FAKE REAL --data.root /nowhere", "data.root and data.source are for the data of a run"),
        ("FAKE REAL --features inception:/nowhere", "evaluate.features=inception:/nowhere: the file can't be read"),
        ("FAKE REAL --features clip", "features=clip is not supported: it must be auto or inception:FILE"),
        ("FAKE REAL FEW", "does not belong to a flag"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    given: dict[str, Path], words: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", *(str(given.get(word, word)) for word in words.split())]) == 2
    error = capsys.readouterr().err
    assert says.format(real=given["REAL"], run=given["RUN"]) in error
    assert error.count("\n") == 1
    assert "data.root='" not in error
    assert "--data.size" not in error
    assert "--data.root" not in error


def test_the_result_of_a_folder_that_cannot_be_written(
    real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "fake-evaluation.json"
    result.mkdir()
    assert cli.main(["evaluate", str(write_pictures(tmp_path / "fake", FAKE)), str(real)]) == 2
    assert f"{result} can't be written" in capsys.readouterr().err
