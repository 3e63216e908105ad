"""The model of a step on GPUs: its limits, its all-reduces, and the tables of docs/scaling.md."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from accelerate import Accelerator
from conftest import REPOSITORY

from gan_dist.config import PRESETS, Config, TrainConfig
from gan_dist.trainer.gradients import choose_gradient_sync


@pytest.fixture(scope="module")
def benchmarks() -> Any:
    """The modules gpu_model, gpu_figures and gpu_tables."""
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    try:
        import gpu_figures
        import gpu_model
        import gpu_tables
    finally:
        sys.path.pop(0)
    return SimpleNamespace(model=gpu_model, figures=gpu_figures, tables=gpu_tables)


def test_auto_takes_the_buckets_of_ddp_for_large_networks_on_gpus(benchmarks: Any) -> None:
    counts = benchmarks.figures.COUNTS

    def way(preset: str, device: str = "cuda", ranks: int = 8, **train: Any) -> str:
        accelerator = mock.Mock(spec=Accelerator, device=torch.device(device), num_processes=ranks)
        config = dataclasses.replace(Config(), train=TrainConfig(**train))
        return choose_gradient_sync(config, max(counts[preset].generator, counts[preset].discriminator), accelerator)

    assert [preset for preset in counts if way(preset) == "ddp"] == ["cifar10"]
    assert way("cifar10", device="cpu") == way("cifar10", ranks=1) == way("cifar10", exact_shards=8) == "flat"
    assert way("cifar10", capture="on") == "flat"  # a graph can't replay DDP's hooks


def test_an_all_reduce_takes_longer_with_more_bytes_and_hosts_and_nothing_on_one_gpu(benchmarks: Any) -> None:
    model, machine = benchmarks.model, benchmarks.figures.H100
    sizes = [4.0 * 10**i for i in range(10)]
    assert {model.all_reduce(size, 1, machine) for size in sizes} == {0.0}
    for gpus in model.GPUS[1:]:
        times = [model.all_reduce(size, gpus, machine) for size in sizes]
        assert times == sorted(times), gpus
        assert times[-1] > 2 * (gpus - 1) / gpus * sizes[-1] / machine.nvlink * 0.99  # a ring moves so many bytes
    for size in sizes:
        hosts = [model.all_reduce(size, gpus, machine) for gpus in (8, 16, 64, 512)]
        assert hosts == sorted(hosts), size


def test_the_limits_of_a_step(benchmarks: Any) -> None:
    model, figures = benchmarks.model, benchmarks.figures
    assert figures.COUNTS.keys() == PRESETS.keys()
    for preset in PRESETS:
        operations = model.OPERATIONS[preset, "bf16", "plain"]
        for graphs in (False, True):
            times = [model.step(preset, batch, 1, graphs) for batch in (0, 1, 10, 10**3, 10**5, 10**7)]
            assert times == sorted(times)
            # The smallest batch takes the launches, and the largest one arithmetic and traffic.
            floor = operations[0] * (figures.KERNEL if graphs else figures.EAGER)
            assert times[0] == pytest.approx(floor, rel=0 if not graphs else 1)
            assert times[-1] == pytest.approx(100 * times[-2], rel=0.1)
            assert model.step(preset, 10**7, 1, True) <= times[-1]
            assert model.efficiency(preset, 128, 1, graphs) == 1
            kept = [model.efficiency(preset, 8192, gpus, graphs) for gpus in model.GPUS]
            assert all(1 >= a >= b * 0.999 for a, b in itertools.pairwise(kept)), kept
            bound = model.launch_bound(preset, graphs)
            assert model.step(preset, bound, 1, graphs) < 2 * times[0] <= model.step(preset, 2 * bound, 1, graphs)
            half, fastest, speedup = model.limits(preset, 1024, graphs)
            assert model.efficiency(preset, 1024, half, graphs) >= 0.5
            assert speedup == fastest * model.efficiency(preset, 1024, fastest, graphs)
    # Images from a file: the model's step is the slower of the two.
    assert model.step("pictures", 10**6, 1, True, file=True) == 10**6 * model.image_seconds("pictures")
    assert model.step("cifar10", 128, 1, True, file=True) == model.step("cifar10", 128, 1, True)


@pytest.mark.slow
def test_the_counts_are_those_of_a_real_step(benchmarks: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    import gpu_counts

    (*weights, few, low), (*_, more, high) = (gpu_counts.count("seed", batch, tmp_path) for batch in (2, 4))
    counts = benchmarks.figures.COUNTS["seed"]
    assert weights == [counts.discriminator, counts.generator]
    assert (more - few) / 2 == few / 2 == pytest.approx(counts.flops, rel=1e-3)
    assert (high - low) / 2 == pytest.approx(counts.traffic, rel=0.05)  # operations differ between releases of torch


def test_the_form_of_the_model_fits_published_runs(benchmarks: Any) -> None:
    figures, errors = benchmarks.figures, {}
    for name, rows in figures.PUBLISHED.items():
        assert len(rows) == 16
        assert all(row.batch % (row.gpus * row.images) == 0 for row in rows), name
        errors |= benchmarks.tables.check(rows)
    assert max(map(abs, errors.values())) < 0.08  # docs/scaling.md says 8 %
    alone = {row: error for row, error in errors.items() if row.gpus == 1}
    assert max(map(abs, alone.values())) < 1e-9  # fitted exactly


def test_the_page_has_the_tables_of_the_program(
    benchmarks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (REPOSITORY / "docs" / "scaling.md").read_text()
    advice = "python benchmarks/gpu_tables.py --write docs/scaling.md"
    assert "\n".join(benchmarks.tables.sections()) in page, advice
    (tmp_path / "page.md").write_text(page.replace("512 GPUs", "many GPUs"))
    monkeypatch.setattr(sys, "argv", ["gpu_tables.py", "--write", str(tmp_path / "page.md")])
    benchmarks.tables.main()
    assert (tmp_path / "page.md").read_text().count("512 GPUs, with graphs") == 1
    (tmp_path / "page.md").write_text("none")
    with pytest.raises(SystemExit):
        benchmarks.tables.main()
    assert "lacks the lines" in capsys.readouterr().err
    assert (tmp_path / "page.md").read_text() == "none"
