"""What only CUDA needs, with stand-ins for graphs, events and GPUs: none of these tests needs a GPU."""

from __future__ import annotations

import contextlib
import datetime
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from conftest import assert_same_end, train_here

from gan_dist.config import Config, InputError, RunConfig, TrainingFailed
from gan_dist.distributed import devices, group_exit, launcher, numerics
from gan_dist.distributed.device_wait import BoundedWait, NoWait, gather_in_time, make_wait
from gan_dist.distributed.devices import Device, check_one_gpu_each
from gan_dist.distributed.exit_codes import exit_code
from gan_dist.distributed.numerics import describe_numerics, fix_cublas, set_numerics
from gan_dist.gan.cuda_graph import GRAPHS, WARM_UP, CapturedFunction, CudaGraph
from gan_dist.gan.guard import NonfiniteUpdate
from gan_dist.gan.slices import CHUNK, MAX_SLICES, count_slices, slice_sizes, slices_of
from gan_dist.outputs.folder import RunFolder
from gan_dist.trainer import loop, networks, session
from gan_dist.trainer.gradients import wrap_in_ddp
from gan_dist.trainer.state import Trainer

CUDA = torch.device("cuda", 0)


class Recorder:
    """Records the order in which a run releases what it holds."""

    def __init__(self) -> None:
        self.order: list[str] = []

    def record(self, name: str) -> Any:
        return lambda *arguments: self.order.append(name)


class Graph:
    """A captured graph. Its memory is released by `reset`, not by the garbage collection of this object."""

    def __init__(self, recorder: Recorder) -> None:
        self.reset = recorder.record("graph")


class TorchGraph:
    """torch.cuda.CUDAGraph, and the functions of torch.cuda that a capture needs; records what is called."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.streams = 0
        self.stream = SimpleNamespace(wait_stream=self.called("wait"))

    def new_stream(self) -> SimpleNamespace:
        self.streams += 1
        return self.stream

    def register_generator_state(self, generator: torch.Generator) -> None:
        """As torch 2.13 and later."""
        self.calls.append("register_generator_state")
        warnings.warn("CUDAGraph.register_generator_state() is deprecated, and will be removed.", stacklevel=2)

    def called(self, name: str) -> Any:
        return lambda *arguments: self.calls.append(name)

    def __getattr__(self, name: str) -> Any:
        return self.called(name)

    @contextlib.contextmanager
    def graph(self, graph: Any, capture_error_mode: str) -> Iterator[None]:
        assert graph is self
        self.calls.append(f"begin {capture_error_mode}")
        yield
        self.calls.append("end")


@pytest.fixture
def torch_graph(monkeypatch: pytest.MonkeyPatch) -> TorchGraph:
    torch_graph = TorchGraph()
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: torch_graph)
    monkeypatch.setattr(torch.cuda, "graph", torch_graph.graph)
    monkeypatch.setattr(CudaGraph, "_warm_up_stream", None)
    monkeypatch.setattr(torch.cuda, "Stream", torch_graph.new_stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: torch_graph.stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setitem(GRAPHS, "cpu", CudaGraph)
    return torch_graph


def test_a_function_is_captured_after_its_warm_up_with_its_generators(torch_graph: TorchGraph) -> None:
    """Inputs are copied into the memory of the graph before each replay; a reset function warms up again."""
    seen: list[torch.Tensor] = []
    captured = CapturedFunction(seen.append, torch.device("cpu"), [torch.Generator()])
    for _ in range(2):
        seen.clear()
        torch_graph.calls.clear()
        for number in range(WARM_UP + 2):
            captured(torch.tensor(float(number)))
        warm_up = ["wait", "wait"] * WARM_UP
        capture = ["register_generator_state", "begin thread_local", "end"]
        assert torch_graph.calls == [*warm_up, *capture, "replay", "replay"]
        assert [each.item() for each in seen] == [0.0, 1.0, 2.0, WARM_UP + 1]  # the last is the graph's memory
        captured.reset()
        assert torch_graph.calls[-1] == "reset"
    assert torch_graph.streams == 1  # each one would get workspaces of its own


def test_an_earlier_graph_is_discarded_before_a_capture(torch_graph: TorchGraph) -> None:
    earlier, later = (CapturedFunction(len, torch.device("cpu")) for _ in range(2))
    for _ in range(WARM_UP + 1):
        earlier(torch.ones(1))
    for _ in range(WARM_UP):
        later(torch.ones(1))
    torch_graph.calls.clear()
    later(torch.ones(1))
    assert torch_graph.calls == ["reset", "begin thread_local", "end", "replay"]
    assert earlier._graph is None


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """A process group and a GPU that record their end."""
    recorder = Recorder()
    monkeypatch.setattr(torch.accelerator, "synchronize", recorder.record("synchronize"))
    monkeypatch.setattr(group_exit, "gc", SimpleNamespace(collect=recorder.record("collect")))
    monkeypatch.setattr(group_exit, "dist", group_of(abort=recorder.record("abort")))
    monkeypatch.setattr(group_exit.dist, "destroy_process_group", recorder.record("destroy"))
    return recorder


def group_of(**backend: Any) -> Any:
    """torch.distributed with a process group, whose backend for GPUs has these functions."""
    world = SimpleNamespace(_get_backend=lambda device: SimpleNamespace(**backend) if device == CUDA else None)
    return SimpleNamespace(is_initialized=lambda: True, destroy_process_group=None, group=SimpleNamespace(WORLD=world))


def raised(error: BaseException) -> Any:
    def raise_it(*arguments: Any) -> None:
        raise error

    return raise_it


CLEAN, FAILED = ["graph", "synchronize", "collect", "destroy"], ["graph", "abort", "collect"]
ENDS = {
    "finished": (lambda trainer: "finished", CLEAN),
    "stopped": (lambda trainer: "stopped", CLEAN),
    "NaN": (lambda trainer: setattr(trainer, "failure", NonfiniteUpdate(3, "generator", (0,))) or "failed", CLEAN),
    "no intact checkpoint": (raised(InputError("all checkpoints are damaged")), CLEAN),
    "full disk": (raised(TrainingFailed("the disk is full")), CLEAN),
    "bug": (raised(ValueError("a bug")), FAILED),
    "interrupt": (raised(KeyboardInterrupt()), FAILED),
    "lost rank": (raised(dist.DistBackendError("no answer")), FAILED),
    "memory": (raised(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has 0 MiB.")), FAILED),
}
MESSAGES = {
    "memory": "step 1: CUDA out of memory. Tried to allocate 2 GiB; use a smaller --train.batch-size, or divide it "
    "with --train.accumulation"
}


@pytest.mark.parametrize("end", ENDS)
def test_graphs_and_the_device_are_released_before_the_group(
    end: str, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    train, expected = ENDS[end]
    accelerator = Accelerator(cpu=True)
    monkeypatch.setattr(Accelerator, "device", CUDA)
    monkeypatch.setattr(accelerator, "end_training", recorder.record("destroy"))
    trainer = object.__new__(Trainer)
    monkeypatch.setattr(Trainer, "is_main", False)
    trainer.failure, trainer.rollbacks, trainer.step = None, [], 0
    captured = CapturedFunction(len, CUDA)

    def build(*arguments: Any) -> Any:
        captured._graph = Graph(recorder)  # type: ignore[assignment]
        return trainer

    monkeypatch.setattr(loop, "start_processes", lambda config: accelerator)
    monkeypatch.setattr(loop, "build", build)
    monkeypatch.setattr(loop, "train_with_rollbacks", train)
    monkeypatch.setattr(session, "conclude", lambda *arguments: None)
    config = Config(run=RunConfig(dir=tmp_path / "run"))
    if expected == CLEAN and end in ("finished", "stopped"):
        assert loop.run_to_end(config) == {"finished": 0, "stopped": 75}[end]
    else:
        with pytest.raises((InputError, TrainingFailed, ValueError, KeyboardInterrupt)) as caught:
            loop.run_to_end(config)
        assert str(caught.value) == MESSAGES.get(end, str(caught.value))
    if expected == FAILED:  # in two threads
        recorder.order[:2] = sorted(recorder.order[:2], reverse=True)
    assert recorder.order == expected
    assert captured._graph is None


def test_a_group_that_cannot_be_aborted_does_not_delay_the_report(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = threading.Event()
    monkeypatch.setattr(group_exit, "ABORT_SECONDS", 0.05)
    monkeypatch.setattr(group_exit, "dist", group_of(abort=stuck.wait))
    group_exit.abandon_group(CUDA)
    assert recorder.order == ["collect"]
    stuck.set()


@pytest.fixture
def torch_settings() -> Iterator[None]:
    """Restores torch's defaults."""
    yield
    set_numerics(CUDA, tf32=False, deterministic=False)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    if hasattr(torch.backends.cudnn, "conv"):
        torch.backends.cudnn.conv.fp32_precision = torch.backends.cudnn.rnn.fp32_precision = "tf32"
        torch.backends.cuda.matmul.fp32_precision = "none"


@pytest.mark.parametrize(("tf32", "benchmark"), [(False, True), (True, False)])
def test_precision_is_set_for_products_and_convolutions_alike(
    tf32: bool, benchmark: bool, torch_settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(numerics.CUBLAS_VARIABLE, raising=False)
    torch.backends.cudnn.benchmark = not benchmark
    set_numerics(CUDA, tf32, deterministic=False, benchmark=benchmark)
    described = describe_numerics(CUDA)
    assert (described["tf32_matmul"], described["tf32_cudnn"]) == (tf32, tf32)
    assert described | {"tf32_matmul": None, "tf32_cudnn": None} == {
        "tf32_matmul": None,
        "tf32_cudnn": None,
        "cudnn": torch.backends.cudnn.version(),
        "cudnn_deterministic": False,
        "cudnn_benchmark": benchmark,
        "deterministic_algorithms": False,
        "CUBLAS_WORKSPACE_CONFIG": None,
        "NVIDIA_TF32_OVERRIDE": None,
    }
    # torch before 2.9 has the other interface only.
    old = SimpleNamespace(cuda=SimpleNamespace(matmul=SimpleNamespace()), cudnn=SimpleNamespace())
    monkeypatch.setattr(torch, "backends", old)
    numerics._set_tf32(tf32)
    assert (old.cuda.matmul.allow_tf32, old.cudnn.allow_tf32) == numerics._tf32() == (tf32, tf32)


def test_the_exact_mode_makes_a_gpu_deterministic(torch_settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    variables: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", variables)
    fix_cublas()
    assert variables == {} or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for chosen, expected in ((None, ":4096:8"), (":16:8", ":16:8")):
        variables |= {} if chosen is None else {numerics.CUBLAS_VARIABLE: chosen}
        fix_cublas()
        assert variables == {numerics.CUBLAS_VARIABLE: expected}
    set_numerics(CUDA, tf32=False, deterministic=True)
    described = describe_numerics(CUDA)
    assert described["deterministic_algorithms"]
    assert described["cudnn_deterministic"]
    assert not any(described[name] for name in ("cudnn_benchmark", "tf32_matmul", "tf32_cudnn"))
    assert described["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    assert not torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    variables[numerics.TF32_VARIABLE] = "1"
    with pytest.raises(InputError, match=r"NVIDIA_TF32_OVERRIDE=1 is incompatible with train\.exact_shards"):
        fix_cublas()
    variables[numerics.CUBLAS_VARIABLE] = ":0:0"
    with pytest.raises(InputError, match=r"CUBLAS_WORKSPACE_CONFIG=:0:0 .* :4096:8 and :16:8 only; use one of them"):
        fix_cublas()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes this host one of so many GPUs and processes, of which this is one."""

    def make(gpus: int, processes: int, local_rank: int = 0, visible: str = "") -> None:
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: gpus)
        monkeypatch.setattr(devices.socket, "gethostname", lambda: "node7")
        variables = {"RANK": local_rank, "WORLD_SIZE": processes, "LOCAL_RANK": local_rank, "MASTER_ADDR": "localhost"}
        variables |= {"LOCAL_WORLD_SIZE": processes, "MASTER_PORT": 29500, "CUDA_VISIBLE_DEVICES": visible}
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    return make


def test_more_processes_than_gpus_are_refused_by_each_process_once(
    host: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gan_dist.distributed.exit_codes.REPORT_SECONDS", 0.0)
    line = (
        "gan_dist: 4 processes on node7 have 2 GPUs, and each needs its own; start 2 there (accelerate launch "
        "--num_processes, torchrun --nproc-per-node), or hide the GPUs with CUDA_VISIBLE_DEVICES= to train on the CPU\n"
    )
    for local_rank, expected in ((0, line), (3, "")):
        host(2, 4, local_rank)
        assert exit_code("gan_dist", lambda: bool(launcher.start_accelerator(None, 1, 5.0))) == 2
        assert capsys.readouterr().err == expected
    for accepted in ((2, 2, 1, ""), (1, 4, 3, "3"), (8, 1, 0, "")):  # also where each process sees only its own GPU
        host(*accepted)
        devices.check_local_processes(launcher.read_environment(), accepted[0])


def test_processes_that_see_one_gpu_each_have_one_each() -> None:
    bound = [Device(f"node{rank // 2}", "H200", f"GPU-{rank}") for rank in range(4)]
    check_one_gpu_each(bound)
    check_one_gpu_each([Device("laptop", "x86", None)] * 3)
    with pytest.raises(InputError, match="2 processes on node1 have 1 GPU, and each needs its own; start 1 there") as e:
        check_one_gpu_each([*bound[:3], bound[2]])
    assert e.value.common


def test_objects_cross_between_gpus_through_gloo(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its waits raise an error, by which a lost rank is named. On the CPU, Accelerate makes the group."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(dist, "init_process_group", lambda *arguments, **more: calls.append((arguments, more)))
    wait = datetime.timedelta(seconds=7)
    host(2, 2, 1)
    launcher._init_group(False, wait)
    monkeypatch.delenv("LOCAL_RANK")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    launcher._init_group(True, wait)  # without a launcher
    assert not calls
    host(2, 2, 1)
    launcher._init_group(True, wait)
    assert calls == [(("cpu:gloo,cuda:nccl",), {"timeout": wait})]
    limits: list[datetime.timedelta] = []
    monkeypatch.setattr(launcher, "dist", group_of(_set_default_timeout=limits.append))
    launcher._extend_watchdog(CUDA, wait)
    nccl = SimpleNamespace(_set_default_timeout=limits.append)
    monkeypatch.setattr(launcher, "dist", group_of(wrapped_pg=nccl))  # TORCH_DISTRIBUTED_DEBUG=DETAIL
    launcher._extend_watchdog(CUDA, wait)
    assert limits == [wait, wait]


def test_ddp_gets_no_gpu_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of LOCAL_RANK is not there in a process that sees its own GPU alone."""
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(
        torch.nn.parallel, "DistributedDataParallel", lambda module, **options: given.append(options) or module
    )
    monkeypatch.setattr(Accelerator, "multi_device", True)
    with torch.random.fork_rng(devices=[]):
        network = torch.nn.Linear(2, 1)
    wrap_in_ddp(network, Accelerator(cpu=True))
    assert (given[0]["device_ids"], given[0]["output_device"]) == (None, None)
    assert given[0]["gradient_as_bucket_view"]


class Event:
    """An event of the device that is reached at the n-th query, or never."""

    reached_at: int | None = None

    def __init__(self, device: torch.device) -> None:
        self.queries = 0

    def record(self) -> None:
        pass

    def query(self) -> bool:
        self.queries += 1
        return self.reached_at is not None and self.queries >= self.reached_at


def test_a_wait_for_the_device_names_lost_ranks_and_tolerates_slow_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "Event", Event)
    pings: list[list[int]] = []

    def alive_at_first() -> list[int]:
        pings.append([] if len(pings) < 2 else [1, 3])
        return pings[-1]

    with pytest.raises(dist.DistError, match="the device waits for rank 1, 3, which is lost"):
        BoundedWait(CUDA, 0.01, alive_at_first)()
    assert pings == [[], [], [1, 3]]
    with pytest.raises(dist.DistError, match="the device has not finished after 0 s"):
        BoundedWait(CUDA, 0.001)()  # no ping is possible
    monkeypatch.setattr(Event, "reached_at", 3)
    gather = gather_in_time(lambda tensor: tensor + 1, BoundedWait(CUDA, 60.0))
    assert gather(torch.ones(1)) == 2
    kinds = {(device, ranks): type(make_wait(torch.device(device), ranks, 1.0)) for device, ranks in WAITS}
    assert kinds == WAITS


WAITS = {("cpu", 1): NoWait, ("cpu", 2): NoWait, ("cuda", 1): NoWait, ("cuda", 2): BoundedWait}


@pytest.mark.slow
def test_a_run_goes_on_exactly_with_another_number_of_slices(
    flags: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a move to another GPU, or from a GPU to the CPU."""

    for name, sessions in {"straight": {9: 1}, "moved": {3: 5, 6: 1, 9: 5}}.items():
        for steps, slices in sessions.items():
            monkeypatch.setattr(networks, "slices_of", lambda vector, _, count=slices: slices_of(vector, count))
            words = ["r3", *flags(tmp_path / name, "--wandb.mode", "disabled"), "--train.steps", str(steps)]
            assert train_here(words) == 0
    assert_same_end(RunFolder(tmp_path / "straight"), RunFolder(tmp_path / "moved"), 9)


@pytest.mark.parametrize(
    ("weights", "multiprocessors", "slices", "largest"),
    [
        (336_129, 1, 1, 336_129),  # not a GPU
        (336_129, 132, 33, 10_240),  # 36 equal slices, rounded up to whole rounds of a block
        (336_129, 16, 15, 22_528),
        (3_000, 132, 2, 2_048),
        (100, 132, 1, 100),
        (MAX_SLICES * CHUNK, 132, 1, MAX_SLICES * CHUNK),  # the chunks of one vector are as many blocks
        (MAX_SLICES * CHUNK - 1, 132, 36, CHUNK),
    ],
)
def test_the_optimizer_gets_as_many_slices_as_one_launch_takes(
    weights: int, multiprocessors: int, slices: int, largest: int
) -> None:
    sizes = slice_sizes(weights, count_slices(weights, multiprocessors))
    assert (len(sizes), max(sizes), sum(sizes)) == (slices, largest, weights)
