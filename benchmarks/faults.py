"""Hurts real runs and looks whether they go on from a state that an unhurt run had.

    python benchmarks/faults.py [--kills 100] [--cycles 50] [--times 5] [--only NAME ...] [--seed 0] [--folder DIR]

Prints a table: fault, times injected, times survived, what was looked at. Survived means: the next start trains on,
every hash that it writes is the clean run's, and no step stands twice in metrics.jsonl. The faults of a disk mount one
of their own, which needs root, as does process 1 of a namespace; without it they are left out, and the table says so.
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
from gan_dist.data.sources import write_idx_images
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
    """Runs of one configuration in one scratch folder, all compared with the one that nobody hurt.

    The exact mode: one process and two give the same bits.

    Args:
        scratch: where everything goes.
        seed: of the moments and places of the faults.
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
        """Train to the end and wait."""
        command = [*self.command(folder, processes, script, launch), *more]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def start(self, folder: RunFolder, processes: int = 1, launch: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        """Start a run, and come back when it trains."""
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

    def fresh(self, name: str) -> RunFolder:
        shutil.rmtree(self.scratch / name, ignore_errors=True)
        return RunFolder(self.scratch / name)

    def goes_on_cleanly(self, folder: RunFolder) -> bool:
        """Whether the run, trained to its end, is the clean one: hashes, and no step twice."""
        return self.train(folder).returncode == 0 and self.is_clean(folder)

    def is_clean(self, folder: RunFolder) -> bool:
        steps = [row["step"] for row in read_json_lines(folder.metrics)]
        comparison = compare_hashes(self.clean.path, folder.path)
        return (
            comparison.parted_at is None
            and comparison.steps[-1] == STEPS
            and steps == [row["step"] for row in read_json_lines(self.clean.metrics)]
        )


def sigkill(campaign: Campaign, kills: int) -> Row:
    """SIGKILL at random moments of a run that is started again each time, until it had all of them."""
    folder, survived, rounds = RunFolder(campaign.scratch / "sigkill"), 0, 0
    delays = [campaign.random.uniform(0, 0.4) for _ in range(kills)]
    for delay in delays:
        process = campaign.start(folder)
        time.sleep(delay)
        alive = process.poll() is None
        process.kill()
        process.wait()
        survived += alive
        if read_json(folder.status)["step"] > STEPS // 2:  # far enough: see that it ends well, and begin anew
            rounds += 1
            if not campaign.goes_on_cleanly(folder):
                return ("SIGKILL while training", kills, 0, f"round {rounds} did not end as the clean run")
            shutil.rmtree(folder.path)
    if folder.path.exists():
        rounds += 1
        if not campaign.goes_on_cleanly(folder):
            survived = 0
    return ("SIGKILL while training", kills, survived, f"{rounds} runs trained to their end")


def kill_and_resume(campaign: Campaign, cycles: int) -> Row:
    """SIGKILL at any moment from the first one of the process on, again and again; the last one trains to the end."""
    folder, hits = campaign.fresh("cycles"), {"start-up": 0, "training": 0}
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
            if not campaign.goes_on_cleanly(folder):
                return ("kill and resume at any moment", cycles, 0, "a run did not end as the clean run")
            shutil.rmtree(folder.path)
    survived = cycles if campaign.goes_on_cleanly(folder) else 0
    return ("kill and resume at any moment", cycles, survived, f"final hash; hit in {hits}")


def asked_to_stop(campaign: Campaign, number: signal.Signals, processes: int, times: int) -> Row:
    """A signal to stop, on two processes to the launcher (SIGTERM) or to the last rank: stopped, and gone on with."""
    survived, stopped_at = 0, []
    for _ in range(times):
        folder = campaign.fresh("stop")
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
        survived += stopped and 0 < status["step"] < STEPS and campaign.goes_on_cleanly(folder)
    return (f"{number.name}, {processes} process(es)", times, survived, f"stopped after step {stopped_at}")


def workers(launcher: subprocess.Popen[bytes]) -> list[int]:
    """The processes that a launcher started, rank 0 first."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    return [int(child) for child in children]


def a_rank_is_killed(campaign: Campaign, restarts: int, times: int) -> Row:
    """SIGKILL of one of two ranks at a random moment: the other one names it; or the launcher starts both again."""
    survived, seconds = 0, []
    for i in range(times):
        folder = campaign.fresh("rank")
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
            survived += code != 0 and named and campaign.goes_on_cleanly(folder)
    how = f"with --max_restarts {restarts}" if restarts else "no restarts"
    return (f"SIGKILL of one rank of two, {how}", times, survived, f"over after {seconds} s")


def in_one_rank(campaign: Campaign, fault: str, restarts: int, times: int, *more: str) -> Row:
    """A fault of inject.py in one of two ranks. It goes on by itself (restarts, rollback) or ends, and then goes on."""
    survived, seconds = 0, []
    goes_on = restarts or "rollback" in more
    for i in range(times):
        folder = campaign.fresh("rank")
        network, step = campaign.random.choice(["generator", "discriminator"]), campaign.random.randrange(20, 200)
        script = [str(REPOSITORY / "benchmarks" / "inject.py"), fault, network, str(step), str(i % 2), "1"]
        began = time.monotonic()
        ended = campaign.train(folder, *more, processes=2, script=script, launch=("--max_restarts", str(restarts)))
        seconds.append(round(time.monotonic() - began))
        says = "lost rank" if fault.startswith("SIG") else f"step {step}: the {network}'s loss"
        named = f"{says} {i % 2} " if fault.startswith("SIG") else f"is NaN or infinite on rank {i % 2}"
        ok = says in ended.stdout + ended.stderr and named in ended.stdout + ended.stderr
        if goes_on:
            survived += ok and ended.returncode == 0 and campaign.is_clean(folder)
        else:
            survived += ok and ended.returncode != 0 and campaign.goes_on_cleanly(folder)
    how = " ".join(more) + (f" --max_restarts {restarts}" if restarts else "")
    return (f"{fault} in one rank of two {how}".strip(), times, survived, f"whole runs of {seconds} s")


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A small disk of its own on a folder; PermissionError if that can't be."""
    folder.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True).returncode:
        raise PermissionError
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def disk_full(campaign: Campaign) -> Row:
    """The disk is full at each file of a checkpoint, with keep=1: the one before stays, the run goes on with room."""
    survived, codes = 0, []
    newest = campaign.clean.checkpoints / f"step-{Checkpoints(campaign.clean.checkpoints, 1).steps()[-1]:08d}"
    manifest = read_json(newest / "manifest.json")
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
            survived += ended.returncode == 1 and there and campaign.goes_on_cleanly(folder)
    return (
        "disk full at a file of a checkpoint, keep=1",
        len(names),
        survived,
        f"{', '.join(names)}: exit codes {codes}",
    )


def samples_read_only(campaign: Campaign) -> Row:
    """A folder of samples that can't be written: refused at the start; in the middle said, and the run goes on."""
    folder = campaign.fresh("read-only")
    campaign.train(folder, "--train.steps", "10")
    with mounted(folder.samples, "ro"):
        refused = campaign.train(folder)
    survived = refused.returncode == 2 and refused.stderr.count("\n") == 1 and campaign.goes_on_cleanly(folder)
    folder = campaign.fresh("read-only")
    process = campaign.start(folder)
    with mounted(folder.samples, "ro"):
        code = process.wait()
    survived = survived + (code == 0 and campaign.is_clean(folder))
    return ("read-only sample folder, at the start and later", 2, survived, f"exit codes {refused.returncode}, {code}")


def flip_a_bit(file: Path, campaign: Campaign) -> None:
    content = bytearray(file.read_bytes())
    content[campaign.random.randrange(len(content))] ^= 1 << campaign.random.randrange(8)
    file.write_bytes(content)


class Payload:
    """What a checkpoint must never run."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.system, (f"touch {self.proof}",)


DAMAGES: dict[str, Callable[[Path, Campaign], object]] = {
    "one bit flipped": flip_a_bit,
    "truncated": lambda file, campaign: os.truncate(file, campaign.random.randrange(1, file.stat().st_size)),
    "emptied": lambda file, campaign: os.truncate(file, 0),
    "deleted": lambda file, campaign: file.unlink(),
    "malicious pickle": lambda file, campaign: file.write_bytes(pickle.dumps(Payload(campaign.scratch / "ran"))),
}


def damaged(campaign: Campaign, name: str) -> Row:
    """Each file of the newest checkpoint in turn: it is passed over, and the one before it is used."""
    survived, newest = 0, Checkpoints(campaign.clean.checkpoints, 1).steps()[-1]
    files = sorted((campaign.clean.checkpoints / f"step-{newest:08d}").iterdir())
    for file in files:
        folder = campaign.copy("damaged", campaign.clean)
        DAMAGES[name](folder.checkpoints / file.parent.name / file.name, campaign)
        survived += campaign.goes_on_cleanly(folder) and not (campaign.scratch / "ran").exists()
    return (f"a file of the newest checkpoint {name}", len(files), survived, ", ".join(file.name for file in files))


def without_newest(campaign: Campaign, name: str) -> tuple[RunFolder, Path]:
    """A copy of the clean run that has its last checkpoint's steps to do again; and where that checkpoint was."""
    folder = campaign.copy(name, campaign.clean)
    newest = folder.checkpoints / f"step-{Checkpoints(folder.checkpoints, 1).steps()[-1]:08d}"
    shutil.rmtree(newest)
    return folder, newest


def two_at_once(campaign: Campaign, times: int) -> Row:
    """Two runs start in one fresh folder, up to 3 seconds apart: one trains, the other is refused or finds it done."""
    survived, codes = 0, []
    for _ in range(times):
        folder = campaign.fresh("two")
        first = subprocess.Popen(campaign.command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(campaign.random.uniform(0, 3))
        second = campaign.train(folder)
        codes.append((first.wait(), second.returncode))
        survived += sorted(codes[-1]) in ([0, 0], [0, 2]) and campaign.is_clean(folder)
    return ("two runs start in one fresh folder", times, survived, f"exit codes {codes}")


BAD_LINES = {"blank": b"", "NUL": b"\0" * 64, "garbage": b"}{", "invalid UTF-8": b"\xff\xfe", "no object": b"5"}


def bad_lines(campaign: Campaign) -> Row:
    """A bad line in the middle of metrics.jsonl and of hashes.jsonl costs no other line, and is kept aside."""
    survived, tried = 0, 0
    for bad in BAD_LINES.values():
        folder, _ = without_newest(campaign, "bad lines")
        for file in (folder.metrics, folder.hashes):
            lines = file.read_bytes().split(b"\n")
            file.write_bytes(b"\n".join([*lines[:5], bad, *lines[5:]]))
        kept = [file.with_name(f"{file.name}.damaged") for file in (folder.metrics, folder.hashes)]
        tried += 1
        survived += campaign.goes_on_cleanly(folder) and all(file.read_bytes() == bad + b"\n" for file in kept)
    return ("a bad line in metrics.jsonl and hashes.jsonl", tried, survived, ", ".join(BAD_LINES))


IN_THE_WAY: dict[str, Callable[[Path], object]] = {
    "a file": lambda place: place.write_text("x"),
    "a folder": lambda place: place.mkdir(),
    "a link": lambda place: place.symlink_to("/"),
    "a dangling link": lambda place: place.symlink_to("nowhere"),
    "a FIFO": lambda place: os.mkfifo(place),
}


def in_the_way(campaign: Campaign) -> Row:
    """Something else in the place of a checkpoint that is due: it gets another name."""
    survived = 0
    for put in IN_THE_WAY.values():
        folder, place = without_newest(campaign, "in the way")
        put(place)
        survived += campaign.goes_on_cleanly(folder) and os.path.lexists(place.with_name(f"replaced-1-{place.name}"))
    return ("something in the place of a checkpoint", len(IN_THE_WAY), survived, ", ".join(IN_THE_WAY))


def of_another_run(campaign: Campaign) -> Row:
    """A newer checkpoint of another seed in the folder is passed over and left alone."""
    other = campaign.fresh("other")
    campaign.train(other, "--train.seed", "9", "--train.steps", str(STEPS + CHECKPOINT_EVERY))
    folder, _ = without_newest(campaign, "foreign")
    newest = f"step-{Checkpoints(other.checkpoints, 1).steps()[-1]:08d}"
    shutil.copytree(other.checkpoints / newest, folder.checkpoints / newest)
    survived = campaign.goes_on_cleanly(folder) and (folder.checkpoints / newest).is_dir()
    return ("a newer checkpoint of another run", 1, int(survived), newest)


def forged(campaign: Campaign) -> Row:
    """Tensors of another shape under a manifest whose sums fit: passed over, not a crash."""
    survived, names = 0, ["generator_optimizer", "discriminator_optimizer", "generator", "discriminator"]
    for name in names:
        folder = campaign.copy("forged", campaign.clean)
        newest = folder.checkpoints / f"step-{Checkpoints(folder.checkpoints, 1).steps()[-1]:08d}"
        tensors = safetensors.torch.load_file(newest / f"{name}.safetensors")
        content = safetensors.torch.save({key: torch.zeros(3) for key in tensors})
        (newest / f"{name}.safetensors").write_bytes(content)
        manifest = read_json(newest / "manifest.json")
        entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest["files"][f"{name}.safetensors"] = entry
        (newest / "manifest.json").write_text(json.dumps(manifest))
        survived += campaign.goes_on_cleanly(folder)
    return ("tensors of another shape, sums that fit", len(names), survived, ", ".join(names))


def wandb_stopped(campaign: Campaign, times: int) -> Row:
    """W&B's service is stopped in mid-run: the run finishes, with all its lines."""
    survived, seconds = 0, []
    for _ in range(times):
        folder = campaign.fresh("wandb")
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


def console_gone(campaign: Campaign) -> Row:
    """Nobody reads the console, or its disk is full: the run finishes."""
    survived = 0
    for redirection in CONSOLES:
        folder = campaign.fresh("console")
        words = f"{shlex.join(campaign.command(folder))} {redirection}"
        subprocess.run(["bash", "-c", words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        survived += read_json(folder.status)["state"] == "finished" and campaign.is_clean(folder)
    return ("nobody reads the console", len(CONSOLES), survived, ", ".join(CONSOLES))


def launcher_killed(campaign: Campaign, times: int) -> Row:
    """SIGKILL of the launcher of two ranks at any moment, start-up included: no process is left, the run goes on."""
    survived, seconds = 0, []
    for _ in range(times):
        folder = campaign.fresh("launcher")
        words = campaign.command(folder, 2)
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(campaign.random.uniform(1, 10))
        process.kill()
        process.wait()
        began = time.monotonic()
        while group_of(process.pid) and time.monotonic() - began < 60:
            time.sleep(0.02)
        seconds.append(round(time.monotonic() - began, 1))
        survived += seconds[-1] < TIMEOUT and campaign.goes_on_cleanly(folder)
    return ("SIGKILL of the launcher of two ranks", times, survived, f"all processes gone after {seconds} s")


def group_of(leader: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def launcher_is_process_1(campaign: Campaign) -> Row:
    """accelerate launch as process 1 of its namespace, as in a container."""
    folder = campaign.fresh("container")
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
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        help="such as: disk-full damaged signal rank nan wandb console launcher cycles kills",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    times = arguments.times
    table = Table("fault", "injected", "survived", "looked at", title="faults", title_justify="left")
    lost = 0
    if arguments.folder is not None:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        campaign = Campaign(Path(scratch), arguments.seed)
        faults: dict[str, Callable[[], Row]] = {
            "disk-full": lambda: disk_full(campaign),
            "read-only": lambda: samples_read_only(campaign),
            **{f"damaged: {name}": lambda name=name: damaged(campaign, name) for name in DAMAGES},
            **{
                f"signal: {number.name}, {n}": lambda number=number, n=n: asked_to_stop(campaign, number, n, times)
                for number in (signal.SIGTERM, signal.SIGUSR2)
                for n in (1, 2)
            },
            "rank-killed": lambda: a_rank_is_killed(campaign, 0, times),
            "rank-killed, restarts": lambda: a_rank_is_killed(campaign, 1, times),
            "rank-stopped": lambda: in_one_rank(campaign, "SIGSTOP", 0, 2),
            "rank-stopped, restarts": lambda: in_one_rank(campaign, "SIGSTOP", 1, 2),
            "nan": lambda: in_one_rank(campaign, "nan", 0, times),
            "nan, rollback": lambda: in_one_rank(campaign, "nan", 0, times, "--train.on-nonfinite", "rollback"),
            "two-at-once": lambda: two_at_once(campaign, times),
            "bad-lines": lambda: bad_lines(campaign),
            "in-the-way": lambda: in_the_way(campaign),
            "foreign": lambda: of_another_run(campaign),
            "forged": lambda: forged(campaign),
            "wandb": lambda: wandb_stopped(campaign, 2),
            "console": lambda: console_gone(campaign),
            "launcher-killed": lambda: launcher_killed(campaign, times),
            "launcher-1": lambda: launcher_is_process_1(campaign),
            "cycles": lambda: kill_and_resume(campaign, arguments.cycles),
            "kills": lambda: sigkill(campaign, arguments.kills),
        }
        for label, fault in faults.items():
            if arguments.only and not label.startswith(tuple(arguments.only)):
                continue
            try:
                name, injected, survived, looked_at = fault()
            except PermissionError:
                table.add_row(label, "0", "0", "left out: it needs root")
                continue
            lost += injected - survived
            table.add_row(name, str(injected), str(survived), looked_at)
            print(f"{name}: {survived} of {injected} survived", flush=True)
    Console().print(table)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
