"""The speed on several processes: measured on this machine, and predicted for more by a model fitted to it.

    python benchmarks/scaling.py --data DIR [--rounds 3] [--plot docs/scaling.png] [--folder DIR]

Trains with `--profile` on 1, 2 and 4 processes of one thread each, for several global batches and widths of the
networks: through shared memory, through gloo on loopback, and through gloo between two network namespaces connected by
a veth whose rate (and delay, if the kernel has netem) tc limits. The namespaces need root and iproute2; without them
this part is omitted. If P processes share C < P cores, each has C / P of a core.

The model: a step takes compute(batch / ranks) + communication, where

    compute(b)        = c0 + c1 b, fitted to one process;
    communication     = 2 (2 (P - 1) a + 2 (P - 1) / P n / B): two ring all-reduces (gloo's algorithm, one per network)
                        of n bytes each, 2 (P - 1) messages of n / P bytes; a (latency) and B (bandwidth) are fitted for
                        each connection to two processes at the smallest batch.

Everything else (other batches, four processes) is predicted and compared with the measurement. Prints Markdown.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from launching import TRAIN, launcher

from gan_dist.config import Config, ModelConfig
from gan_dist.distributed.machine import usable_cores
from gan_dist.models import build_pair
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json

SPACES = ("gan-dist-a", "gan-dist-b")
LINKS = {"1 Gbit/s": ("1gbit", 0.2), "10 Gbit/s": ("10gbit", 0.05)}  # name -> tc's rate, delay in ms each way
BATCHES = (100, 400, 1024)
WIDTHS = (32, 256, 512)  # of the hidden layers: fewer bytes than the seed's networks, as many, and more
SEED_WIDTH = 256
PREDICTED_RANKS, PREDICTED_BATCHES = (8, 64, 512), (1024, 8192, 65536)


@dataclass(frozen=True)
class Setting:
    """A setting that is measured once per round."""

    ranks: int
    batch: int
    network: str
    """none, shared memory, loopback, or one of LINKS."""
    width: int = SEED_WIDTH

    @property
    def fitted(self) -> bool:
        """Whether the model is fitted to it; otherwise it is predicted."""
        return self.ranks == 1 or (self.ranks == 2 and self.batch == BATCHES[0])


@dataclass(frozen=True)
class StepTime:
    """Milliseconds per step."""

    step: float
    communication: float


def settings(links: bool) -> list[Setting]:
    found = [Setting(1, batch, "none") for batch in sorted((25, 50, 200, *BATCHES))]
    for network in ("shared memory", "loopback", *(LINKS if links else ())):
        found += [Setting(2, BATCHES[0], network, width) for width in WIDTHS]
        found += [Setting(2, batch, network) for batch in BATCHES[1:]]
        found += [Setting(4, batch, network) for batch in BATCHES]
    return found


class Link:
    """Two network namespaces connected by a veth."""

    delays = True
    """Whether this kernel can delay packets; False after the first failure."""

    def __enter__(self) -> Link:
        for space in SPACES:
            _do("ip", "netns", "add", space)
        a, b = SPACES
        _do("ip", "link", "add", "veth0", "netns", a, "type", "veth", "peer", "name", "veth0", "netns", b)
        for number, space in enumerate(SPACES, 1):
            inside = ("ip", "netns", "exec", space, "ip")
            _do(*inside, "address", "add", f"10.77.0.{number}/24", "dev", "veth0")
            _do(*inside, "link", "set", "veth0", "up")
            _do(*inside, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for space in SPACES:
            subprocess.run(["ip", "netns", "delete", space], capture_output=True)

    def limit(self, name: str) -> None:
        """Limit the rate in both directions, and add the delay if the kernel supports it."""
        rate, delay = LINKS[name]
        for space in SPACES:
            qdisc = ["ip", "netns", "exec", space, "tc", "qdisc", "replace", "dev", "veth0", "root"]
            if self.delays:
                words = [*qdisc, "netem", "rate", rate, "delay", f"{delay}ms", "limit", "100000"]
                self.delays = subprocess.run(words, capture_output=True).returncode == 0
            if not self.delays:
                _do(*qdisc, "tbf", "rate", rate, "burst", "256kb", "latency", "50ms")


def _do(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


def measure(setting: Setting, data: Path, scratch: Path) -> StepTime:
    """Train 150 steps, with one thread per rank."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        flags = [TRAIN, "--data.root", str(data), "--data.source", "local", "--run.dir", f"{folder}/run"]
        flags += ["--train.batch-size", str(setting.batch), "--model.hidden-dim", str(setting.width)]
        flags += ["--train.threads", "1", "--train.steps", "150", "--profile", "--wandb.mode", "disabled"]
        if setting.network not in ("none", "shared memory"):
            flags += ["--distributed.no-shared-memory"]
        variables = os.environ | {"OMP_NUM_THREADS": "1"}
        commands = [[*launcher(setting.ranks), *flags]]
        if setting.network in LINKS:
            together = ("--num_machines", "2", "--main_process_ip", "10.77.0.1", "--main_process_port", "29577")
            commands = [
                ["ip", "netns", "exec", space, *launcher(setting.ranks, *together, "--machine_rank", str(i)), *flags]
                for i, space in enumerate(SPACES)
            ]
            variables["GLOO_SOCKET_IFNAME"] = "veth0"
        started = [
            subprocess.Popen(words, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            for words in commands
        ]
        errors = [process.communicate()[1] for process in started]
        if any(process.returncode for process in started):
            sys.exit(f"{setting} failed:\n" + "\n".join(errors))
        phases = read_json(RunFolder(Path(folder) / "run").profile / "phases.json")["milliseconds_per_step"]
    return StepTime(sum(phases.values()), phases["communication"])


@dataclass(frozen=True)
class Model:
    """A model of the time of a step, in ms."""

    c0: float
    c1: float
    links: dict[str, tuple[float, float]]
    """Network -> latency of a message (ms), bandwidth (bytes per ms)."""
    cores: int

    @staticmethod
    def fit(measured: dict[Setting, StepTime], cores: int) -> Model:
        alone = [(s.batch, o.step - o.communication) for s, o in measured.items() if s.ranks == 1]
        # Relative errors: otherwise the largest batch would dominate the fit.
        rows = np.array([[1 / ms, batch / ms] for batch, ms in alone])
        c0, c1 = np.linalg.lstsq(rows, np.ones(len(rows)), rcond=None)[0]
        links = {}
        for network in {s.network for s in measured if s.ranks == 2}:
            pairs = [
                (_bytes(s.width), o.communication) for s, o in measured.items() if s.network == network and s.fitted
            ]
            # Two ranks: 2 networks x (2 messages, and half of the bytes twice).
            rows = np.array([[4 / ms, sum(both) / ms] for both, ms in pairs])
            latency, per_byte = np.linalg.lstsq(rows, np.ones(len(rows)), rcond=None)[0]
            links[network] = (float(latency), float(1 / per_byte))
        return Model(float(c0), float(c1), links, cores)

    def communication(self, ranks: int, network: str, width: int = SEED_WIDTH, delay: float = 0.0) -> float:
        """Milliseconds of communication.

        Args:
            delay: of the network in ms, if the fitted latency does not include it.
        """
        if ranks == 1:
            return 0.0
        latency, bandwidth = self.links[network]
        return sum(2 * (ranks - 1) * (latency + delay + n / ranks / bandwidth) for n in _bytes(width))

    def compute(self, ranks: int, batch: int, cores: int | None = None) -> float:
        """Milliseconds of computation.

        Args:
            cores: number of cores that the ranks share; None: one per rank.
        """
        ranks_per_core = max(1.0, ranks / cores) if cores else 1.0
        return ranks_per_core * (self.c0 + self.c1 * batch / ranks)


@functools.cache
def _bytes(width: int) -> tuple[int, int]:
    """Sizes in bytes of the gradients of D and of G."""
    pair = build_pair(ModelConfig(hidden_dim=width), (1, 28, 28), Config().train.seed)
    generator, discriminator = (4 * sum(p.numel() for p in network.parameters()) for network in pair)
    return discriminator, generator


def table(head: list[str], rows: list[list[str]]) -> None:
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |")
    print()


def report(measured: dict[Setting, StepTime], model: Model, delays: dict[str, float]) -> None:
    """Print the tables.

    Args:
        delays: of each of LINKS in ms, if the measurements do not include it.
    """
    print("### Measured\n")
    errors: dict[bool, list[float]] = {True: [], False: []}
    rows = []
    for s, o in measured.items():
        row = [str(s.ranks), s.network, str(s.batch), str(s.width), f"{1e3 * s.batch / o.step:,.0f}", f"{o.step:.2f}"]
        row += [f"{o.communication:.2f}", f"{o.communication / o.step:.0%}"]
        if s.width == SEED_WIDTH:  # the computation is fitted to this width
            predicted = model.compute(s.ranks, s.batch, model.cores) + model.communication(s.ranks, s.network)
            errors[s.fitted].append(predicted / o.step - 1)
            row += [f"{predicted:.2f}", f"{predicted / o.step - 1:+.0%}", "fitted" if s.fitted else "predicted"]
        else:
            predicted = model.communication(s.ranks, s.network, s.width)
            row += [f"{predicted:.2f} (communication)", f"{predicted / o.communication - 1:+.0%}"]
            row += ["fitted" if s.fitted else "predicted"]
        rows.append(row)
    head = ["ranks", "network", "batch", "width", "images/s", "ms per step", "communication", "share of the step"]
    table([*head, "model", "error", ""], rows)
    print("### The model\n")
    print(f"compute(b) = {model.c0:.2f} ms + {1e3 * model.c1:.1f} us x b\n")
    table(
        ["network", "latency of a message", "bandwidth"],
        [[name, f"{1e3 * a:.0f} us", f"{b / 1e6 * 8:.2f} Gbit/s"] for name, (a, b) in sorted(model.links.items())],
    )
    for fitted, name in ((True, "fitted"), (False, "predicted")):
        size = sorted(abs(error) for error in errors[fitted])
        print(f"Error of a step's time, {name}: median {median(size):.0%}, largest {size[-1]:.0%}.\n")
    print("### Predicted: images/s (and efficiency relative to one rank), with one core per rank\n")
    rows = []
    for network, delay in delays.items():
        for batch in PREDICTED_BATCHES:
            row = [network, f"{batch:,}", f"{1e3 * batch / model.compute(1, batch):,.0f}"]
            for ranks in PREDICTED_RANKS:
                ms = model.compute(ranks, batch) + model.communication(ranks, network, delay=delay)
                row.append(f"{1e3 * batch / ms:,.0f} ({model.compute(1, batch) / ms / ranks:.0%})")
            rows.append(row)
    table(["network", "global batch", "1 rank", *(f"{ranks} ranks" for ranks in PREDICTED_RANKS)], rows)


def plot(measured: dict[Setting, StepTime], model: Model, delays: dict[str, float], file: Path) -> None:
    """Plot images per second against ranks: dots measured, lines predicted."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    networks = [name for name in LINKS if name in model.links] or ["loopback"]
    figure = Figure(figsize=(5.2 * len(networks), 4), layout="constrained")
    FigureCanvasAgg(figure)
    ranks = np.unique(np.round(np.geomspace(1, max(PREDICTED_RANKS), 60)).astype(int))
    for axis, network in zip(figure.subplots(1, len(networks), squeeze=False, sharey=True)[0], networks, strict=True):
        delay = delays.get(network, 0.0)
        for color, batch in zip(("C0", "C1", "C2", "C3", "C4"), (100, *PREDICTED_BATCHES), strict=False):
            possible = [int(r) for r in ranks if r <= batch]
            speed = [
                1e3 * batch / (model.compute(r, batch) + model.communication(r, network, delay=delay)) for r in possible
            ]
            axis.plot(possible, speed, color=color, label=f"batch {batch:,}")
            dots = [
                (s.ranks, 1e3 * batch / o.step)
                for s, o in measured.items()
                if s.batch == batch
                and s.width == SEED_WIDTH
                and s.network in ("none", network)
                and s.ranks <= model.cores
            ]
            if dots:
                axis.plot(*zip(*dots, strict=True), "o", color=color)
        axis.set(xscale="log", yscale="log", xlabel="ranks, one core each", title=network)
        axis.set_xticks((1, 2, *PREDICTED_RANKS), labels=("1", "2", *map(str, PREDICTED_RANKS)))
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("images/s")
    figure.axes[-1].legend(title="dots: measured\nlines: predicted", loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.savefig(file, dpi=100)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", type=Path, default=None)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    links = os.geteuid() == 0 and all(map(shutil.which, ("ip", "tc")))
    rounds: dict[Setting, list[StepTime]] = {setting: [] for setting in settings(links)}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        for number in range(1, arguments.rounds + 1):
            for setting, results in rounds.items():
                if setting.network in LINKS:
                    with Link() as link:
                        link.limit(setting.network)
                        results.append(measure(setting, arguments.data, Path(scratch)))
                else:
                    results.append(measure(setting, arguments.data, Path(scratch)))
                print(f"round {number}: {setting} {results[-1]}", file=sys.stderr, flush=True)
    measured = {
        setting: StepTime(median(r.step for r in results), median(r.communication for r in results))
        for setting, results in rounds.items()
    }
    if not links:
        print("Not root, or no iproute2: no measurements between network namespaces.\n")
    elif not link.delays:
        print("This kernel has no netem: the links were measured with a limited rate, but without an added delay.\n")
    model = Model.fit(measured, usable_cores())
    delays = {name: 0.0 if link.delays else delay for name, (_, delay) in LINKS.items()} if links else {}
    report(measured, model, delays)
    if arguments.plot:
        plot(measured, model, delays, arguments.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
