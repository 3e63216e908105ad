"""Injects faults into real runs and checks that they continue with the states of a run without faults.

    python benchmarks/faults.py [--kills 100] [--cycles 50] [--times 5] [--only NAME ...] [--seed 0] [--folder DIR]

Prints a table: fault, number injected, number survived, details. Survived means: the next start continues, all its
hashes equal those of the run without faults, and no step is in metrics.jsonl twice. The disk faults mount a separate
disk, which needs root, as does process 1 of a namespace; without root they are skipped, and the table says so.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import pickle
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import safetensors.torch
import torch
from launching import REPOSITORY, TRAIN, launcher
from rich.console import Console
from rich.table import Table

from gan_dist.config import STOPPED_EXIT_CODE
from gan_dist.data.readers.idx import write_idx_images
from gan_dist.outputs.checkpoint import Checkpoints
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json, read_json_lines
from gan_dist.results.diff import compare_hashes

SCRIPT = [TRAIN]
STEPS = 1000
CHECKPOINT_EVERY = 7  # a prime: the checkpoints fall inside epochs and log windows
TIMEOUT = 8  # seconds, of distributed.timeout
Row = tuple[str, int, int, str]


class Campaign:
    """Runs of one configuration in one scratch folder, compared with a run without faults.

    In the exact mode, so that one process and two give the same bits.

    Args:
        scratch: folder of the runs and their data.
        seed: random seed of the times and places of the faults.
    """

    def __init__(self, scratch: Path, seed: int) -> None:
        self.scratch = scratch
        self.random = random.Random(seed)
        self.data = scratch / "data"
        images = np.random.default_rng(0).integers(0, 256, (200, 28, 28), dtype=np.uint8)
        write_idx_images(self.data, "mnist", images)
        self.clean = RunFolder(scratch / "clean")
        self.train(self.clean)

    def command(
        self, folder: RunFolder, processes: int = 1, script: list[str] = SCRIPT, launch: tuple[str, ...] = ()
    ) -> list[str]:
        return [
            *(*launcher(processes, *launch), *script, "--run.dir", str(folder.path)),
            *("--data.root", str(self.data), "--data.source", "local", "--train.batch-size", "20"),
            *("--train.epochs", "100000", "--train.steps", str(STEPS), "--train.threads", "1"),
            *("--train.exact-shards", "2", "--distributed.timeout", str(TIMEOUT), "--wandb.timeout", "1"),
            *("--log.every-steps", "5", "--train.log-hashes", "50", "--samples.every-epochs", "20"),
            *("--checkpoint.every-steps", str(CHECKPOINT_EVERY), "--wandb.mode", "disabled"),
        ]

    def train(
        self,
        folder: RunFolder,
        *more: str,
        processes: int = 1,
        script: list[str] = SCRIPT,
        launch: tuple[str, ...] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Train to the end."""
        command = [*self.command(folder, processes, script, launch), *more]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def start(self, folder: RunFolder, processes: int = 1, launch: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        """Start a run, and return when it trains."""
        before = folder.status.stat().st_mtime_ns if folder.status.exists() else 0
        command = self.command(folder, processes, launch=launch)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not folder.status.exists() or folder.status.stat().st_mtime_ns == before:
            if process.poll() is not None:
                break
            time.sleep(0.005)
        return process

    def copy(self, name: str, of: RunFolder) -> RunFolder:
        target = self.scratch / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(of.path, target)
        return RunFolder(target)

    def new(self, name: str) -> RunFolder:
        shutil.rmtree(self.scratch / name, ignore_errors=True)
        return RunFolder(self.scratch / name)

    def continues_cleanly(self, folder: RunFolder) -> bool:
        """Train a run to its end; return whether it equals the run without faults: hashes, and no step twice."""
        return self.train(folder).returncode == 0 and self.is_clean(folder)

    def is_clean(self, folder: RunFolder) -> bool:
        steps = [row["step"] for row in read_json_lines(folder.metrics)]
        comparison = compare_hashes(self.clean.path, folder.path)
        return (
            comparison.differs_at is None
            and comparison.equal_steps[-1] == STEPS
            and steps == [row["step"] for row in read_json_lines(self.clean.metrics)]
        )


def sigkill(campaign: Campaign, kills: int) -> Row:
    """SIGKILL at random times of the training; the run is started again after each."""
    folder, survived, rounds = RunFolder(campaign.scratch / "sigkill"), 0, 0
    delays = [campaign.random.uniform(0, 0.4) for _ in range(kills)]
    for delay in delays:
        process = campaign.start(folder)
        time.sleep(delay)
        alive = process.poll() is None
        process.kill()
        process.wait()
        survived += alive
        if read_json(folder.status)["step"] > STEPS // 2:  # train it to its end, and start a new run
            rounds += 1
            if not campaign.continues_cleanly(folder):
                return ("SIGKILL while training", kills, 0, f"round {rounds} ended in another state")
            shutil.rmtree(folder.path)
    if folder.path.exists():
        rounds += 1
        if not campaign.continues_cleanly(folder):
            survived = 0
    return ("SIGKILL while training", kills, survived, f"{rounds} runs trained to their end")


def kill_and_resume(campaign: Campaign, cycles: int) -> Row:
    """SIGKILL at random times, start-up included; the run is restarted after each, and finally trained to its end."""
    folder, hits = campaign.new("cycles"), {"start-up": 0, "training": 0}
    for _ in range(cycles):
        before = folder.status.stat().st_mtime_ns if folder.status.exists() else 0
        command = campaign.command(folder)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(campaign.random.uniform(0, 6))
        process.kill()
        process.wait()
        began = folder.status.exists() and folder.status.stat().st_mtime_ns != before
        hits["training" if began else "start-up"] += 1
        if folder.status.exists() and read_json(folder.status)["step"] > STEPS // 2:
            if not campaign.continues_cleanly(folder):
                return ("kill and resume at any time", cycles, 0, "a run ended in another state")
            shutil.rmtree(folder.path)
    survived = cycles if campaign.continues_cleanly(folder) else 0
    return ("kill and resume at any time", cycles, survived, f"final hash; killed in {hits}")


def stop_signal(campaign: Campaign, number: signal.Signals, processes: int, times: int) -> Row:
    """A stop signal; with two processes to the launcher (SIGTERM) or to the last rank. The run stops, and resumes."""
    survived, stopped_at = 0, []
    for _ in range(times):
        folder = campaign.new("stop")
        process = campaign.start(folder, processes)
        time.sleep(campaign.random.uniform(0.1, 0.6))
        if processes > 1 and number != signal.SIGTERM:
            os.kill(workers(process)[-1], number)
        else:
            process.send_signal(number)
        code = process.wait()
        status = read_json(folder.status)
        stopped_at.append(status["step"])
        stopped = status["state"] == "stopped" and (processes > 1 or code == STOPPED_EXIT_CODE)
        survived += stopped and 0 < status["step"] < STEPS and campaign.continues_cleanly(folder)
    return (f"{number.name}, {processes} process(es)", times, survived, f"stopped after step {stopped_at}")


def workers(launcher: subprocess.Popen[bytes]) -> list[int]:
    """The child processes of a launcher, rank 0 first."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    return [int(child) for child in children]


def rank_killed(campaign: Campaign, restarts: int, times: int) -> Row:
    """SIGKILL of one of two ranks at a random time: the other one names it; or the launcher restarts both."""
    survived, seconds = 0, []
    for i in range(times):
        folder = campaign.new("rank")
        process = campaign.start(folder, 2, launch=("--max_restarts", str(restarts)))
        time.sleep(campaign.random.uniform(0.1, 0.6))
        os.kill(workers(process)[i % 2], signal.SIGKILL)
        began = time.monotonic()
        code = process.wait()
        seconds.append(round(time.monotonic() - began, 1))
        if restarts:
            survived += code == 0 and campaign.is_clean(folder)
        else:
            named = i % 2 == 0 or "lost rank 1" in read_json(folder.status)["reason"]
            survived += code != 0 and named and campaign.continues_cleanly(folder)
    how = f"with --max_restarts {restarts}" if restarts else "no restarts"
    return (f"SIGKILL of one rank of two, {how}", times, survived, f"ended after {seconds} s")


def fault_in_one_rank(campaign: Campaign, fault: str, restarts: int, times: int, *more: str) -> Row:
    """A fault of inject.py in one of two ranks. The run continues (restarts, rollback), or ends and resumes."""
    survived, seconds = 0, []
    continues = restarts or "rollback" in more
    for i in range(times):
        folder = campaign.new("rank")
        network, step = campaign.random.choice(["generator", "discriminator"]), campaign.random.randrange(20, 200)
        script = [str(REPOSITORY / "benchmarks" / "inject.py"), fault, network, str(step), str(i % 2), "1"]
        began = time.monotonic()
        ended = campaign.train(folder, *more, processes=2, script=script, launch=("--max_restarts", str(restarts)))
        seconds.append(round(time.monotonic() - began))
        says = "lost rank" if fault.startswith("SIG") else f"step {step}: the {network}'s loss"
        named = f"{says} {i % 2} " if fault.startswith("SIG") else f"is NaN or infinite on rank {i % 2}"
        ok = says in ended.stdout + ended.stderr and named in ended.stdout + ended.stderr
        if continues:
            survived += ok and ended.returncode == 0 and campaign.is_clean(folder)
        else:
            survived += ok and ended.returncode != 0 and campaign.continues_cleanly(folder)
    how = " ".join(more) + (f" --max_restarts {restarts}" if restarts else "")
    return (f"{fault} in one rank of two {how}".strip(), times, survived, f"runs of {seconds} s")


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Mount a small separate disk on a folder; PermissionError if this is not possible."""
    folder.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True).returncode:
        raise PermissionError
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def latest_checkpoint(run: RunFolder) -> Path:
    """The folder of a run's latest checkpoint."""
    return run.checkpoints / f"step-{Checkpoints(run.checkpoints, 1).steps()[-1]:08d}"


def disk_full(campaign: Campaign) -> Row:
    """The disk is full at each file of a checkpoint, with keep=1: the previous one stays, and the run resumes."""
    survived, codes = 0, []
    manifest = read_json(latest_checkpoint(campaign.clean) / "manifest.json")
    pages = [-(-entry["size"] // 4096) for entry in manifest["files"].values()] + [1]
    names = [*manifest["files"], "manifest.json"]
    for i in range(len(names)):
        disk = campaign.scratch / "disk"
        with mounted(disk, "size=64m"):
            folder, ballast = RunFolder(disk / "run"), disk / "ballast"
            step = CHECKPOINT_EVERY * 8  # no log point
            left = 4096 * (sum(pages[:i]) + pages[i] // 2)
            script = [str(REPOSITORY / "benchmarks" / "inject.py"), f"fill:{ballast}:{left}", "generator", str(step)]
            ended = campaign.train(folder, "--checkpoint.keep", "1", script=[*script, "0", "1"])
            codes.append(ended.returncode)
            there = Checkpoints(folder.checkpoints, 1).steps() == [step - CHECKPOINT_EVERY]
            ballast.unlink()
            survived += ended.returncode == 1 and there and campaign.continues_cleanly(folder)
    return (
        "disk full at a file of a checkpoint, keep=1",
        len(names),
        survived,
        f"{', '.join(names)}: exit codes {codes}",
    )


def samples_read_only(campaign: Campaign) -> Row:
    """A read-only folder of samples: an error at the start; later a warning, and the run continues."""
    folder = campaign.new("read-only")
    campaign.train(folder, "--train.steps", "10")
    with mounted(folder.samples, "ro"):
        refused = campaign.train(folder)
    survived = refused.returncode == 2 and refused.stderr.count("\n") == 1 and campaign.continues_cleanly(folder)
    folder = campaign.new("read-only")
    process = campaign.start(folder)
    with mounted(folder.samples, "ro"):
        code = process.wait()
    survived = survived + (code == 0 and campaign.is_clean(folder))
    return ("read-only sample folder, at the start and later", 2, survived, f"exit codes {refused.returncode}, {code}")


def flip_bit(file: Path, campaign: Campaign) -> None:
    content = bytearray(file.read_bytes())
    content[campaign.random.randrange(len(content))] ^= 1 << campaign.random.randrange(8)
    file.write_bytes(content)


class Payload:
    """Code that loading a checkpoint must never execute."""

    def __init__(self, evidence: Path) -> None:
        self.evidence = evidence

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.system, (f"touch {self.evidence}",)


DAMAGES: dict[str, Callable[[Path, Campaign], object]] = {
    "one bit flipped": flip_bit,
    "truncated": lambda file, campaign: os.truncate(file, campaign.random.randrange(1, file.stat().st_size)),
    "emptied": lambda file, campaign: os.truncate(file, 0),
    "deleted": lambda file, campaign: file.unlink(),
    "malicious pickle": lambda file, campaign: file.write_bytes(pickle.dumps(Payload(campaign.scratch / "ran"))),
}


def damaged_checkpoint(campaign: Campaign, name: str) -> Row:
    """Each file of the latest checkpoint in turn: this checkpoint is skipped, and the previous one is used."""
    survived, files = 0, sorted(latest_checkpoint(campaign.clean).iterdir())
    for file in files:
        folder = campaign.copy("damaged", campaign.clean)
        DAMAGES[name](folder.checkpoints / file.parent.name / file.name, campaign)
        survived += campaign.continues_cleanly(folder) and not (campaign.scratch / "ran").exists()
    return (f"a file of the latest checkpoint {name}", len(files), survived, ", ".join(file.name for file in files))


def without_latest(campaign: Campaign, name: str) -> tuple[RunFolder, Path]:
    """A copy of the clean run without its latest checkpoint, and the path of that checkpoint."""
    folder = campaign.copy(name, campaign.clean)
    latest = latest_checkpoint(folder)
    shutil.rmtree(latest)
    return folder, latest


def two_at_once(campaign: Campaign, times: int) -> Row:
    """Two runs start in one new folder, at most 3 seconds apart: one trains; the other fails, or finds it finished."""
    survived, codes = 0, []
    for _ in range(times):
        folder = campaign.new("two")
        first = subprocess.Popen(campaign.command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(campaign.random.uniform(0, 3))
        second = campaign.train(folder)
        codes.append((first.wait(), second.returncode))
        survived += sorted(codes[-1]) in ([0, 0], [0, 2]) and campaign.is_clean(folder)
    return ("two runs start in one new folder", times, survived, f"exit codes {codes}")


BAD_LINES = {"blank": b"", "NUL": b"\0" * 64, "garbage": b"}{", "invalid UTF-8": b"\xff\xfe", "no object": b"5"}


def bad_lines(campaign: Campaign) -> Row:
    """A bad line in metrics.jsonl and hashes.jsonl is moved to a separate file; no other line is lost."""
    survived, injected = 0, 0
    for bad in BAD_LINES.values():
        folder, _ = without_latest(campaign, "bad lines")
        for file in (folder.metrics, folder.hashes):
            lines = file.read_bytes().split(b"\n")
            file.write_bytes(b"\n".join([*lines[:5], bad, *lines[5:]]))
        kept = [file.with_name(f"{file.name}.damaged") for file in (folder.metrics, folder.hashes)]
        injected += 1
        survived += campaign.continues_cleanly(folder) and all(file.read_bytes() == bad + b"\n" for file in kept)
    return ("a bad line in metrics.jsonl and hashes.jsonl", injected, survived, ", ".join(BAD_LINES))


OBSTACLES: dict[str, Callable[[Path], object]] = {
    "a file": lambda place: place.write_text("x"),
    "a folder": lambda place: place.mkdir(),
    "a link": lambda place: place.symlink_to("/"),
    "a dangling link": lambda place: place.symlink_to("nowhere"),
    "a FIFO": lambda place: os.mkfifo(place),
}


def obstacle(campaign: Campaign) -> Row:
    """Something else at the path of the next checkpoint: it is renamed."""
    survived = 0
    for create in OBSTACLES.values():
        folder, place = without_latest(campaign, "in the way")
        create(place)
        survived += campaign.continues_cleanly(folder) and os.path.lexists(place.with_name(f"replaced-1-{place.name}"))
    return ("something at the path of a checkpoint", len(OBSTACLES), survived, ", ".join(OBSTACLES))


def checkpoint_of_another_run(campaign: Campaign) -> Row:
    """A later checkpoint of another seed in the folder is skipped and not changed."""
    other = campaign.new("other")
    campaign.train(other, "--train.seed", "9", "--train.steps", str(STEPS + CHECKPOINT_EVERY))
    folder, _ = without_latest(campaign, "foreign")
    latest = latest_checkpoint(other)
    copied = shutil.copytree(latest, folder.checkpoints / latest.name)
    survived = campaign.continues_cleanly(folder) and copied.is_dir()
    return ("a later checkpoint of another run", 1, int(survived), latest.name)


def forged(campaign: Campaign) -> Row:
    """Tensors of another shape with matching hashes in the manifest: the checkpoint is skipped."""
    survived, names = 0, ["generator_optimizer", "discriminator_optimizer", "generator", "discriminator"]
    for name in names:
        folder = campaign.copy("forged", campaign.clean)
        latest = latest_checkpoint(folder)
        tensors = safetensors.torch.load_file(latest / f"{name}.safetensors")
        content = safetensors.torch.save({key: torch.zeros(3) for key in tensors})
        (latest / f"{name}.safetensors").write_bytes(content)
        manifest = read_json(latest / "manifest.json")
        entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest["files"][f"{name}.safetensors"] = entry
        (latest / "manifest.json").write_text(json.dumps(manifest))
        survived += campaign.continues_cleanly(folder)
    return ("tensors of another shape, matching hashes", len(names), survived, ", ".join(names))


def wandb_stopped(campaign: Campaign, times: int) -> Row:
    """W&B's service is suspended during the run: the run finishes, with all its lines."""
    survived, seconds = 0, []
    for _ in range(times):
        folder = campaign.new("wandb")
        words = [*campaign.command(folder), "--wandb.mode", "offline", "--wandb.timeout", "2"]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not folder.metrics.exists():
            time.sleep(0.01)
        services = [child for child in psutil.Process(process.pid).children() if child.name() == "wandb-core"]
        for service in services:
            service.suspend()
        began = time.monotonic()
        code = process.wait()
        seconds.append(round(time.monotonic() - began, 1))
        for service in services:
            with contextlib.suppress(psutil.Error):
                service.kill()
        survived += bool(services) and code == 0 and campaign.is_clean(folder)
    return ("SIGSTOP of W&B's service", times, survived, f"finished {seconds} s later")


CONSOLES = ("| head -n 1", "> /dev/full", "2> /dev/full", ">&-", "2>&1 | true")


def console_closed(campaign: Campaign) -> Row:
    """The console has no reader, or its disk is full: the run finishes."""
    survived = 0
    for redirection in CONSOLES:
        folder = campaign.new("console")
        words = f"{shlex.join(campaign.command(folder))} {redirection}"
        subprocess.run(["bash", "-c", words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        survived += read_json(folder.status)["state"] == "finished" and campaign.is_clean(folder)
    return ("the console has no reader", len(CONSOLES), survived, ", ".join(CONSOLES))


def launcher_killed(campaign: Campaign, times: int) -> Row:
    """SIGKILL of the launcher of two ranks at a random time, start-up included: no process is left; the run resumes."""
    survived, seconds = 0, []
    for _ in range(times):
        folder = campaign.new("launcher")
        words = campaign.command(folder, 2)
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(campaign.random.uniform(1, 10))
        process.kill()
        process.wait()
        began = time.monotonic()
        while group_of(process.pid) and time.monotonic() - began < 60:
            time.sleep(0.02)
        seconds.append(round(time.monotonic() - began, 1))
        survived += seconds[-1] < TIMEOUT and campaign.continues_cleanly(folder)
    return ("SIGKILL of the launcher of two ranks", times, survived, f"all processes ended after {seconds} s")


def group_of(leader: int) -> list[int]:
    """The processes of a session, except zombies."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def launcher_is_process_1(campaign: Campaign) -> Row:
    """accelerate launch is process 1 of its namespace, as in a container."""
    folder = campaign.new("container")
    command = shlex.join(campaign.command(folder, 1, launch=("--max_restarts", "0")))
    words = ["unshare", "--pid", "--fork", "--mount-proc", "bash", "-c", f"exec {command}"]
    if subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True, check=False).returncode:
        raise PermissionError
    code = subprocess.run(words, capture_output=True, check=False).returncode
    survived = code == 0 and campaign.is_clean(folder)
    return ("the launcher is process 1", 1, int(survived), f"exit code {code}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[], help="prefixes, such as: disk-full damaged rank nan wandb")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    times = arguments.times
    table = Table("fault", "injected", "survived", "details", title="faults", title_justify="left")
    failed = 0
    if arguments.folder is not None:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        campaign = Campaign(Path(scratch), arguments.seed)
        faults: dict[str, Callable[[], Row]] = {
            "disk-full": lambda: disk_full(campaign),
            "read-only": lambda: samples_read_only(campaign),
            **{f"damaged: {name}": lambda name=name: damaged_checkpoint(campaign, name) for name in DAMAGES},
            **{
                f"signal: {number.name}, {n}": lambda number=number, n=n: stop_signal(campaign, number, n, times)
                for number in (signal.SIGTERM, signal.SIGUSR2)
                for n in (1, 2)
            },
            "rank-killed": lambda: rank_killed(campaign, 0, times),
            "rank-killed, restarts": lambda: rank_killed(campaign, 1, times),
            "rank-stopped": lambda: fault_in_one_rank(campaign, "SIGSTOP", 0, 2),
            "rank-stopped, restarts": lambda: fault_in_one_rank(campaign, "SIGSTOP", 1, 2),
            "nan": lambda: fault_in_one_rank(campaign, "nan", 0, times),
            "nan, rollback": lambda: fault_in_one_rank(campaign, "nan", 0, times, "--train.on-nonfinite", "rollback"),
            "two-at-once": lambda: two_at_once(campaign, times),
            "bad-lines": lambda: bad_lines(campaign),
            "in-the-way": lambda: obstacle(campaign),
            "foreign": lambda: checkpoint_of_another_run(campaign),
            "forged": lambda: forged(campaign),
            "wandb": lambda: wandb_stopped(campaign, 2),
            "console": lambda: console_closed(campaign),
            "launcher-killed": lambda: launcher_killed(campaign, times),
            "launcher-1": lambda: launcher_is_process_1(campaign),
            "cycles": lambda: kill_and_resume(campaign, arguments.cycles),
            "kills": lambda: sigkill(campaign, arguments.kills),
        }
        for label, fault in faults.items():
            if arguments.only and not label.startswith(tuple(arguments.only)):
                continue
            try:
                name, injected, survived, details = fault()
            except PermissionError:
                table.add_row(label, "0", "0", "skipped: it needs root")
                continue
            failed += injected - survived
            table.add_row(name, str(injected), str(survived), details)
            print(f"{name}: {survived} of {injected} survived", flush=True)
    Console().print(table)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
