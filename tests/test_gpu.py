"""On a real GPU, what test_cuda.py checks with stand-ins. `pytest -m gpu`; skipped where there is none."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY

from gan_dist.outputs.folder import RunFolder
from gan_dist.results.diff import compare_hashes

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
from gpu_parts import philox
from gpu_parts.configs import capture_words, flag, measured_config, random_images, refusal, stored
from gpu_parts.context import SCRATCH, Context
from gpu_parts.processes import started, wait
from gpu_parts.workers import Job, Outcome, run_jobs

sys.path.pop(0)

import launching  # of the benchmarks, which gpu_parts has imported

pytestmark = pytest.mark.gpu
SEED, BLOCK = 20_261_129, 2**15
STEPS = 10


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    output = tmp_path_factory.mktemp("gpu")
    (output / SCRATCH).mkdir()
    gpus = torch.accelerator.device_count()
    return Context("tests", "cuda", gpus, False, None, output, output.name, time.time() + 600)


@pytest.fixture(scope="module")
def outcomes(context: Context) -> dict[str, Outcome]:
    """Runs of conv in one process: exact and fast, eager and as graphs, and one more of the exact graph."""
    jobs: dict[str, Job] = {}
    for mode, shards in (("exact", 4), ("fast", None)):
        for capture in ("eager", "graph", "again"):
            name = f"{mode}-{capture}"
            changes: dict[str, Any] = {
                "train": {"exact_shards": shards, "steps": STEPS, "log_hashes": 1},
                "run": {"dir": context.scratch / name},
            }
            captured = flag("capture", capture != "eager")
            config = measured_config("conv", context.scratch, 32, "no", False, changes, captured)
            assert not refusal(config)
            jobs[name] = Job("train", {"config": stored(config)})
    config = measured_config(
        "seed", context.scratch, 100, "no", False, flag("capture", True), {"run": {"dir": context.scratch / "measured"}}
    )
    jobs["measured"] = Job("measure", {"config": stored(config), "seconds": 0.2})
    jobs["random"] = Job("random numbers", {"seed": SEED, "block": BLOCK, "draws": 2})
    return dict(zip(jobs, run_jobs(context, list(jobs.values()), CUBLAS_WORKSPACE_CONFIG=":4096:8"), strict=True))


def result_of(outcomes: dict[str, Outcome], name: str) -> dict[str, Any]:
    result = outcomes[name].result
    assert result is not None, outcomes[name].problem
    return result


@pytest.mark.parametrize("other", ["exact-graph", "exact-again"])
def test_the_exact_mode_gives_the_same_bits_as_graphs_and_eagerly(
    other: str, outcomes: dict[str, Outcome], context: Context
) -> None:
    eager, graph = result_of(outcomes, "exact-eager"), result_of(outcomes, other)
    comparison = compare_hashes(context.scratch / "exact-eager", context.scratch / other)
    assert comparison.differs_at is None, comparison.describe()
    assert comparison.equal_steps == list(range(1, STEPS + 1))
    assert [row["loss/generator"] for row in eager["rows"]] == [row["loss/generator"] for row in graph["rows"]]


def test_the_fast_mode_gives_the_same_figures_as_graphs_and_eagerly(outcomes: dict[str, Outcome]) -> None:
    eager, graph = (result_of(outcomes, f"fast-{name}")["rows"][-1] for name in ("eager", "graph"))
    for name in ("loss/discriminator", "loss/generator"):
        assert graph[name] == pytest.approx(eager[name], rel=1e-2)


def test_random_numbers_are_those_of_every_gpu(outcomes: dict[str, Outcome]) -> None:
    result = result_of(outcomes, "random")
    uniform = np.concatenate([philox.uniform(SEED, BLOCK, draw) for draw in (0, 1)])
    assert np.array_equal(uniform, np.array(result["uniform"], np.float32))
    normal = np.concatenate([philox.normal(SEED, BLOCK, draw) for draw in (0, 1)])
    assert np.allclose(normal, result["normal"], atol=2e-5)


def test_a_step_needs_the_memory_of_its_tensors(outcomes: dict[str, Outcome]) -> None:
    result = result_of(outcomes, "measured")
    # 0.6 million weights, batches of 100 digits, 10,000 images; cuBLAS's workspaces: 32 MiB for each stream and thread.
    assert 10 < result["memory MB"] < 1_000
    assert result["images/s"] > 0


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_process_group_with_graphs_ends(ranks: int, context: Context) -> None:
    """NCCL's communicator is destroyed after the graphs that recorded its collectives; otherwise the end hangs."""
    if ranks > context.gpus:
        pytest.skip("needs 2 GPUs")
    folder, images = RunFolder(context.scratch / f"group-{ranks}"), random_images(context.scratch, (1, 28, 28), 400)
    words = [*launching.launcher(ranks, "--max_restarts", "0"), launching.TRAIN, "--data.name", "arrays"]
    words += ["--data.root", str(images), "--train.batch-size", "32", "--train.steps", "30", "--wandb.mode", "disabled"]
    words += ["--evaluate.every-epochs", "None", "--run.dir", str(folder.path), *capture_words(on=True)]
    log = Path(context.scratch / "log")
    with started(context, words, log) as process:
        assert wait(process, 120) == 0, log.read_text()[-2000:]
