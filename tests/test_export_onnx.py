"""gan-dist export --format onnx: the model in onnxruntime."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_labelled

import gan_dist
from gan_dist import cli, train
from gan_dist.results.export import onnx
from gan_dist.seeding import sample_latents

RUNS = {
    "mlp": ["seed"],
    "digits": ["digits"],
    "residual": ["cifar10", "--data.name", "mnist", "--model.channels", "8", "--model.max-channels", "16"],
}


@pytest.fixture(scope="module")
def run_of(flags: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("onnx")
    root = write_labelled(folder / "data")

    def make(name: str) -> Path:
        preset, *more = RUNS[name]
        if not (folder / name).exists():
            words = flags(folder / name, "--train.steps", "8", "--wandb.mode", "disabled")
            assert train.main([preset, *words, "--data.root", str(root), *more]) == 0
        return folder / name

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_onnxruntime_generates_the_images_of_torch(
    name: str, run_of: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    run, output = run_of(name), tmp_path / "a.onnx"
    capfd.readouterr()
    assert cli.main(["export", str(run), "--format", "onnx", "--output", str(output)]) == 0
    printed = capfd.readouterr()
    assert (printed.out.count("\n"), printed.err) == (1, "")
    assert f"{output}: " in printed.out
    assert "256 images differ from torch by at most " in printed.out
    assert sorted(tmp_path.iterdir()) == [output]

    session, generator = onnxruntime.InferenceSession(output), gan_dist.load_generator(run)
    latents = sample_latents(5, 64, 3)
    labels = None if generator.classes is None else torch.tensor([3, 1, 4, 1, 5])
    given = {"latents": latents.numpy()} | ({} if labels is None else {"labels": labels.numpy()})
    assert {value.name: value.type for value in session.get_inputs()} == {
        name: {"latents": "tensor(float)", "labels": "tensor(int64)"}[name] for name in given
    }
    (images,) = session.run(["images"], given)
    assert np.abs(images - generator(latents, labels).numpy()).max() < 1e-5
    described = session.get_modelmeta().custom_metadata_map
    assert json.loads(described["config"])["model"]["latent_dim"] == 64
    assert str(run.parent) not in described["config"]  # it holds the paths of the run and of its data
    assert described["step"] == "8"
    classes = json.loads(described["classes"]) if "classes" in described else None
    assert classes == (None if generator.classes is None else list(generator.classes))


@pytest.mark.slow
def test_a_model_that_generates_other_images_is_not_written(
    run_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    convert = onnx.convert

    def wrong(generator: Any, metadata: Any) -> bytes:
        generator.layers[0].bias.add_(1e-3)
        content = convert(generator, metadata)
        generator.layers[0].bias.sub_(1e-3)
        return content

    monkeypatch.setattr(onnx, "convert", wrong)
    run, output = run_of("mlp"), tmp_path / "a.onnx"
    capsys.readouterr()
    assert cli.main(["export", str(run), "--format", "onnx", "--output", str(output)]) == 1
    error = capsys.readouterr().err
    assert "onnxruntime generates other images than torch" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    assert cli.main(["export", "run", "--format", "onnx", "--output", str(tmp_path / "a.onnx")]) == 2
    error = capsys.readouterr().err
    assert error == "gan-dist: format=onnx needs onnxscript; pip install 'gan_dist[onnx]'\n"
