"""Two hosts with two ranks each: gradients added per host first, against one all-reduce over all ranks.

    python benchmarks/hosts.py --data DIR [--rounds 3] [--steps 60] [--folder DIR]

The hosts are two network namespaces on this machine, connected by a veth whose rate tc limits (scaling.py has the
details). Needs root and iproute2. Each round trains every setting once in both ways, one after the other. Prints a
Markdown table of medians; the ratio is the median of the rounds' ratios. The four ranks share this machine's cores, so
their computation takes longer than on two hosts, and the ratio of images/s is smaller.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from launching import TRAIN, launcher
from scaling import SPACES, Link, StepTime, table

from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json

WAYS = {"flat": ["--distributed.no-shared-memory"], "hierarchical": []}
RECORDED = {"flat": "flat: gloo", "hierarchical": "flat: shared memory in each of 2 hosts, gloo between them"}


@dataclass(frozen=True)
class Setting:
    name: str
    flags: tuple[str, ...]
    batch: int
    rate: str
    """Key of scaling.LINKS."""


SETTINGS = [
    Setting("seed", ("seed",), 1024, "1 Gbit/s"),
    Setting("seed, 512 wide", ("seed", "--model.hidden-dim", "512"), 1024, "1 Gbit/s"),
    Setting("seed", ("seed",), 100, "1 Gbit/s"),
    Setting("seed", ("seed",), 8, "1 Gbit/s"),  # almost nothing but communication
    Setting("r3-conv", ("r3-conv",), 1024, "1 Gbit/s"),
    Setting("seed", ("seed",), 1024, "10 Gbit/s"),
]


def measure(setting: Setting, way: str, data: Path, scratch: Path, steps: int) -> StepTime:
    """Train some steps, with one thread per rank."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder, Link() as link:
        link.limit(setting.rate)
        flags = [
            TRAIN,
            *setting.flags,
            "--data.root",
            str(data),
            "--data.source",
            "local",
            "--run.dir",
            f"{folder}/run",
        ]
        flags += ["--train.batch-size", str(setting.batch), "--train.threads", "1", "--train.steps", str(steps)]
        flags += ["--evaluate.every-epochs", "None", "--profile", "--wandb.mode", "disabled", *WAYS[way]]
        together = ("--num_machines", "2", "--main_process_ip", "10.77.0.1", "--main_process_port", "29577")
        started = [
            subprocess.Popen(
                ["ip", "netns", "exec", space, *launcher(4, *together, "--machine_rank", str(i)), *flags],
                env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "veth0"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for i, space in enumerate(SPACES)
        ]
        errors = [process.communicate()[1] for process in started]
        if any(process.returncode for process in started):
            sys.exit(f"{setting} {way} failed:\n" + "\n".join(errors))
        run = RunFolder(Path(folder) / "run")
        assert read_json(run.environment)["gradients"] == RECORDED[way]
        phases = read_json(run.profile / "phases.json")["milliseconds_per_step"]
    return StepTime(sum(phases.values()), phases["communication"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--only", type=int, nargs="*", default=range(len(SETTINGS)), help="numbers of settings, from 0")
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    rounds: dict[Setting, list[dict[str, StepTime]]] = {SETTINGS[i]: [] for i in arguments.only}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        for number in range(arguments.rounds):
            for setting, results in rounds.items():
                ways = list(WAYS)[:: 1 if number % 2 == 0 else -1]  # neither is always the first
                results.append(
                    {way: measure(setting, way, arguments.data, Path(scratch), arguments.steps) for way in ways}
                )
                print(f"round {number + 1}: {setting} {results[-1]}", file=sys.stderr, flush=True)
    rows = []
    for setting, results in rounds.items():
        step = {way: median(each[way].step for each in results) for way in WAYS}
        between = {way: median(each[way].communication for each in results) for way in WAYS}
        ratio = median(each["flat"].step / each["hierarchical"].step for each in results)
        rows.append(
            [
                *(setting.name, f"{setting.batch:,}", setting.rate),
                *(f"{1e3 * setting.batch / step[way]:,.0f}" for way in WAYS),
                f"{ratio:.2f}",
                *(f"{between[way]:.1f}" for way in WAYS),
                f"{between['flat'] / between['hierarchical']:.2f}",
            ]
        )
    table(
        [
            *("network", "batch", "link", "images/s: flat", "hierarchical", "ratio"),
            *("communication (ms): flat", "hierarchical", "ratio"),
        ],
        rows,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
