"""Two hosts with two ranks each, without training: one all-reduce over all ranks, against sums per host first.

    python benchmarks/hosts_reduction.py [--calls 200] [--rates "1 Gbit/s" "10 Gbit/s"]

As hosts.py, but the processes only add vectors, in both ways in turn within the same processes, so that other work on
the machine disturbs both alike. Prints a Markdown table: milliseconds of the two all-reduces of a step, median and
first decile over the steps, of rank 0.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median, quantiles

import torch
import torch.distributed as dist
from accelerate.utils import gather_object
from launching import launcher
from scaling import LINKS, SPACES, Link, table

from gan_dist.config import TrainConfig
from gan_dist.distributed.cpu_exchange import group_by_host, open_exchange
from gan_dist.distributed.environment import read_environment
from gan_dist.distributed.launcher import start_accelerator
from gan_dist.trainer.gradients import make_reduction

NETWORKS = {"seed": (333_313, 270_288), "5 x as many weights": (1_666_565, 1_351_440)}  # weights of D and G
TIMEOUT = 120.0


def measure(output: Path, calls: int) -> None:
    """On one rank: time both ways in turn."""
    accelerator = start_accelerator("no", 1, TIMEOUT)
    rank, ranks = accelerator.process_index, accelerator.num_processes
    launched = read_environment()
    hosts = group_by_host(gather_object([launched.rank - launched.local_rank]))
    assert len(hosts) == 2, hosts
    largest = max(max(sizes) for sizes in NETWORKS.values())
    exchange = open_exchange(rank, hosts, largest, lambda mine: gather_object([mine]), TIMEOUT, sys.exit)
    ways = {
        "flat": make_reduction(TrainConfig(), ranks),
        "hierarchical": make_reduction(TrainConfig(), ranks, exchange),
    }
    times: dict[str, dict[str, list[float]]] = {}
    for name, sizes in NETWORKS.items():
        vectors = [torch.randn(1, size) for size in sizes]
        times[name] = {way: [] for way in ways}
        for call in range(calls + 5):
            for way, reduction in ways.items():
                dist.barrier()
                began = time.perf_counter()
                for vector in vectors:
                    reduction(vector.mul_(0.1))
                if call >= 5:
                    times[name][way].append(1e3 * (time.perf_counter() - began))
    if accelerator.is_main_process:
        output.write_text(json.dumps(times))
    if exchange is not None:
        exchange.memory.close()
    accelerator.end_training()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--rates", nargs="+", default=list(LINKS), choices=LINKS)
    parser.add_argument("--rank-of", type=Path, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank_of is not None:
        measure(arguments.rank_of, arguments.calls)
        return 0
    rows = []
    for rate in arguments.rates:
        output = Path(os.environ.get("TMPDIR", "/tmp")) / f"hosts-reduction-{os.getpid()}.json"
        with Link() as link:
            link.limit(rate)
            together = ("--num_machines", "2", "--main_process_ip", "10.77.0.1", "--main_process_port", "29577")
            words = [__file__, "--rank-of", str(output), "--calls", str(arguments.calls)]
            started = [
                subprocess.Popen(
                    ["ip", "netns", "exec", space, *launcher(4, *together, "--machine_rank", str(i)), *words],
                    env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "veth0"},
                )
                for i, space in enumerate(SPACES)
            ]
            codes = [process.wait() for process in started]
            if any(codes):
                return 1
        for name, ways in json.loads(output.read_text()).items():
            middle = {way: median(found) for way, found in ways.items()}
            low = {way: quantiles(found, n=10)[0] for way, found in ways.items()}
            megabytes = 4e-6 * sum(NETWORKS[name])
            row = [rate, f"{name}, {megabytes:.1f} MB"]
            for figures in (middle, low):
                row += [*(f"{figures[way]:.1f}" for way in figures), f"{figures['flat'] / figures['hierarchical']:.2f}"]
            rows.append(row)
        output.unlink()
    head = ["link", "gradients", "median: flat (ms)", "hierarchical", "ratio", "first decile: flat", "hierarchical"]
    table([*head, "ratio"], rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
