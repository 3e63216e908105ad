"""Steps that are captured as graphs, on a device without hardware: the same bits as without graphs, and few operations
outside of the graph.

The fake device records the operations of a step and executes them again, as a CUDA graph does. It raises an error where
a capture would fail. The faults are planted in runs that are captured and in those that are not.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from capture_runs import FAULTS, FILLS, Run, final_state, replayed_steps
from device_runs import Case
from torch.utils import backend_registration

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"), reason="needs a newer torch"
)

SCHEDULES: dict[str, dict[str, Any]] = {
    "optimizer": {"final_learning_rate": 1e-5, "decay_images": 300, "beta1": 0.5, "generator_factor": 1.5},
    "penalty": {"r1": 1.0, "r2": 0.5, "final_factor": 0.1, "decay_images": 250},
    "ema": {"half_life": 500.0, "warm_up": 0.5},
}
SEED = Case("seed", "no", "plain")
DIGITS = Case("digits", "no", "plain")
PAIRED = {"train": {"fake_labels": "paired"}}

# What a graph could get wrong -> a run that has it.
RUNS: dict[str, Run] = {
    "schedules, beta1, warm-up of the average": Run(SEED, SCHEDULES),
    "stop inside a window, constant learning rates": Run(
        SEED, {name: SCHEDULES[name] for name in ("penalty", "ema")}, stop=6
    ),
    "rollback": Run(SEED, SCHEDULES, nonfinite=11),
    "labels that are drawn, bf16, file, mirror": Run(
        Case("digits", "bf16", "plain", memory="file"), {"data": {"mirror": True}}
    ),
    "fp16, with its scaler, two ranks": Run(Case("seed", "fp16", "plain", 2)),
    "exact shards, eight ranks": Run(Case("seed", "no", "exact", 8), SCHEDULES),
}
MORE_RUNS: dict[str, Run] = {
    "adaptive augmentation": Run(
        Case("seed", "no", "plain", augmented=True),
        SCHEDULES | {"augment": {"rise_images": 1_000}},
    ),
    "accumulation, bf16": Run(Case("r3", "bf16", "accumulation", 2), SCHEDULES),
    "labels of the real images, gradient penalty": Run(
        DIGITS, PAIRED | {"penalty": {"r1": 0.0, "r2": 0.0, "gradient": 3.0}}
    ),
    "first-order penalties": Run(Case("r3", "no", "plain"), {"penalty": SCHEDULES["penalty"] | {"order": "first"}}),
    "fp16, accumulation, stop": Run(Case("seed", "fp16", "accumulation"), stop=7),
    "images from a file": Run(Case("seed", "no", "plain", memory="file"), stop=6),
    "stacked images, rollback": Run(Case("stacked", "no", "plain"), nonfinite=12),
    "exact shards, bf16, labels, rollback": Run(Case("digits", "bf16", "exact", 8), nonfinite=9),
    "residual networks": Run(Case("cifar10", "no", "plain", memory="file"), {"model": {"blocks": 1, "expansion": 1}}),
}

# How each fault is seen: as the error of a capture, or in the results.
DIFFERENT = "the results differ"
SEEN: dict[str, str] = {
    "number of the step": DIFFERENT,
    "rate of the host": DIFFERENT,
    "item": "waits for the device: aten::_local_scalar_dense",
    "branch": "waits for the device: aten::_local_scalar_dense",
    "nonzero": "waits for the device: aten::nonzero",
    "mask": "waits for the device: aten::index",
    "copy to the host": "waits for the device: aten::_to_copy to the host",
    "copy from the host": "copies from the host during a capture",
    "synchronize": "waits for the device: synchronize",
    "replaced tensor": DIFFERENT,
    "rows that are not cleared": "index out of range|out of bounds",
    "inputs that are not copied": DIFFERENT,
    "generator that is not registered": "draws from a generator that is not registered",
    "generator that is seeded once": DIFFERENT,
    "row that is not advanced": DIFFERENT,
    "graph that is kept after a restore": DIFFERENT,
}

InProcess = Callable[..., Any]
"""A function of capture_runs, a run, and further arguments -> what it returns, in the other process."""


@pytest.fixture
def run(device_process: ProcessPoolExecutor, data_root: Path, labelled_root: Path, tmp_path: Path) -> InProcess:
    def run(function: Callable[..., Any], of: Run, **arguments: Any) -> Any:
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        root = labelled_root if of.case.conditional else data_root
        return device_process.submit(function, of, folder, root, **arguments).result()

    return run


@pytest.mark.parametrize(
    "name", [*RUNS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_RUNS)], ids=lambda name: name
)
def test_captured_steps_give_the_same_bits(name: str, run: InProcess) -> None:
    """Of all weights, of the optimizers' state, of the average, and of every line of metrics.jsonl."""
    of = (RUNS | MORE_RUNS)[name]
    assert run(final_state, of, captured=True) == run(final_state, of, captured=False)


@pytest.fixture(scope="module")
def correct(
    device_process: ProcessPoolExecutor, data_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[int | None, Any]:
    """The results of `faulty_run` without a fault; with a rollback, and without."""
    folder = tmp_path_factory.mktemp("correct")
    return {
        step: device_process.submit(final_state, faulty_run(step), folder / str(step), data_root, False).result()
        for step in (None, 9)
    }


def faulty_run(nonfinite: int | None) -> Run:
    return Run(SEED, SCHEDULES, nonfinite=nonfinite)


# Those whose plain run has other results than `correct`: the fault does something in both.
COMPARED = ("number of the step", "rate of the host", "replaced tensor")


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_seen(fault: str, run: InProcess, correct: dict[int | None, Any]) -> None:
    of, expected = faulty_run(9 if "restore" in fault else None), SEEN[fault]
    if expected != DIFFERENT:
        with pytest.raises(Exception, match=expected):
            run(final_state, of, captured=True, fault=fault)
        return
    plain = run(final_state, of, captured=False, fault=fault) if fault in COMPARED else correct[of.nonfinite]
    assert run(final_state, of, captured=True, fault=fault) != plain


def test_all_faults_are_tested() -> None:
    assert SEEN.keys() == FAULTS.keys()


@pytest.mark.parametrize(
    ("case", "operations"),
    [
        (Case("seed", "no", "plain"), {"aten::copy_": 1, FILLS: 2}),  # the indices
        (Case("digits", "bf16", "plain", 2), {"aten::copy_": 1, FILLS: 2}),
        (Case("seed", "no", "plain", memory="file"), {"aten::copy_": 1, FILLS: 2}),  # the pixels
        (Case("digits", "no", "plain", memory="file"), {"aten::copy_": 2, FILLS: 2}),  # the pixels and the indices
    ],
    ids=lambda value: f"{value.preset}-{value.memory}" if isinstance(value, Case) else "",
)
def test_a_replayed_step_has_few_operations_outside_of_the_graph(
    case: Case, operations: dict[str, int], run: InProcess
) -> None:
    """In most steps. Some copy the numbers or indices of the next ones."""
    *_, last = run(replayed_steps, Run(case))
    assert dict(last.operations) == operations
    assert not [each for each in last.collectives if "cpu" not in each]
