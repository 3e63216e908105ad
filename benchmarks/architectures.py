"""The cost of a training step of an architecture, compared with another one in the same run.

    python benchmarks/architectures.py [--side 32] [--batch 32] [--rounds 7] [--threads 1] [NAME[:FIELD=VALUE,…] …]

Each variant is an architecture with fields of `model`, by default conv, residual, and residual with fewer channels. The
first is the reference. In each round, every variant does one whole step (discriminator with R1 and R2, then generator)
on the same random colour images, in turn. Prints images per second, the median of the ratios within a round, the
weights and the operations of one image forward in both networks.

With --channels-last, each variant is followed by the same one with feature maps in that memory format.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gan_dist.distributed.preemption import StopRequest
from gan_dist.gan.steps import discriminator_step, generator_step
from gan_dist.models import build_pair
from gan_dist.models.cost import count_weights
from gan_dist.outputs.folder import RunFolder
from gan_dist.train import parse
from gan_dist.trainer.build import build

VARIANTS = ["conv", "residual", "residual:channels=8,max_channels=64"]
CHANNELS_LAST = " channels_last"
LATENT_DIM = 64


def flags_of(variant: str, side: int, batch: int, folder: Path) -> list[str]:
    """The flags of a run of a variant."""
    name, _, fields = variant.removesuffix(CHANNELS_LAST).partition(":")
    words = ["r3-conv", "--data.name", "arrays", "--data.root", str(folder / f"colours-{side}.npz")]
    words += ["--train.batch-size", str(batch), "--wandb.mode", "disabled", "--model.architecture", name]
    for field in filter(None, fields.split(",")):
        key, _, value = field.partition("=")
        words += [f"--model.{key.replace('_', '-')}", value]
    return [*words, "--run.dir", str(folder / variant)]


def use_channels_last(network: nn.Module) -> None:
    """Convert the feature maps before each layer; those that have the format already are not copied."""

    def convert(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(each.contiguous(memory_format=torch.channels_last) if each.ndim == 4 else each for each in inputs)

    assert isinstance(network.layers, nn.Sequential)
    for layer in network.layers:
        layer.register_forward_pre_hook(convert)


def make_step(variant: str, args: argparse.Namespace, folder: Path) -> Callable[[int], None]:
    """A function that does the step of the given number."""
    config = parse(flags_of(variant, args.side, args.batch, folder))
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = build(config, RunFolder(config.run.dir), StopRequest(), Accelerator(cpu=True))
    torch.set_num_threads(args.threads)
    if variant.endswith(CHANNELS_LAST):
        use_channels_last(trainer.gan.generator)
        use_channels_last(trainer.gan.discriminator)
    batch = next(iter(trainer.loader)).result()

    def step(number: int) -> None:
        trainer.gan.begin(number)
        discriminator_step(trainer.gan, batch)
        generator_step(trainer.gan, batch)

    return step


def sizes(variant: str, side: int, folder: Path) -> tuple[int, int]:
    """The weights of both networks, and their operations for one image."""
    pair = build_pair(parse(flags_of(variant, side, 1, folder)).model, (3, side, side), seed=0)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        for network, inputs in zip(pair, (torch.zeros(1, LATENT_DIM), torch.zeros(1, 3, side, side)), strict=True):
            network(inputs)
    return sum(map(count_weights, pair)), counter.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", default=VARIANTS)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--channels-last", action="store_true")
    args = parser.parse_args()
    names = [
        each for name in args.variants for each in ([name, name + CHANNELS_LAST] if args.channels_last else [name])
    ]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pixels = np.random.default_rng(0).integers(0, 256, (4 * args.batch, args.side, args.side, 3), np.uint8)
        np.savez(folder / f"colours-{args.side}.npz", x_train=pixels)
        steps = {name: make_step(name, args, folder) for name in names}
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for number in range(1, args.rounds + 2):
            for name in names if number % 2 else names[::-1]:
                began = time.perf_counter()
                steps[name](number)
                if number > 1:  # the first one creates the optimizer's state
                    seconds[name].append(time.perf_counter() - began)
        table = Table("variant", "images/s", "ratio", "weights", "MFLOP per image")
        for name in names:
            ratio = median(a / b for a, b in zip(seconds[names[0]], seconds[name], strict=True))
            weights, operations = sizes(name, args.side, folder)
            speed = args.batch / median(seconds[name])
            table.add_row(name, f"{speed:.1f}", f"{ratio:.4f}", f"{weights:,}", f"{operations / 1e6:.1f}")
        Console().print(table)
        print(json.dumps({name: [round(each, 4) for each in seconds[name]] for name in names}))


if __name__ == "__main__":
    main()
