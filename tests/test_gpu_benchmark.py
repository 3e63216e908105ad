"""benchmarks/gpu.py on the CPU: each part for real in its short form, and what becomes of parts and jobs that fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, run_command

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import gpu
from gpu_parts import (
    bits,
    calibration,
    configs,
    half,
    jobs,
    machine,
    philox,
    processes,
    quality,
    scaling,
    speed,
    workers,
)
from gpu_parts.clock import StepClock
from gpu_parts.context import SCRATCH, Context
from gpu_parts.rows import FAILED, MEASURED, NOT_RUN, OK, Row, RowFile, markdown
from gpu_parts.workers import Job, Outcome, run_jobs

sys.path.pop(0)

from torch.autograd import DeviceType

from gan_dist.config import PRESETS, from_dict

H100S = {"gpus": 8, "TFLOP/s no": 50.0, "TFLOP/s bf16": 700.0, "kernel us": 1.5, "launch us": 5.0}


def context_of(tmp_path: Path, part: str = "speed", **more: Any) -> Context:
    values = {"device": "cpu", "gpus": 2, "short": True, "data": None, "mark": "test", "deadline": time.time() + 60}
    (tmp_path / SCRATCH).mkdir(exist_ok=True)
    return Context(part=part, output=tmp_path, **values | more)


def test_philox_predicts_what_gpus_draw() -> None:
    # Known answers of Random123.
    answers = {0: "6627e8d5 e169c58d bc57ac4c 9b00dbd8", 2**32 - 1: "408f276d 41c83b0e a20bc7c6 6d5451fd"}
    for word, answer in answers.items():
        block = philox.philox(np.full((1, 4), word, np.uint32), word * (2**32 + 1))[0]
        assert " ".join(f"{number:08x}" for number in block) == answer
    # What torch prints on NVIDIA GPUs after torch.manual_seed(0): torch.rand(10) twice, or torch.randn(8).
    first = [0.3990, 0.5167, 0.0249, 0.9401, 0.9459, 0.7967, 0.4150, 0.8203, 0.2290, 0.9096]
    second = [0.9722, 0.7910, 0.4690, 0.3300, 0.3345, 0.3783, 0.7640, 0.6405, 0.1103, 0.3594]
    normal = [-0.9247, -0.4253, -2.6438, 0.1452, -0.1209, -0.5797, -0.6229, -0.3284]
    drawn = philox.uniform(0, 10), philox.uniform(0, 10, draw=1), philox.normal(0, 8)
    for expected, numbers in zip((first, second, normal), drawn, strict=True):
        assert np.abs(numbers - expected).max() < 6e-5


def test_random_numbers_that_differ_are_seen(tmp_path: Path) -> None:
    context = context_of(tmp_path, "machine", device="cuda", gpus=1, short=False)
    drawn = {
        name: np.concatenate([draw(machine.SEED, 8, i) for i in range(machine.DRAWS)]).tolist()
        for name, draw in (("uniform", philox.uniform), ("normal", philox.normal))
    }
    for name, index, other in (("uniform", 0, 0.0), ("uniform", 3, 0.5), ("normal", 9, 0.1)):
        result = {key: list(values) for key, values in drawn.items()} | {"sha256": "0"}
        if other:
            result[name][index] = other
        machine.compare_numbers(context, result, 8, on_gpu=True)
    rows = context.rows.read()
    assert [row.state for row in rows] == [OK, FAILED, FAILED]
    assert "1 uniform numbers differ" in rows[1].note
    assert "normal numbers differ" in rows[2].note


def test_parts_that_raise_end_or_hang_do_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "GRACE", 0.1)
    monkeypatch.setattr(gpu, "SHORTEST", 1.0)
    monkeypatch.setitem(gpu.PARTS, "scaling", ("gpu_parts.scaling", 0.01))
    words = ["--short", "--device", "cpu", "--minutes", "0.5", "--only", "bits", "speed", "scaling", "fp16"]
    words += ["--output", str(tmp_path), "--plant", "raise:bits", "exit:speed", "hang:scaling"]
    assert gpu.main(words) == 1
    written = json.loads((tmp_path / "gpu.json").read_text())
    rows = {row["part"]: (row["state"], row["note"]) for row in written["rows"]}
    assert rows == {
        "bits": (FAILED, "RuntimeError: a planted fault"),
        "speed": (FAILED, "ended with exit code 7: it printed nothing"),
        "scaling": (FAILED, "did not end within 1 s"),
        "fp16": (NOT_RUN, "needs a GPU"),
    }
    table = (tmp_path / "gpu.md").read_text()
    assert all(f"## {part}" in table for part in rows)
    assert "| scaling | failed | did not end within 1 s |" in table
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu.json", "gpu.md"]
    assert not processes.marked(f"{os.getpid()}-")
    assert gpu.main(["--device", "cpu", "--minutes", "0", "--output", str(tmp_path)]) == 0  # nothing failed
    assert {row["state"] for row in json.loads((tmp_path / "gpu.json").read_text())["rows"]} == {NOT_RUN}
    assert "8 rows, 0 failed" in capsys.readouterr().out


WORKER = """
import json, os, sys, time
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
for job in json.load(open(arguments["--jobs"])):
    write = lambda line: open(arguments["--results"], "a").write(json.dumps(line) + chr(10))
    write({"begin": job["kind"]})
    if job["kind"] == "hang":
        time.sleep(1000)
    if job["kind"] == "exit":
        sys.exit("ValueError: it is gone")
    failed = job["kind"] == "raise"
    result = None if failed else {"worker": os.getpid()}
    write({"result": result, "problem": "KeyError: x" * failed, "expected": False, "last": failed})
    if failed:
        sys.exit(3)
sys.exit(4 if job["kind"] == "bad end" else 0)
"""


def test_jobs_that_raise_end_or_hang_do_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    monkeypatch.setattr(workers, "SCRIPT", script)
    monkeypatch.setattr(workers, "START", 1.0)
    monkeypatch.setattr(workers, "SHORTEST", 0.0)
    kinds = ["a", "b", "raise", "c", "exit", "d", "hang", "e"]
    outcomes = list(run_jobs(context_of(tmp_path), [Job(kind) for kind in kinds], limit=1.0))
    assert [outcome.job.kind for outcome in outcomes] == kinds
    problems = {outcome.job.kind: outcome.problem for outcome in outcomes if outcome.result is None}
    assert problems == {
        "raise": "KeyError: x",
        "exit": "the process ended with exit code 1: ValueError: it is gone",
        "hang": "took longer than 1 s: it printed nothing",
    }
    of = {outcome.job.kind: outcome.result["worker"] for outcome in outcomes if outcome.result}
    assert of["a"] == of["b"] != of["c"] != of["d"] != of["e"]
    ended_badly = context_of(tmp_path, "scaling")
    assert all(outcome.result for outcome in run_jobs(ended_badly, [Job("a"), Job("bad end")]))
    assert [(row.name, row.state, row.note) for row in ended_badly.rows.read()] == [
        ("the end of 1 rank", FAILED, "ended with exit code 4: it printed nothing")
    ]
    assert not context_of(tmp_path).rows.read()
    late = context_of(tmp_path, deadline=time.time() + 0.5)
    assert [(o.problem, o.expected) for o in run_jobs(late, [Job("hang"), Job("a")], limit=9.0)] == [
        ("no time left", True)
    ] * 2


def test_a_wait_beyond_the_deadline_is_no_failure(tmp_path: Path) -> None:
    context = context_of(tmp_path, deadline=time.time() - 1)
    with context.checking("a"):
        context.wait_limit(5.0)
    with context.checking("b"):
        raise ValueError("wrong")
    sleeping = subprocess.Popen(["sleep", "9"])
    with context_of(tmp_path, deadline=time.time() + 0.1).checking("c"):
        processes.wait_in_time(context_of(tmp_path, deadline=time.time() + 0.1), sleeping, 5.0)
    sleeping.kill()
    sleeping.wait()
    assert [(row.name, row.state, row.note) for row in context.rows.read()] == [
        ("a", NOT_RUN, "no time left"),
        ("b", FAILED, "ValueError: wrong"),
        ("c", NOT_RUN, "no time left"),
    ]


def test_rows_are_kept_until_the_last_complete_one(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows")
    assert file.read() == []
    rows = [
        Row("bits", "a | b", OK, {"loss": 1.23456, "n": 12_345}),
        Row("bits", "c", MEASURED, {"x": None}, "two\nlines"),
    ]
    for row in rows:
        file.add(row)
    with open(file.file, "a") as stream:
        stream.write('{"part": "bi')
    assert file.read() == rows
    table = markdown({"gpus": 2, "memory": None}, rows)
    assert "| a \\| b | ok | 1.235 | 12,345 |  |  |" in table
    assert "| c | measured |  |  |  | two lines |" in table


def test_the_plan_of_eight_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every configuration of the full form is valid, in the flags that this version has."""
    counts = {gpus: context_of(tmp_path, gpus=gpus).rank_counts for gpus in (1, 2, 6, 8)}
    assert counts == {1: [1], 2: [1, 2], 6: [1, 2, 4, 6], 8: [1, 2, 4, 8]}
    images: list[tuple[int, ...]] = []
    monkeypatch.setattr(configs, "random_images", lambda folder, shape, count: images.append(shape) or folder / "x.npz")
    asked: list[tuple[int, list[Job]]] = []

    def record(context: Context, jobs: list[Job], ranks: int = 1, *rest: Any, **more: Any) -> list[Outcome]:
        asked.append((ranks, list(jobs)))
        return [Outcome(job, None, "no time left", expected=True) for job in jobs]

    for module in (bits, speed, scaling, half):
        monkeypatch.setattr(module, "run_jobs", record, raising=False)
    context = context_of(tmp_path, device="cuda", gpus=8, short=False, machine=H100S)
    for module in (bits, speed, scaling, half):
        asked.clear()
        module.run(context)
        assert all(job.kind in ("train", "measure", "loop", "all-reduce") for _, each in asked for job in each)
        for ranks, each in asked:
            for job in each:
                if "config" in job.arguments:
                    from_dict(job.arguments["config"])
                    train = job.arguments["config"]["train"]
                    assert train["batch_size"] % ranks == 0
                    assert (train["exact_shards"] or ranks) % ranks == 0
        if module is speed:
            measured = [job for _, each in asked for job in each]
            assert len(measured) > 60
            assert {job.arguments["config"]["train"]["batch_size"] for job in measured} == set(speed.BATCHES)
        if module in (bits, scaling):
            assert {ranks for ranks, _ in asked} == {1, 2, 4, 8}
    rows = context.rows.read()
    assert {row.state for row in rows} == {NOT_RUN}
    refused = [row.note for row in rows if "incompatible" in row.note]
    assert all("fp16" in note for note in refused), [note for note in refused if "fp16" not in note]
    assert set(images) >= {(1, 28, 28), (3, 28, 28), (3, 32, 32), (3, 64, 64)}
    # What takes too long for this machine is not started: cifar10 in fp32 at 8,192.
    assert any("would take about" in row.note for row in rows)


@pytest.mark.parametrize("count", [32, 81, 11_121])
def test_random_images_of_all_classes_remain_without_every_tenth(count: int, tmp_path: Path) -> None:
    file = configs.random_images(tmp_path, (1, 4, 4), count)
    labels = np.load(file)["y_train"]
    assert len(labels) == count
    assert all(len(set(np.delete(labels, np.s_[first::10]))) == 10 for first in range(10))
    assert configs.random_images(tmp_path, (1, 4, 4), count) == file


def test_shares_of_the_floors(tmp_path: Path) -> None:
    context = context_of(tmp_path, device="cuda", short=False, machine=H100S)
    figures = {"images/s": 1.0, "ms": 1.0, "kernel ms": 0.2}
    case = speed.Case("seed", "bf16", 8_192, capture=True)
    values = speed.columns(context, case, figures)
    assert values["launch floor / time"] == pytest.approx(
        speed.gpu_model.OPERATIONS["seed", "bf16", "plain"][0] * 1.5e-3
    )
    assert values["arithmetic floor / time"] == pytest.approx(8_192 * 6.738e6 / 700e12 * 1e3)
    assert speed.predicted_seconds(context, "cifar10", "no", 8_192) > 100
    assert set(PRESETS) <= set(speed.COUNTS)
    strong = scaling.figures({"images/s": 300.0, "ms": 1.0}, 200.0, 2)
    assert (strong["speedup"], strong["efficiency"]) == (1.5, 0.75)


def test_processes_have_no_rank_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark may be started inside a job of SLURM or of a launcher."""
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "ACCELERATE_USE_CPU", "WANDB_API_KEY", "NCCL_DEBUG"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    on_gpu = processes.environment(context_of(tmp_path, device="cuda"), "m")
    assert not {"RANK", "WORLD_SIZE", "SLURM_PROCID", "ACCELERATE_USE_CPU", "WANDB_API_KEY"} & on_gpu.keys()
    assert (on_gpu["NCCL_DEBUG"], on_gpu["CUDA_VISIBLE_DEVICES"], on_gpu["HF_HUB_OFFLINE"]) == ("1", "2,3", "1")
    assert on_gpu["GAN_DIST_CACHE"].startswith(str(tmp_path))
    assert processes.environment(context_of(tmp_path), "m")["CUDA_VISIBLE_DEVICES"] == ""


def test_random_numbers_that_do_not_depend_on_the_device() -> None:
    drawn = []
    for seed in (1, 2):  # as the generators of two devices
        generator = torch.Generator().manual_seed(seed)
        with jobs.SameDraws():
            rows = torch.empty(2, 4)
            drawn.append([rows[0].normal_(generator=generator), rows[1].uniform_(generator=generator), rows.relu()])
    assert all(map(torch.equal, *drawn))
    assert not torch.equal(torch.empty(4).normal_(generator=generator), drawn[0][0])


def test_a_hidden_lack_of_memory_is_found() -> None:
    lack, other = torch.OutOfMemoryError("2 GiB"), RuntimeError("the capture failed")
    other.__context__ = lack
    assert jobs.out_of_memory(lack) is jobs.out_of_memory(other) is lack
    assert jobs.out_of_memory(RuntimeError()) is None


def test_the_kernels_of_a_gpu_are_counted() -> None:
    def event(kind: DeviceType, name: str, us: float, annotation: bool = False) -> SimpleNamespace:
        times = {"self_device_time_total": us, "self_cpu_time_total": us}
        return SimpleNamespace(device_type=kind, name=name, is_user_annotation=annotation, **times)

    gpu_event, cpu_event = DeviceType.CUDA, DeviceType.CPU
    events = [
        event(gpu_event, "gemm", 30.0),
        event(gpu_event, "Memcpy HtoD", 10.0),
        event(gpu_event, "span", 99.0, True),
    ]
    events += [event(cpu_event, "cudaGraphLaunch", 5.0)]
    events += [event(cpu_event, "cudaMemcpyAsync", 5.0), event(cpu_event, "aten::mm", 7.0)]
    clock = object.__new__(StepClock)
    clock.device, clock.profiled, clock.steps, clock.spent = torch.device("cuda"), 2, 10, 0.5
    clock._profile = SimpleNamespace(events=lambda: events)  # type: ignore[assignment]
    found = clock.figures(100)
    assert found == {"images/s": 2_000.0, "ms": 50.0, "steps": 10, "kernel ms": 0.02, "kernels": 1.0, "launches": 1.0}
    events[:] = events[3:]  # without CUPTI
    assert clock.figures(100)["kernel ms"] is None


def test_the_description_of_a_machine_with_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name="NVIDIA H100", total_memory=85e9, multi_processor_count=132, major=9, minor=0)
    answers = {
        "query-gpu": "NVIDIA H100, 580.1, 1980 MHz, 2619 MHz, 700.00 W, Default, Disabled",
        "topo": "\tGPU0\tGPU1\nGPU0\t X \tNV18\t0-63\nGPU1\tNV18\t X \t0-63\n\nLegend:\n  SYS = over the CPU",
    }
    monkeypatch.setattr(calibration, "_output", lambda *words: next(v for k, v in answers.items() if k in str(words)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "can_device_access_peer", lambda a, b: a < b)
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 29, 7))
    found = calibration.describe()
    expected = {"gpus": 2, "gpu names": "NVIDIA H100", "gpu memory GB": 85.0, "topology": "NV18", "nccl": "2.29.7"}
    expected |= {"nvidia-smi driver_version": "580.1", "peer access": "1 of 2 pairs", "compute capability": "9.0"}
    assert expected.items() <= found.items()
    assert found["threads at once"] == "unknown (AttributeError)"  # what is missing does not end the description


def test_times_to_quality_without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "find_spec", lambda name: None)
    context = context_of(tmp_path, "quality")
    quality.run(context)
    assert [(row.state, row.note[:12]) for row in context.rows.read()] == [(NOT_RUN, "needs --data")]
    windows = [{"step": 10, "images_seen": 100, "images_per_second": 50.0}]
    windows.append({"step": 30, "images_seen": 300, "images_per_second": 100.0})
    spent = quality.training_seconds(windows)
    rows = [{"step": 10, "distance/frechet": 40.0}, {"step": 20, "distance/frechet": 8.0}]
    assert [quality.reached(rows, limit, spent) for limit in (50, 10, 5)] == [2.0, 3.0, None]


@pytest.mark.slow
@pytest.mark.processes(2)
def test_every_part_on_the_cpu(tmp_path: Path, data_root: Path) -> None:
    """The short form, with a run whose weights change in one of its steps."""
    words = ["--short", "--device", "cpu", "--data", data_root, "--output", tmp_path, "--plant", "bits:bits"]
    ended = run_command(sys.executable, REPOSITORY / "benchmarks" / "gpu.py", *words, timeout=900)
    assert ended.code == 1, ended.err
    written = json.loads((tmp_path / "gpu.json").read_text())
    rows = {(row["part"], row["name"]): row for row in written["rows"]}
    failed = [(key, row["note"]) for key, row in rows.items() if row["state"] == FAILED]
    assert [key for key, _ in failed] == [("bits", "graph = eager: conv, no, exact mode")], failed
    assert "equal at step 2 and differ at step 3" in failed[0][1]
    assert {part for part, _ in rows} == set(gpu.PARTS)
    states = {key: row["state"] for key, row in rows.items()}
    assert states["bits", "exact mode on 2 ranks = on 1: conv, no"] == OK
    assert states["bits", "stopped after 3 steps and resumed = straight: conv, exact mode"] == OK
    assert states["bits", "images from a file = on the device: conv, exact mode"] == OK
    assert states["faults", "SIGKILL of rank 1 of 2"] == OK
    assert states["quality", "conv: Fréchet distance"] == OK
    assert states["tests", "pytest -m gpu"] == OK
    needs_a_gpu = [key for key, row in rows.items() if row["note"] == "needs a GPU"]
    assert {part for part, _ in needs_a_gpu} == {"machine", "bits", "fp16"}
    measured = [row["values"] for row in rows.values() if row["part"] in ("speed", "scaling")]
    speeds = [values["images/s"] for values in measured if "images/s" in values]
    assert len(speeds) == 9
    assert all(value > 0 for value in speeds)
    assert written["gpus"] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu.json", "gpu.md"]
