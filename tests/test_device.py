"""The training loop on a fake accelerator: it mixes no devices and does not wait for the device between log points, and
the number of device operations per step is fixed.

`python tests/test_device.py` prints the current numbers, for the tables OPERATIONS and AUGMENTED.
"""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from device_runs import (
    FAULTS,
    REDUCTIONS,
    Case,
    Measured,
    draw_latents,
    final_state,
    lose_rank_between_log_points,
    make_config,
    measure,
    stop_run,
    wait_for_lost_rank,
)
from fake_device import DeviceError, register
from torch.utils import backend_registration

from gan_dist.config import PRESETS, InputError, validate
from gan_dist.distributed.device_wait import RUN_AHEAD

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"), reason="needs a newer torch"
)

RANKS = (1, 2, 8)
COUNTED_WITH = "2.14"  # other releases of torch may divide the same step into other operations
# Operations without a deterministic kernel on CUDA, according to torch.use_deterministic_algorithms.
NONDETERMINISTIC = tuple(
    f"aten::{name}"
    for name in (
        *("avg_pool3d_backward", "_adaptive_avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "fractional_max_pool"),
        *("max_unpool", "upsample_linear1d_backward", "upsample_bilinear2d_backward", "upsample_bicubic2d_backward"),
        *("upsample_trilinear3d_backward", "reflection_pad", "nll_loss", "_ctc_loss_backward", "_embedding_bag"),
        *("put_", "histc", "_histc", "bincount", "median.dim", "nanmedian.dim", "kthvalue", "grid_sampler"),
    )
)
HOST_STATE = ("images.", "stopping.")  # the images as they were read; the count of steps without a stop request

# Device operations of one step: (preset, precision, reduction) -> for 1, 2 and 8 ranks.
OPERATIONS: dict[tuple[str, str, str], tuple[int, ...]] = {
    ("seed", "no", "plain"): (127, 134, 134),
    ("seed", "no", "accumulation"): (239, 242, 242),
    ("seed", "no", "exact"): (811, 432, 148),
    ("seed", "bf16", "plain"): (148, 155, 155),
    ("seed", "bf16", "accumulation"): (265, 268, 268),
    ("seed", "bf16", "exact"): (951, 504, 169),
    ("seed", "fp16", "plain"): (176, 183, 183),
    ("seed", "fp16", "accumulation"): (297, 300, 300),
    ("seed", "fp16", "exact"): (1007, 544, 197),
    ("r3", "no", "plain"): (190, 197, 197),
    ("r3", "no", "accumulation"): (361, 364, 364),
    ("r3", "no", "exact"): (1287, 672, 211),
    ("r3", "bf16", "plain"): (227, 234, 234),
    ("r3", "bf16", "accumulation"): (419, 422, 422),
    ("r3", "bf16", "exact"): (1555, 808, 248),
    ("conv", "no", "plain"): (208, 215, 215),
    ("conv", "no", "accumulation"): (400, 403, 403),
    ("conv", "no", "exact"): (1438, 747, 229),
    ("conv", "bf16", "plain"): (261, 268, 268),
    ("conv", "bf16", "accumulation"): (488, 491, 491),
    ("conv", "bf16", "exact"): (1834, 947, 282),
    ("r3-conv", "no", "plain"): (202, 209, 209),
    ("r3-conv", "no", "accumulation"): (387, 390, 390),
    ("r3-conv", "no", "exact"): (1383, 720, 223),
    ("r3-conv", "bf16", "plain"): (241, 248, 248),
    ("r3-conv", "bf16", "accumulation"): (447, 450, 450),
    ("r3-conv", "bf16", "exact"): (1667, 864, 262),
    ("digits", "no", "plain"): (253, 260, 260),
    ("digits", "no", "accumulation"): (487, 490, 490),
    ("digits", "no", "exact"): (1795, 928, 278),
    ("digits", "bf16", "plain"): (312, 319, 319),
    ("digits", "bf16", "accumulation"): (585, 588, 588),
    ("digits", "bf16", "exact"): (2239, 1152, 337),
    ("stacked", "no", "plain"): (202, 209, 209),
    ("stacked", "no", "accumulation"): (387, 390, 390),
    ("stacked", "no", "exact"): (1383, 720, 223),
    ("stacked", "bf16", "plain"): (241, 248, 248),
    ("stacked", "bf16", "accumulation"): (447, 450, 450),
    ("stacked", "bf16", "exact"): (1667, 864, 262),
    ("pictures", "no", "plain"): (202, 209, 209),
    ("pictures", "no", "accumulation"): (387, 390, 390),
    ("pictures", "no", "exact"): (1383, 720, 223),
    ("pictures", "bf16", "plain"): (241, 248, 248),
    ("pictures", "bf16", "accumulation"): (447, 450, 450),
    ("pictures", "bf16", "exact"): (1667, 864, 262),
    ("cifar10", "no", "plain"): (993, 1000, 1000),
    ("cifar10", "no", "accumulation"): (2017, 2020, 2020),
    ("cifar10", "no", "exact"): (7701, 3882, 1018),
    ("cifar10", "bf16", "plain"): (1140, 1147, 1147),
    ("cifar10", "bf16", "accumulation"): (2239, 2242, 2242),
    ("cifar10", "bf16", "exact"): (8849, 4458, 1165),
}

# The same with an adaptive augmentation.
AUGMENTED: dict[tuple[str, str, str], tuple[int, ...]] = {
    ("seed", "no", "plain"): (264, 271, 271),
    ("seed", "fp16", "accumulation"): (569, 572, 572),
    ("r3", "bf16", "exact"): (3329, 1698, 475),
    ("r3-conv", "no", "plain"): (425, 432, 432),
    ("stacked", "bf16", "plain"): (505, 512, 512),
}


def is_valid(row: tuple[str, str, str]) -> bool:
    """Whether the package accepts the combination. It refuses fp16 with penalties."""
    try:
        validate(make_config(Case(*row)))
    except InputError:
        return False
    return True


PRECISIONS = ("no", "bf16", "fp16")
ROWS = [row for row in ((p, m, r) for p in PRESETS for m in PRECISIONS for r in REDUCTIONS) if is_valid(row)]

Run = Callable[..., Any]
"""A function of device_runs, a case, and further arguments -> what it returns, in the other process."""


@pytest.fixture
def run(device_process: ProcessPoolExecutor, data_root: Path, labelled_root: Path, tmp_path: Path) -> Run:
    def run(function: Callable[..., Any], case: Case, **arguments: Any) -> Any:
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        root = labelled_root if case.conditional else data_root
        return device_process.submit(function, case, folder, root, **arguments).result()

    return run


def check(case: Case, measured: Measured, orders: int = 2) -> None:
    """Check what a run did on the device between two log points.

    Args:
        case: of the run.
        measured: what it did.
        orders: number of epochs from which the first two windows of indices are.
    """
    expected = (*HOST_STATE, "store.images") if case.memory == "file" else HOST_STATE
    misplaced = [path for path in measured.host_state if not path.startswith(expected)]
    assert not misplaced, "state is not on the device"
    copies = [step.copies for step in measured.steps]
    assert copies == expected_copies(case, orders), "copies to the device"
    first, second, third = (step.collectives for step in measured.steps)
    assert first == second == third, "the collectives are not the same in each step"
    name = "all_gather_into_tensor" if case.reduction == "exact" else "all_reduce"
    collectives = [name] * 2 if case.ranks > 1 else []
    assert [each.split()[0] for each in first] == collectives, "not one collective per update"
    nondeterministic = {
        name for step in measured.steps for name in step.operations if name.startswith(NONDETERMINISTIC)
    }
    assert not nondeterministic, "the exact mode refuses operations without a deterministic kernel"
    _, second, third = (step.operations for step in measured.steps)  # the first step also creates Adam's state
    assert second == third, f"the operations are not the same in each step: {second - third}, {third - second}"
    if torch.__version__.startswith(COUNTED_WITH) and case.memory == "device":
        check_count(case, third)


def expected_copies(case: Case, orders: int) -> list[int]:
    """The copies to the device in each step. The first step fetches two windows, since the loader is one ahead."""
    config = make_config(case)
    mirrored, labelled = config.data.mirror, config.model.labels == "conditional"
    if case.memory == "device":  # the orders of the epochs; which images of two windows are mirrored
        return [orders + 2 * mirrored, 0, 0]
    return [1 + (mirrored or labelled)] * 3  # the pixels; the indices


def check_count(case: Case, operations: Counter[str]) -> None:
    row = case.preset, case.precision, case.reduction
    table, name = (AUGMENTED, "AUGMENTED") if case.augmented else (OPERATIONS, "OPERATIONS")
    assert row in table, f"{name} has no row {row}; python tests/test_device.py prints the table"
    expected, count = table[row][RANKS.index(case.ranks)], operations.total()
    assert count == expected, (
        f"{case}: a step takes {count} device operations instead of {expected}. If this is intended, update the table "
        f"{name}; python tests/test_device.py prints it. The operations: {dict(operations.most_common())}"
    )


# cifar10 at its depth takes as long as all others together; a whole run of it is among the tests below.
SLOW_ROWS = [pytest.param(row, marks=pytest.mark.slow if row[0] == "cifar10" else ()) for row in ROWS]


@pytest.mark.parametrize("row", SLOW_ROWS, ids="-".join)
def test_steps_stay_on_the_device(row: tuple[str, str, str], run: Run) -> None:
    for ranks in RANKS:
        case = Case(*row, ranks)
        check(case, run(measure, case))


@pytest.mark.parametrize("row", AUGMENTED, ids="-".join)
def test_augmented_steps_stay_on_the_device(row: tuple[str, str, str], run: Run) -> None:
    for ranks in RANKS:
        case = Case(*row, ranks, augmented=True)
        check(case, run(measure, case))


@pytest.mark.parametrize("preset", PRESETS)
def test_steps_with_images_from_a_file_wait_for_nothing(preset: str, run: Run) -> None:
    for ranks in RANKS:
        case = Case(preset, "no", "plain", ranks, memory="file")
        check(case, run(measure, case))


def test_the_table_has_only_rows_that_are_tested() -> None:
    assert OPERATIONS.keys() == set(ROWS)


@pytest.mark.parametrize(
    ("fault", "message"),
    {
        "host tensor": "mixes tensors of the device and of the host",
        "host scalar": "mixes tensors of the device and of the host",
        "host index": "mixes tensors of the device and of the host",
        "item": "waits for the device: aten::_local_scalar_dense",
        "branch": "waits for the device: aten::_local_scalar_dense",
        "mask": "waits for the device: aten::index",
        "copy to the host": "waits for the device: aten::_to_copy to the host",
        "asynchronous copy to the host": "waits for the device: aten::_to_copy to the host",
        "copy into pinned memory that waits": "waits for the device: aten::copy_ to the host",
        "copy into a host tensor": "waits for the device: aten::copy_ to the host",
        "synchronize": "waits for the device: synchronize",
        "host generator": "draws from a generator of the host",
        "object collective": "waits for the device: all_gather_object",
        "collective of a host tensor": "a tensor is on cpu",
        "collective of a column": "not contiguous",
        "collective": "not one collective per update",
        "collective in one step": "the collectives are not the same in each step",
        "copy to the device": "copies to the device",
        "operation": "device operations instead of",
        "operation without a deterministic kernel": "without a deterministic kernel",
        "operation in one step": "the operations are not the same in each step",
        "state on the host": "state is not on the device",
    }.items(),
)
def test_faults_in_the_loop_are_found(fault: str, message: str, run: Run) -> None:
    case = Case("seed", "no", "plain", ranks=2)
    with pytest.raises((DeviceError, AssertionError), match=message):
        check(case, run(measure, case, fault=fault))


def test_all_faults_are_tested() -> None:
    (tested,) = (mark.args[1] for mark in test_faults_in_the_loop_are_found.pytestmark)
    assert dict(tested).keys() == FAULTS.keys()


def test_a_resumed_run_stays_on_the_device(run: Run) -> None:
    for case in (Case("seed", "fp16", "plain", ranks=2), Case("r3", "bf16", "exact", ranks=2)):
        check(case, run(measure, case, resume=True), orders=3)  # it begins inside the first epoch


@pytest.mark.parametrize(
    "case",
    [
        Case("seed", "no", "plain"),
        Case("r3-conv", "bf16", "accumulation"),
        Case("stacked", "no", "exact"),
        Case("r3", "no", "plain", memory="file"),
        Case("digits", "bf16", "exact"),
        Case("conv", "no", "accumulation", augmented=True),
        Case("cifar10", "no", "plain"),
    ],
    ids=lambda case: case.preset,
)
def test_whole_runs_compute_what_the_cpu_computes(case: Case, run: Run) -> None:
    """With log points, samples and a checkpoint."""
    assert run(final_state, case, on_device=True) == run(final_state, case, on_device=False)


@pytest.mark.parametrize(
    "case", [Case("seed", "fp16", "plain", 2), Case("r3", "no", "exact", 8)], ids=lambda c: c.preset
)
def test_whole_runs_work_with_several_ranks(case: Case, run: Run) -> None:
    assert run(final_state, case, on_device=True)["rows"]


def test_a_lost_rank_is_noticed_before_the_host_waits_for_the_device(run: Run) -> None:
    """The copies to the host have no timeout, and NCCL's watchdog does not see the collectives of graphs."""
    failed = run(wait_for_lost_rank, Case("seed", "no", "plain", 2))
    assert failed == "step 3: the device waits for rank 1, which is lost; copies: 0"


def test_a_rank_lost_between_log_points_is_noticed(run: Run) -> None:
    failed = run(lose_rank_between_log_points, Case("seed", "no", "plain", 2))
    assert failed == f"step {RUN_AHEAD + 1}: the device waits for rank 1, which is lost"


@pytest.mark.parametrize("reduction", ["plain", "exact"])
def test_all_ranks_stop_at_the_same_step_however_far_a_host_is_ahead_of_its_device(reduction: str, run: Run) -> None:
    """The request travels with the next step. Every host acts on it when the slowest one certainly knows of it."""
    for late in (0, RUN_AHEAD):
        stopped, counts = run(stop_run, Case("seed", "no", reduction, 2), at=3, late=late)
        # The last count that each host reads may be as old as that of step 5.
        assert (stopped, counts[-1]) == (3 + RUN_AHEAD + 2, 4), late


def test_a_gpu_draws_no_more_numbers_at_once_than_small_ones_have_threads(run: Run) -> None:
    """Otherwise they would depend on the GPU's model."""
    counts, same = run(draw_latents, Case("seed", "no", "plain"))
    assert counts == [32_768, 32_768, 32_768, 1_696]
    assert same


def print_table() -> None:
    from conftest import draw_images, idx_bytes, write_labelled, write_root

    root = Path(tempfile.mkdtemp())
    write_root(root / "plain", idx_bytes(draw_images()))
    write_labelled(root / "labelled")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), register) as process:
        for augmented, row in [(False, row) for row in ROWS] + [(True, row) for row in AUGMENTED]:
            counts = []
            for ranks in RANKS:
                case, folder = Case(*row, ranks, augmented=augmented), root / f"{row}-{ranks}-{augmented}"
                data = root / ("labelled" if case.conditional else "plain")
                measured: Measured = process.submit(measure, case, folder, data).result()
                counts.append(measured.steps[-1].operations.total())
            print(f"    {row}: {tuple(counts)},".replace("'", '"'))
    shutil.rmtree(root)


if __name__ == "__main__":
    print_table()
