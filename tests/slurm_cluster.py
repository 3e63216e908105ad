"""A SLURM cluster of two nodes on this machine, for the tests: Debian's slurm-wlm and munge, started as root."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from conftest import free_port

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "sinfo")
NODES = ("n1", "n2")
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")


@dataclass(frozen=True)
class Cluster:
    """A running cluster.

    Args:
        config: its slurm.conf.
        variables: what its jobs find in their environment beside SLURM's own.
    """

    config: Path
    variables: dict[str, str]

    def do(self, *words: str, cwd: Path | None = None) -> str:
        """Run one of SLURM's commands; what it says."""
        env = self.variables | {"SLURM_CONF": str(self.config)}
        done = subprocess.run(words, check=True, capture_output=True, text=True, env=env, cwd=cwd, timeout=30)
        return done.stdout.strip()

    def submit(self, *words: str, cwd: Path) -> str:
        """sbatch; the job's number."""
        return self.do("sbatch", "--parsable", *words, cwd=cwd)

    def state(self, job: str) -> str:
        """Of a job: PENDING, RUNNING, COMPLETED, FAILED, ..."""
        shown = self.do("scontrol", "show", "job", "--oneliner", job)
        return shown.partition("JobState=")[2].split()[0]

    def wait(self, job: str, reached: Callable[[str], bool], seconds: float = 120) -> str:
        """Wait until a job's state is such; SLURM's long pause before a job's next round is cut short."""
        give_up = time.monotonic() + seconds
        while not reached(state := self.state(job)):
            assert time.monotonic() < give_up, f"job {job} stays {state}"
            if state == "PENDING":
                time.sleep(2)  # sooner, a node may refuse what it has just put an end to ("Job credential revoked")
                with contextlib.suppress(subprocess.CalledProcessError):  # it started in between
                    self.do("scontrol", "update", f"JobId={job}", "StartTime=now")
            time.sleep(0.5)
        return state


def missing() -> str:
    """Why there can be no cluster here; empty if there can."""
    if os.geteuid() != 0:
        return "a SLURM cluster needs root"
    lacking = [name for name in NEEDED if shutil.which(name) is None]
    return f"{', '.join(lacking)} missing: apt-get install slurm-wlm munge" if lacking else ""


@contextlib.contextmanager
def cluster(folder: Path, variables: dict[str, str], gpus: bool = False) -> Iterator[Cluster]:
    """Start one that keeps all it writes in a folder, and end it.

    Args:
        folder: empty; its path is short, since a socket lies in it.
        variables: see `Cluster`.
        gpus: each node has what SLURM takes for two GPUs.
    """
    munge = folder / "munge"
    for below in (munge, folder / "log", folder / "state"):
        below.mkdir(mode=0o700)
    key, door = munge / "key", munge / "socket"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    config = folder / "slurm.conf"
    config.write_text(_configuration(folder, door, "Gres=gpu:2" if gpus else ""))
    if gpus:
        lines = [f"NodeName={node} Name=gpu File={file}\n" for node in NODES for file in ("/dev/zero", "/dev/full")]
        (folder / "gres.conf").write_text("".join(lines))
    env = variables | {"SLURM_CONF": str(config)}
    with contextlib.ExitStack() as stack:

        def serve(*words: str) -> None:
            number = len(list((folder / "log").iterdir()))
            log = stack.enter_context(open(folder / "log" / f"{words[0]}-{number}.out", "w"))
            server = subprocess.Popen(words, stdout=log, stderr=log, env=env)
            stack.callback(server.wait)
            stack.callback(server.terminate)

        files = {"--key-file": key, "--socket": door, "--seed-file": munge / "seed"}
        files |= {"--pid-file": munge / "pid", "--log-file": munge / "log"}
        serve("munged", "--foreground", "--force", *(f"{flag}={file}" for flag, file in files.items()))
        _until(door.exists, "munged does not start")
        serve("slurmctld", "-D")
        for node in NODES:
            serve("slurmd", "-D", "-N", node)
        running = Cluster(config, variables)
        _until(lambda: _idle(running) == len(NODES), "the nodes do not come up")
        try:
            yield running
        finally:  # jobs would outlive their cluster
            running.do("scancel", "--user=root")
            _until(lambda: not running.do("squeue", "--noheader"), "jobs do not end")


def _configuration(folder: Path, door: Path, resources: str) -> str:
    name = socket.gethostname().split(".")[0]
    ports = [free_port() for _ in ("slurmctld", *NODES)]
    lines = [
        "ClusterName=test",
        "GresTypes=gpu",
        f"SlurmctldHost={name}(127.0.0.1)",
        f"SlurmctldPort={ports[0]}",
        "SlurmUser=root",
        "AuthType=auth/munge",
        f"AuthInfo=socket={door}",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "MpiDefault=none",
        "SchedulerType=sched/backfill",
        "SchedulerParameters=sched_interval=1,bf_interval=1",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core",
        "JobRequeue=1",
        "PreemptType=preempt/partition_prio",
        "PreemptMode=REQUEUE",
        "ReturnToService=2",
        f"StateSaveLocation={folder / 'state'}",
        f"SlurmdSpoolDir={folder}/spool-%n",
        f"SlurmctldPidFile={folder}/slurmctld.pid",
        f"SlurmdPidFile={folder}/slurmd-%n.pid",
        f"SlurmctldLogFile={folder}/log/slurmctld",
        f"SlurmdLogFile={folder}/log/slurmd-%n",
    ]
    size = f"CPUs={os.cpu_count()} RealMemory=1000 {resources}"
    lines += [
        f"NodeName={node} NodeHostname={name} NodeAddr=127.0.0.1 Port={port} {size}"
        for node, port in zip(NODES, ports[1:], strict=True)
    ]
    # Jobs of the second partition preempt those of the first, which have some time then to stop by themselves.
    everywhere = f"Nodes={','.join(NODES)} MaxTime=INFINITE State=UP"
    lines.append(f"PartitionName=all Default=YES PriorityTier=1 GraceTime=60 {everywhere}")
    lines.append(f"PartitionName=urgent PriorityTier=2 {everywhere}")
    return "\n".join(lines) + "\n"


def _idle(running: Cluster) -> int:
    try:
        return running.do("sinfo", "--partition=all", "--Node", "--noheader", "--format=%t").split().count("idle")
    except subprocess.CalledProcessError:  # slurmctld does not answer yet
        return 0


def _until(ready: Callable[[], bool], complaint: str, seconds: float = 30) -> None:
    give_up = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < give_up, complaint
        time.sleep(0.2)
