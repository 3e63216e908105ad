"""Hurts real runs and looks whether they go on from a state that an unhurt run had.

    python benchmarks/faults.py [--kills 100] [--seed 0] [--folder DIR]

Prints a table: fault, times injected, times survived, what was looked at. Survived means: the next start trains on,
every hash that it writes is the clean run's, and no step stands twice in metrics.jsonl.
"""

from __future__ import annotations

import argparse
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from gan_dist.results.diff import compare_hashes
from gan_dist.run.checkpoint import Checkpoints
from gan_dist.run.folder import STOPPED_EXIT_CODE, RunFolder, read_json, read_json_lines

REPOSITORY = Path(__file__).resolve().parent.parent
STEPS = 4000
CHECKPOINT_EVERY = 7  # a prime: the checkpoints fall inside epochs and log windows
Row = tuple[str, int, int, str]


class Campaign:
    """Runs of one configuration in one scratch folder, all compared with the one that nobody hurt.

    Args:
        scratch: where everything goes.
        seed: of the moments and places of the faults.
    """

    def __init__(self, scratch: Path, seed: int) -> None:
        self.scratch = scratch
        self.random = random.Random(seed)
        self.data = scratch / "data"
        self._write_images()
        self.clean = RunFolder(scratch / "clean")
        self.train(self.clean)

    def command(self, folder: RunFolder) -> list[str]:
        return [
            *(sys.executable, str(REPOSITORY / "gan_dist" / "train.py"), "--run.dir", str(folder.path)),
            *("--data.root", str(self.data), "--data.source", "local", "--train.batch-size", "20"),
            *("--train.epochs", "100000", "--train.steps", str(STEPS), "--train.threads", "1"),
            *("--log.every-steps", "5", "--train.log-hashes", "50", "--samples.every-epochs", "20"),
            *("--checkpoint.every-steps", str(CHECKPOINT_EVERY), "--wandb.mode", "disabled"),
        ]

    def train(self, folder: RunFolder) -> subprocess.CompletedProcess[str]:
        """Train to the end and wait."""
        return subprocess.run(self.command(folder), capture_output=True, text=True, check=False)

    def start(self, folder: RunFolder) -> subprocess.Popen[bytes]:
        """Start a run, and come back when it trains."""
        before = folder.status.stat().st_mtime_ns if folder.status.exists() else 0
        process = subprocess.Popen(self.command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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

    def goes_on_cleanly(self, folder: RunFolder) -> bool:
        """Whether the run, trained to its end, is the clean one: hashes, and no step twice."""
        if self.train(folder).returncode != 0:
            return False
        steps = [row["step"] for row in read_json_lines(folder.metrics)]
        comparison = compare_hashes(self.clean.path, folder.path)
        return (
            comparison.parted_at is None
            and comparison.steps[-1] == STEPS
            and steps == [row["step"] for row in read_json_lines(self.clean.metrics)]
        )

    def _write_images(self) -> None:
        images = np.random.default_rng(0).integers(0, 256, (200, 28, 28), dtype=np.uint8)
        file = self.data / "MNIST" / "raw" / "train-images-idx3-ubyte"
        file.parent.mkdir(parents=True)
        header = b"".join(n.to_bytes(4, "big") for n in (0x803, *images.shape))
        file.write_bytes(header + images.tobytes())


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


def asked_to_stop(campaign: Campaign, number: signal.Signals) -> Row:
    """A signal to stop: exit code 75, and the run goes on to the same end."""
    folder = RunFolder(campaign.scratch / number.name)
    process = campaign.start(folder)
    time.sleep(0.3)
    process.send_signal(number)
    code = process.wait()
    stopped_at = read_json(folder.status)["step"]
    survived = code == STOPPED_EXIT_CODE and 0 < stopped_at < STEPS and campaign.goes_on_cleanly(folder)
    return (number.name, 1, int(survived), f"stopped after step {stopped_at}")


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    table = Table("fault", "injected", "survived", "looked at", title="faults", title_justify="left")
    lost = 0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        campaign = Campaign(Path(scratch), arguments.seed)
        faults: list[Callable[[], Row]] = [
            lambda: sigkill(campaign, arguments.kills),
            *(lambda number=number: asked_to_stop(campaign, number) for number in (signal.SIGTERM, signal.SIGUSR2)),
            *(lambda name=name: damaged(campaign, name) for name in DAMAGES),
        ]
        for fault in faults:
            name, injected, survived, looked_at = fault()
            lost += injected - survived
            table.add_row(name, str(injected), str(survived), looked_at)
            print(f"{name}: {survived} of {injected} survived", flush=True)
    Console().print(table)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
