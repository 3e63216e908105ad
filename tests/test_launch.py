"""Runs over several hosts: each way of launch/, with real processes, and what becomes of them when a host is lost."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import kubernetes_validate
import pytest
import slurm_cluster
import torch
import yaml
from conftest import (
    REPOSITORY,
    TRAIN,
    assert_same_end,
    environment,
    free_port,
    run_command,
    train_here,
    wait_for_step,
    workers,
)

from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json
from gan_dist.train import parse

Flags = Callable[..., list[str]]
# Short waits; bit for bit the same on 1, 2 and 3 processes; checkpoints so often that a run takes its time.
COMMON = ["--wandb.mode", "disabled", "--wandb.timeout", "1", "--distributed.timeout", "10"]
COMMON += ["--train.batch-size", "24", "--train.exact-shards", "6", "--train.epochs", "100000"]
COMMON += ["--checkpoint.every-steps", "2", "--samples.every-epochs", "100000"]
SELDOM = ["--checkpoint.every-steps", "100000"]


@dataclass
class Started:
    """A command that runs in a session of its own."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> list[str]:
        """Its lines on both streams, less the one that any run begins with."""
        return [line for line in self.log.read_text().splitlines() if line != "loading PyTorch ..."]

    def ended(self, within: float) -> int:
        """Its exit code, `within` so many seconds."""
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it runs on:\n{self.log.read_text()}") from None


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Start a command; at the end of the test it is gone, and whatever it started."""
    with contextlib.ExitStack() as stack:

        def begin(words: list[str], variables: Mapping[str, str] | None = None) -> Started:
            log = tmp_path / f"{len(list(tmp_path.glob('*.log')))}.log"
            output = stack.enter_context(open(log, "w"))
            env = with_commands() | dict(variables or {})
            process = subprocess.Popen(
                words, stdout=output, stderr=output, env=env, cwd=REPOSITORY, start_new_session=True
            )
            stack.callback(process.wait)
            stack.callback(kill_group, process.pid)
            return Started(process, log)

        yield begin


def kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def with_commands() -> dict[str, str]:
    """The environment in which python, accelerate and torchrun are those of the tests."""
    kept = environment()
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"}


def own_lines(started: Started, name: str = "gan_dist") -> list[str]:
    return [line for line in started.said if line.startswith(f"{name}: ")]


# --- what hosts bring along


def host(number: int, of: int, port: int, address: str = "127.0.0.1") -> dict[str, str]:
    """The variables of a process that is the only one on its host, as SLURM's and Kubernetes' files set them."""
    ranks = {"RANK": str(number), "LOCAL_RANK": "0", "WORLD_SIZE": str(of), "LOCAL_WORLD_SIZE": "1"}
    return ranks | {"MASTER_ADDR": address, "MASTER_PORT": str(port)}


def start_each(commands: Sequence[list[str]], start: Callable[..., Started]) -> list[Started]:
    """Start one run from several hosts, with flags of each host's own."""
    port = free_port()
    return [
        start(["python", str(TRAIN), *words], host(number, len(commands), port))
        for number, words in enumerate(commands)
    ]


def refused(hosts: list[Started]) -> str:
    """What rank 0 says, alone and in one line, when all of them end with exit code 2."""
    assert [one.ended(60) for one in hosts] == [2] * len(hosts)
    said, *others = (own_lines(one) for one in hosts)
    assert not any(others)
    assert len(said) == 1
    return said[0]


@pytest.mark.processes(2)
def test_hosts_that_start_with_different_values_are_told(
    flags: Flags, start: Callable[..., Started], tmp_path: Path
) -> None:
    words, name = flags(tmp_path / "run", *COMMON), socket.gethostname()
    said = refused(
        start_each([[*words, "--train.threads", "1"], [*words, "--train.threads", "2", "--train.seed", "3"]], start)
    )
    assert f"rank 1 ({name}) and rank 0 ({name}) were started with different values: train.seed 3 and 0;" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.processes(2)
def test_a_run_folder_that_is_not_shared_is_no_place_to_begin(
    flags: Flags, start: Callable[..., Started], tmp_path: Path
) -> None:
    folders = RunFolder(tmp_path / "0" / "run"), RunFolder(tmp_path / "1" / "run")
    commands = [flags(folder.path, *COMMON, "--train.steps", "60") for folder in folders]
    for folder in folders:
        folder.path.parent.mkdir()
    said, name = refused(start_each(commands, start)), socket.gethostname()
    assert f"run.dir={folders[0].path} is not one folder on all hosts: rank 1 ({name}) does not see what rank 0" in said
    assert [list(folder.path.parent.iterdir()) for folder in folders] == [[], []]
    # Where only rank 0 is said to have it, it shall not be found with a run that is further on another host.
    for folder, steps in zip(folders, ("20", "40"), strict=True):
        assert train_here(flags(folder.path, *COMMON, "--train.steps", steps)) == 0
    commands = [[*words, "--run.no-shared"] for words in commands]
    said = refused(start_each(commands, start))
    assert f"run.dir={folders[0].path}: rank 1 ({name}) has a checkpoint of step 40 there, rank 0" in said
    assert "none newer than step 20" in said
    assert read_json(folders[0].status)["step"] == 20
    # The other way round rank 0 knows more, and no other needs the folder.
    both = start_each(commands[::-1], start)
    assert [one.ended(60) for one in both] == [0, 0], own_lines(both[0])
    assert read_json(folders[1].status)["step"] == 60


@pytest.mark.slow
@pytest.mark.processes(1)
def test_processes_that_do_not_meet_say_where(flags: Flags, start: Callable[..., Started], tmp_path: Path) -> None:
    words = ["python", str(TRAIN), *flags(tmp_path / "run", *COMMON, "--distributed.timeout", "5")]
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        used, free = int(taken.getsockname()[1]), free_port()
        cases = {
            f"did not connect at 127.0.0.1:{free} (Timed out after": host(0, 2, free),
            f"did not connect at 127.0.0.1:{used} (The server socket has failed": host(0, 2, used),
            f"connect at nowhere.invalid:{free} (the name can't be resolved": host(1, 2, free, "nowhere.invalid"),
        }
        alone = {said: start(words, variables) for said, variables in cases.items()}
        for said, one in alone.items():
            assert one.ended(60) == 1  # with the others there it may go well
            lines = own_lines(one)
            assert len(lines) == 1, one.said
            assert said in lines[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.processes(1)
def test_a_host_says_itself_what_is_wrong_with_its_command(
    flags: Flags, start: Callable[..., Started], tmp_path: Path
) -> None:
    one = start(["python", str(TRAIN), *flags(tmp_path / "run", "--train.sede", "3")], host(1, 2, free_port()))
    assert one.ended(30) == 2
    assert own_lines(one) == ["gan_dist: there is no flag --train.sede; did you mean --train.seed?"]


# --- several hosts by hand

MULTI_NODE, ELASTIC = (str(REPOSITORY / "launch" / name) for name in ("multi_node.sh", "elastic.sh"))


class Hosts:
    """Hosts that are network namespaces on one bridge; 10.78.0.1 is the first one's address.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self.worker = os.environ.get("PYTEST_XDIST_WORKER", "gw")  # the names are the machine's
        self.names = [f"gan-dist-{self.worker}-{number}" for number in range(count)]
        self.bridge = f"gan-dist-{self.worker}"

    def __enter__(self) -> Hosts:
        if os.geteuid() != 0 or shutil.which("ip") is None:
            pytest.skip("hosts made of network namespaces need root and Debian's iproute2")
        self.__exit__()  # what a killed test left
        if subprocess.run(["ip", "link", "add", self.bridge, "type", "bridge"], capture_output=True).returncode:
            pytest.skip("this machine refuses to make a bridge between network namespaces")
        ip("link", "set", self.bridge, "up")
        for number, name in enumerate(self.names):
            ip("netns", "add", name)
            ip("link", "add", self.cable(number), "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", self.cable(number), "master", self.bridge, "up")
            ip("-n", name, "address", "add", f"10.78.0.{number + 1}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for number, name in enumerate(self.names):
            # A namespace takes its end of a cable along, but later.
            subprocess.run(["ip", "link", "delete", self.cable(number)], capture_output=True)
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
        subprocess.run(["ip", "link", "delete", self.bridge], capture_output=True)

    def cable(self, number: int) -> str:
        return f"gan-{self.worker}-{number}"

    def plug(self, number: int, state: str) -> None:
        """Set a host's link "up" or "down"."""
        ip("link", "set", self.cable(number), state)

    def on(self, number: int, *words: str) -> list[str]:
        """A command on a host."""
        return ["ip", "netns", "exec", self.names[number], *words]

    def processes(self, number: int) -> list[int]:
        """What runs on a host."""
        done = subprocess.run(["ip", "netns", "pids", self.names[number]], check=True, capture_output=True, text=True)
        return [int(pid) for pid in done.stdout.split()]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with Hosts(3) as three:
        yield three


def by_hand(number: int, of: int, **more: str) -> dict[str, str]:
    return {"HOSTS": str(of), "MAIN": "10.78.0.1", "NUMBER": str(number), "TIMEOUT": "30", **more}


@pytest.mark.slow
@pytest.mark.processes(3)
def test_three_hosts_go_on_as_one_would(
    flags: Flags, hosts: Hosts, start: Callable[..., Started], tmp_path: Path
) -> None:
    folder, straight = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "straight")
    assert train_here(flags(folder.path, *COMMON, "--train.steps", "21")) == 0
    words = [MULTI_NODE, *flags(folder.path, *COMMON, "--train.steps", "43")]
    all_of_them = [start(hosts.on(number, *words), by_hand(number, 3)) for number in range(3)]
    for one in all_of_them:
        assert one.ended(90) == 0, one.said
    assert read_json(folder.environment)["processes"] == 3
    assert train_here(flags(straight.path, *COMMON, "--train.steps", "43")) == 0
    assert_same_end(folder, straight, 43)


@pytest.mark.slow
@pytest.mark.processes(2)
@pytest.mark.parametrize("fault", ["killed", "cut off"])
def test_a_host_is_lost_and_the_run_goes_on(
    fault: str, flags: Flags, hosts: Hosts, start: Callable[..., Started], tmp_path: Path
) -> None:
    folder, straight = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "straight")
    words = [MULTI_NODE, *flags(folder.path, *COMMON)]
    timeout = {"killed": "30", "cut off": "12"}[fault]  # torch's agent counts a dead host as there for 15 s
    main, other = (start(hosts.on(number, *words), by_hand(number, 2, TIMEOUT=timeout)) for number in range(2))
    wait_for_step(folder, 50, main.process)
    if fault == "killed":
        for pid in hosts.processes(1):
            os.kill(pid, signal.SIGKILL)
        lost = read_json(folder.status)["step"]
        other = start(hosts.on(1, *words), by_hand(1, 2, TIMEOUT=timeout))
        wait_for_step(folder, lost + 50, main.process)
        main.process.terminate()
        assert main.ended(60) == 75
        other.ended(60)
        assert read_json(folder.status)["state"] == "stopped", main.said
        end = read_json(folder.status)["step"] + 1
    else:
        hosts.plug(1, "down")
        # The run waits for the host, in vain, and every process goes; each host says why in one line.
        assert main.ended(90) == 2
        last = own_lines(main, "multi_node.sh")[-1]
        assert last.startswith("multi_node.sh: not all of the 2 hosts connected within 12 s")
        assert other.ended(90) != 0
        assert any("lost rank" in line for line in own_lines(main))
        end = read_json(folder.status)["step"] + 20
    for run in (folder, straight):
        assert train_here(flags(run.path, *COMMON, *SELDOM, "--train.steps", str(end))) == 0
    assert_same_end(folder, straight, end)


def rank_on(hosts: Hosts, number: int, rank: int) -> int:
    """The process of a rank, on a host."""
    for pid in hosts.processes(number):
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if f"RANK={rank}".encode() in words:
            return pid
    raise AssertionError(f"rank {rank} is not on host {number}")


@pytest.mark.slow
@pytest.mark.processes(4)
def test_two_hosts_with_two_ranks_each(
    flags: Flags, hosts: Hosts, start: Callable[..., Started], tmp_path: Path
) -> None:
    """Gradients are added per host first. A lost rank is named, the run goes on, and a stop of one rank reaches all."""
    folder = RunFolder(tmp_path / "run")
    common = [word if word != "6" else "12" for word in COMMON]
    words, variables = [MULTI_NODE, *flags(folder.path, *common)], {"PROCESSES": "2", "RESTARTS": "0"}
    main, other = (start(hosts.on(number, *words), by_hand(number, 2, **variables)) for number in range(2))
    wait_for_step(folder, 20, main.process)
    assert read_json(folder.environment)["gradients"] == "flat: shared memory in each of 2 hosts, gloo between them"
    os.kill(rank_on(hosts, 1, 3), signal.SIGSTOP)
    assert main.ended(40) == 1
    (line,) = (line for line in own_lines(main) if "lost rank" in line)
    assert "lost rank 3 (dead, hung or cut off)" in line
    for pid in hosts.processes(1):
        os.kill(pid, signal.SIGKILL)
    other.ended(20)
    main, other = (start(hosts.on(number, *words), by_hand(number, 2, **variables)) for number in range(2))
    wait_for_step(folder, read_json(folder.status)["step"] + 20, main.process)
    os.kill(rank_on(hosts, 1, 3), signal.SIGTERM)
    assert main.ended(60) == 75, main.said
    assert other.ended(60) == 75, other.said
    status = read_json(folder.status)
    assert (status["state"], status["reason"]) == ("stopped", "requested on another rank")


@pytest.mark.slow
@pytest.mark.processes(1)
def test_hosts_that_can_not_meet_are_told_in_one_line(
    flags: Flags, hosts: Hosts, start: Callable[..., Started], tmp_path: Path
) -> None:
    words = [MULTI_NODE, *flags(tmp_path / "run", *COMMON)]
    cases = {
        "MAIN=192.0.2.1 can't be reached from here": (0, by_hand(0, 2, MAIN="192.0.2.1")),
        "MAIN=10.78.0.2 is not an address of this host": (0, by_hand(0, 2, MAIN="10.78.0.2")),
        "MAIN=10.78.0.1 is this host; it needs NUMBER=0": (0, by_hand(1, 2)),
        "NUMBER=2 is not below HOSTS=2": (2, by_hand(2, 2)),
        "HOSTS=two is not a whole number": (0, by_hand(0, 2) | {"HOSTS": "two"}),
        "no answer from 10.78.0.1:29500 after 3 s": (1, by_hand(1, 2, TIMEOUT="3")),
    }
    all_of_them = {said: start(hosts.on(number, *words), variables) for said, (number, variables) in cases.items()}
    for said, one in all_of_them.items():
        assert one.ended(30) == 2
        assert len(one.said) == 1
        assert said in one.said[0]
    too_few = [start(hosts.on(number, *words), by_hand(number, 3, TIMEOUT="8")) for number in range(2)]
    assert too_few[0].ended(60) == 2
    assert too_few[1].ended(60) != 0
    assert own_lines(too_few[0], "multi_node.sh") == [
        "multi_node.sh: not all of the 3 hosts connected within 8 s; start this on every host, with the same HOSTS"
    ]
    assert not any("Traceback" in line for one in too_few for line in one.said)
    listening = start(hosts.on(0, "python", "-m", "http.server", "29500"))
    time.sleep(1)
    one = start(hosts.on(0, *words), by_hand(0, 2))
    assert one.ended(30) == 2
    assert "PORT=29500 is in use on this host" in one.said[0]
    listening.process.kill()
    unlike = [
        start(hosts.on(number, *words, "--train.seed", str(number)), by_hand(number, 2, PORT="29501"))
        for number in range(2)
    ]
    assert [one.ended(60) for one in unlike] == [2, 2]
    assert len(unlike[0].said) == 1  # once, though a lost process would be started again
    assert "were started with different values: train.seed 1 and 0" in unlike[0].said[0]
    assert unlike[1].said == []
    assert not (tmp_path / "run").exists()


# --- hosts that come and go


@pytest.mark.slow
@pytest.mark.processes(2)
def test_an_elastic_run_takes_hosts_as_they_come(
    flags: Flags, hosts: Hosts, start: Callable[..., Started], tmp_path: Path
) -> None:
    folder, straight = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "straight")
    words = [ELASTIC, *flags(folder.path, *COMMON)]
    variables = {"HOSTS": "1:3", "MAIN": "10.78.0.1", "TIMEOUT": "60"}

    def join(number: int) -> Started:
        return start(hosts.on(number, *words), variables)

    def trained_by(processes: int) -> None:
        give_up = time.monotonic() + 90
        # A run writes its environment before its first status.
        while not (folder.status.exists() and read_json(folder.environment)["processes"] == processes):
            assert time.monotonic() < give_up, main.said
            time.sleep(0.1)
        wait_for_step(folder, read_json(folder.status)["step"] + 20, main.process)

    main = join(0)
    trained_by(1)
    assert start(hosts.on(2, *words, "--train.sede", "3"), variables).ended(30) == 2  # disturbs nobody
    second = join(1)
    trained_by(2)
    second.process.terminate()
    trained_by(1)
    gone = {line for line in main.said if "resuming after step" in line}
    main.process.terminate()
    main.ended(60)
    end = read_json(folder.status)["step"] + 1
    assert len(gone) == 2  # rounds after the first
    assert all("lost rank" not in line for line in main.said)  # both changes came after a checkpoint of the very step
    for run in (folder, straight):
        assert train_here(flags(run.path, *COMMON, *SELDOM, "--train.steps", str(end))) == 0
    assert_same_end(folder, straight, end)


# --- SLURM


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm_cluster.Cluster]:
    if why := slurm_cluster.missing():
        pytest.skip(why)
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm"), with_commands()) as running:
        yield running


SBATCH = str(REPOSITORY / "launch" / "slurm.sbatch")


@pytest.mark.slow
@pytest.mark.processes(2)
def test_a_slurm_job_that_is_preempted_requeued_and_reaches_its_limit_goes_on_as_if_nothing_had_been(
    flags: Flags, cluster: slurm_cluster.Cluster, tmp_path: Path
) -> None:
    folder, straight = RunFolder(tmp_path / "runs" / "a"), RunFolder(tmp_path / "straight")
    words = flags(folder.path, *COMMON)
    job = cluster.submit("--signal=B:USR2@45", SBATCH, *words, cwd=tmp_path)

    def went_on(after: int) -> None:
        def began(state: str) -> bool:
            session = read_json(folder.environment)
            return after in (one["from_step"] for one in (session, *session["earlier_sessions"]))

        cluster.wait(job, began)  # else something was lost
        assert read_json(folder.environment)["processes"] == 2

    def stopped(by: str) -> int:
        """The step after which it stopped."""
        cluster.wait(job, lambda state: state == "PENDING" and read_json(folder.status)["reason"] == by)
        assert read_json(folder.status)["state"] == "stopped"
        return read_json(folder.status)["step"]

    cluster.wait(job, lambda state: folder.metrics.exists())
    seeds = list(words)
    del seeds[seeds.index("--run.dir") : seeds.index("--run.dir") + 2]
    array = cluster.submit(
        *("--partition=urgent", "--nodes=1", "--array=3-4", SBATCH, "seed", *seeds, "--train.steps", "5"), cwd=tmp_path
    )
    first = stopped(by="SIGTERM")
    for seed in (3, 4):
        assert cluster.wait(f"{array}_{seed}", lambda state: state in slurm_cluster.ENDED) == "COMPLETED"
        run = RunFolder(tmp_path / "runs" / f"seed-seed-{seed}")
        assert read_json(run.config)["train"]["seed"] == seed

    went_on(first)
    cluster.do("scontrol", "requeue", job)
    second = stopped(by="SIGTERM")
    assert second > first

    cluster.do("scontrol", "update", f"JobId={job}", "TimeLimit=1")  # the signal comes in its first half
    went_on(second)
    third = stopped(by="SIGUSR2")
    cluster.do("scancel", job)

    log = (tmp_path / f"gan_dist-{job}.log").read_text()
    assert log.count("the run ended with exit code 75") == log.count("this job is queued again") >= 2
    assert all((tmp_path / f"gan_dist-{job}-node{node}.log").exists() for node in range(2))
    end = third + 20
    for run in (folder, straight):
        assert train_here(flags(run.path, *COMMON, *SELDOM, "--train.steps", str(end))) == 0
    assert_same_end(folder, straight, end)


@pytest.mark.processes(2)
def test_a_slurm_job_with_bad_input_is_not_queued_again(
    flags: Flags, cluster: slurm_cluster.Cluster, tmp_path: Path
) -> None:
    words = flags(tmp_path / "run", *COMMON, "--train.batch-size", "25")
    job = cluster.submit(SBATCH, *words, cwd=tmp_path)
    assert cluster.wait(job, lambda state: state in slurm_cluster.ENDED) == "FAILED"
    assert "exit code 2" in (tmp_path / f"gan_dist-{job}.log").read_text()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_processes_of_a_slurm_job_see_all_gpus_of_their_node(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Of a program in place of python: what SLURM gives it. The GPUs are other devices."""
    if why := slurm_cluster.missing():
        pytest.skip(why)
    folder, work = tmp_path_factory.mktemp("gpus"), tmp_path_factory.mktemp("jobs")
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(
        '#!/bin/sh\necho "$RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE ${CUDA_VISIBLE_DEVICES-none}"\n'
    )
    python.chmod(0o700)
    variables = with_commands()
    variables["PATH"] = f"{python.parent}{os.pathsep}{variables['PATH']}"
    one_each = ["--gpus-per-node=2", "--gpus-per-task=1", "--ntasks-per-node=2"]
    with slurm_cluster.cluster(folder, variables, gpus=True) as running:
        for words in ([], one_each, ["--gpus-per-node=2", "--gpu-bind=single:1"]):
            job = running.submit(*words, SBATCH, cwd=work)
            assert running.wait(job, lambda state: state in slurm_cluster.ENDED) == "COMPLETED", words
            found = "".join((work / f"gan_dist-{job}-node{node}.log").read_text() for node in range(2))
            assert sorted(found.splitlines()) == [f"{rank} {rank % 2} 4 2 0,1" for rank in range(4)], words


# --- what is checked and not run

LAUNCH = REPOSITORY / "launch"


def test_the_manifest_is_what_kubernetes_expects() -> None:
    resources = list(yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text()))
    assert [resource["kind"] for resource in resources] == ["Service", "PersistentVolumeClaim", "Job"]
    for resource in resources:
        kubernetes_validate.validate(resource, desired_version="1.30", strict=True)
    service, _, job = resources
    job["spec"]["paralelism"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, desired_version="1.30", strict=True)
    # What the schemas can't see: the names by which the pods find each other, and HOSTS in its two places.
    pod = job["spec"]["template"]["spec"]
    variables = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert variables["MASTER_ADDR"] == f"{job['metadata']['name']}-0.{pod['subdomain']}"
    assert f" {job['metadata']['name']}-$pod.{pod['subdomain']};" in pod["initContainers"][0]["args"][0]
    assert int(variables["WORLD_SIZE"]) == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert parse(pod["containers"][0]["args"]).run.dir.is_relative_to("/runs")


@pytest.mark.slow  # the models take seconds to import
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_trainjob_is_what_kubeflow_expects() -> None:
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="needs the models of Kubeflow Trainer's CRDs")
    claim, *resources = yaml.safe_load_all((LAUNCH / "trainjob.yaml").read_text())
    kubernetes_validate.validate(claim, desired_version="1.30", strict=True)
    assert [resource["kind"] for resource in resources] == ["TrainingRuntime", "TrainJob"]
    for resource in resources:
        model = getattr(models, f"TrainerV1alpha1{resource['kind']}")
        assert model.from_dict(resource).to_dict() == resource  # fields that the schema lacks are dropped
        resource["spec"]["numNode"] = 2
        assert model.from_dict(resource).to_dict() != resource
        assert resource.pop("apiVersion") == "trainer.kubeflow.org/v1alpha1"


def test_the_trainjob_and_its_runtime_agree() -> None:
    """What the schemas can't see."""
    claim, runtime, job = yaml.safe_load_all((LAUNCH / "trainjob.yaml").read_text())
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    spec, pod = replicated["template"]["spec"], replicated["template"]["spec"]["template"]["spec"]
    # The Job below the JobSet, with what Kubeflow and JobSet add.
    nodes = job["spec"]["trainer"]["numNodes"]
    added = {"completionMode": "Indexed", "completions": nodes, "parallelism": nodes}
    whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "gan-dist-node-0"}, "spec": spec | added}
    kubernetes_validate.validate(whole, desired_version="1.30", strict=True)
    (wait,), (node,) = pod["initContainers"], pod["containers"]
    assert wait["env"] == [{"name": "HOSTS", "value": str(nodes)}]
    assert f" {job['metadata']['name']}-{replicated['name']}-0-$pod.{job['metadata']['name']};" in wait["args"][0]
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    assert job["spec"]["trainer"]["image"] == wait["image"] == node["image"]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert parse(job["spec"]["trainer"]["args"]).run.dir.is_relative_to("/runs")
    # Exit codes are treated as those of kubernetes.yaml.
    *_, plain = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    rules = plain["spec"]["podFailurePolicy"]["rules"]
    rules[0]["onExitCodes"]["containerName"] = node["name"] = replicated["name"]
    assert spec["podFailurePolicy"]["rules"] == rules
    assert pod["restartPolicy"] == "Never"


@pytest.mark.slow
@pytest.mark.processes(2)
def test_pods_of_a_trainjob_end_with_the_exit_code_of_the_run(
    flags: Flags, start: Callable[..., Started], tmp_path: Path
) -> None:
    _, runtime, _ = yaml.safe_load_all((LAUNCH / "trainjob.yaml").read_text())
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    command = replicated["template"]["spec"]["template"]["spec"]["containers"][0]["command"]
    words = [word.replace("/opt/gan_dist", str(REPOSITORY)) for word in command]
    folder = RunFolder(tmp_path / "run")

    def pods(count: int, *more: str) -> list[Started]:
        kubeflow = {"PET_NNODES": str(count), "PET_NPROC_PER_NODE": "1", "PET_MASTER_ADDR": "127.0.0.1"}
        kubeflow["PET_MASTER_PORT"] = str(free_port())
        every = [*words, *flags(folder.path, *COMMON, *more)]
        return [start(every, kubeflow | {"PET_NODE_RANK": str(number)}) for number in range(count)]

    both = pods(2)
    wait_for_step(folder, 5, both[0].process)
    both[1].process.terminate()  # one is evicted
    assert [one.ended(60) for one in both] == [75, 75], [one.said for one in both]
    assert read_json(folder.status)["state"] == "stopped"
    assert read_json(folder.environment)["processes"] == 2
    (one,) = pods(1, "--train.batch-size", "25")
    assert one.ended(90) == 2, one.said


def test_the_dockerfile_is_clean() -> None:
    done = run_command(Path(sys.executable).parent / "hadolint", LAUNCH / "Dockerfile")
    assert done.code == 0, done.out


@pytest.mark.parametrize("script", ["local.sh", "multi_node.sh", "elastic.sh"])
@pytest.mark.parametrize("value", ["PROCESSES=0", "PROCESSES=x", f"PROCESSES={10**20}", "RESTARTS=x", "RESTARTS=1e6"])
def test_a_variable_that_is_no_number_in_its_range_is_one_line(script: str, value: str) -> None:
    name, _, text = value.partition("=")
    hosts = {"HOSTS": "1:2" if script == "elastic.sh" else "2"}
    ended = run_command("bash", LAUNCH / script, **hosts, **{name: text})
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"{script}: {value} is not a whole number from ")
    assert ended.err.count("\n") == 1


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_the_scripts_are_clean() -> None:
    done = run_command("shellcheck", "-x", "-P", LAUNCH, *LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch"))
    assert done.code == 0, done.out


@pytest.mark.slow
@pytest.mark.processes(2)
def test_one_machine(flags: Flags, start: Callable[..., Started], tmp_path: Path) -> None:
    """Processes and precision as asked for, or as the machine is; exit codes are the run's own."""
    folder, words = RunFolder(tmp_path / "run"), [str(LAUNCH / "local.sh")]
    one = start([*words, *flags(folder.path, *COMMON, "--train.steps", "5")], {"PROCESSES": "2", "PRECISION": "no"})
    assert one.ended(60) == 0, one.said
    found = read_json(folder.environment)
    assert (found["processes"], found["mixed_precision"]) == (2, "no")

    other = RunFolder(tmp_path / "other")
    one = start([*words, *flags(other.path, *COMMON)], {"RESTARTS": "0"})
    wait_for_step(other, 5, one.process)
    os.kill(workers(one.process)[-1], signal.SIGKILL)
    assert one.ended(60) == 1
    assert one.said[-1] == "local.sh: rank 0 was ended by SIGKILL"
    one = start([*words, *flags(other.path, *COMMON)])
    wait_for_step(other, read_json(other.status)["step"] + 5, one.process)
    found = read_json(other.environment)
    assert found["processes"] == max(1, torch.cuda.device_count())
    assert found["mixed_precision"] in ("no", "bf16")
    one.process.terminate()
    assert one.ended(60) == 75
    assert read_json(other.status)["state"] == "stopped"

    one = start([*words, *flags(other.path, *COMMON, "--train.batch-size", "25")], {"PROCESSES": "1"})
    assert one.ended(60) == 2
    assert one.said == ["gan_dist: train.batch_size=25 is not divisible by train.exact_shards=6; use 24 or 30"]
