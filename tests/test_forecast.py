"""The forecast of a run: what it says, and what it refuses."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from gan_dist.cli import describes_a_run, main
from gan_dist.data.readers.idx import write_idx_images

FLAGS = ["--data.source", "local", "--train.batch-size", "16", "--train.epochs", "2", "--evaluate.every-epochs", "None"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 28, 28), dtype=np.uint8)
    write_idx_images(tmp_path / "data", "mnist", pixels)
    return tmp_path / "data"


def test_a_run_that_fits(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert main(["check", "conv", "--data.root", str(data), *FLAGS, "--run.dir", str(folder)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"steps +│ 25 ", said)
    assert re.search(r"largest batch size +│ 200 ", said)  # no more than the images
    assert re.search(r"images per second +│ [1-9]", said)
    assert re.search(r"memory, peak of a step +│ (?!0\.00)[\d.]+ [GM]B", said)
    assert not folder.exists()


def test_a_run_that_does_not_fit(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["check", "--data.root", str(data), *FLAGS, "--model.hidden-dim", "1000000"]
    assert main([*words, "--run.dir", str(tmp_path / "run")]) == 1
    assert "of memory, and" in " ".join(capsys.readouterr().out.split())


def test_data_that_are_not_there_are_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "conv", "--data.root", str(tmp_path), "--data.source", "local"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_preset_or_a_flag_of_a_training_asks_for_a_forecast() -> None:
    assert describes_a_run(["r3"])
    assert describes_a_run(["--train.epochs=3"])
    assert not describes_a_run([])
    assert not describes_a_run(["--folder", "a.b", "--processes", "2"])
