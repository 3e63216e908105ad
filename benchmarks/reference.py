"""References for the benchmarks: loops as people write them, and only the matrix products of a step.

    reference.py notebook|example|products [--data DIR] [--batch N] [--precision no|bf16] [--seconds S] [--threads T]
    reference.py notebook --epochs E --folder DIR [--data DIR] [--seed N] [--threads T]

The first form prints one JSON line: images per second over S seconds, after a warm-up of S/10 seconds. `example` is
started by accelerate launch or torchrun, on any number of processes. The second form trains, and writes the generator
to DIR after every epoch.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import MNIST

from gan_dist.config import Config, to_dict
from gan_dist.outputs.checkpoint import save_generator
from gan_dist.outputs.folder import RunFolder

LATENT, HIDDEN, IMAGE = 64, 256, 784


def networks(probability: bool) -> tuple[nn.Module, nn.Module]:
    """The networks of the preset seed, written as in a notebook."""
    generator = nn.Sequential(
        nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, IMAGE), nn.Tanh()
    )
    layers: list[nn.Module] = []
    for width in (IMAGE, HIDDEN, HIDDEN):
        layers += [nn.Linear(width, HIDDEN), nn.LeakyReLU(0.2)]
    layers += [nn.Linear(HIDDEN, 1)] + [nn.Sigmoid()] * probability
    return generator, nn.Sequential(*layers)


def images(data: str, batch: int) -> DataLoader:
    """MNIST, one image at a time through PIL, as in most tutorials."""
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
    return DataLoader(MNIST(data, train=True, transform=transform), batch_size=batch, shuffle=True, drop_last=True)


def forever(loader: DataLoader) -> Iterator[Tensor]:
    while True:
        for x, _ in loader:
            yield x


def rate(step: Callable[[], object], size: int, seconds: float) -> float:
    """Images per second, after a warm-up."""
    for limit in (seconds / 10, seconds):
        count, began = 0, time.perf_counter()
        while (spent := time.perf_counter() - began) < limit:
            step()
            count += 1
    return count * size / spent


def notebook_step(data: str, batch: int) -> tuple[Callable[[], None], nn.Module]:
    """The step of a teaching notebook, and its generator: two passes of D, BCELoss of probabilities, .item() calls."""
    generator, discriminator = networks(probability=True)
    d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-4)
    g_optimizer = torch.optim.Adam(generator.parameters(), lr=2e-4)
    bce, stream = nn.BCELoss(), forever(images(data, batch))
    losses: list[float] = []

    def step() -> None:
        real = next(stream).view(batch, -1)
        ones, zeros = torch.ones(batch, 1), torch.zeros(batch, 1)
        real_score = discriminator(real)
        fake_score = discriminator(generator(torch.randn(batch, LATENT)).detach())
        d_loss = bce(real_score, ones) + bce(fake_score, zeros)
        d_optimizer.zero_grad()
        d_loss.backward()
        d_optimizer.step()
        g_loss = bce(discriminator(generator(torch.randn(batch, LATENT))), ones)
        g_optimizer.zero_grad()
        g_loss.backward()
        g_optimizer.step()
        losses.append(d_loss.item() + g_loss.item() + real_score.mean().item() + fake_score.mean().item())

    return step, generator


def notebook(data: str, batch: int, seconds: float) -> float:
    return rate(notebook_step(data, batch)[0], batch, seconds)


def train_notebook(data: str, batch: int, epochs: int, seed: int, folder: Path) -> None:
    """Train with the notebook's step for whole epochs; the generator is written in the toolkit's format."""
    torch.manual_seed(seed)
    step, generator = notebook_step(data, batch)
    metadata = {"config": json.dumps(to_dict(Config())), "image_shape": "[1, 28, 28]"}
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(epochs):
        for _ in range(60_000 // batch):
            step()
        weights = {f"layers.{name}": weight for name, weight in generator.state_dict().items()}
        save_generator(RunFolder(folder).generator, weights, metadata)


def example(data: str, batch: int, seconds: float) -> float:
    """The same networks trained as in Accelerate's examples: prepared objects, DDP, gathered losses."""
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    set_seed(0)
    generator, discriminator = networks(probability=False)
    d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-4)
    g_optimizer = torch.optim.Adam(generator.parameters(), lr=2e-4)
    ranks = accelerator.num_processes
    loader = images(data, batch // ranks)
    generator, discriminator, d_optimizer, g_optimizer, loader = accelerator.prepare(
        generator, discriminator, d_optimizer, g_optimizer, loader
    )
    bce, stream, device = nn.BCEWithLogitsLoss(), forever(loader), accelerator.device
    losses: list[float] = []

    def step() -> None:
        real = next(stream).view(batch // ranks, -1)
        ones, zeros = torch.ones(len(real), 1, device=device), torch.zeros(len(real), 1, device=device)
        d_optimizer.zero_grad()
        fake = generator(torch.randn(len(real), LATENT, device=device))
        d_loss = bce(discriminator(real), ones) + bce(discriminator(fake.detach()), zeros)
        accelerator.backward(d_loss)
        d_optimizer.step()
        g_optimizer.zero_grad()
        g_loss = bce(discriminator(fake), ones)
        accelerator.backward(g_loss)
        g_optimizer.step()
        losses.append(accelerator.gather(torch.stack([d_loss.detach(), g_loss.detach()])).mean().item())

    # A number of steps instead of seconds, so that it is the same on every rank.
    for steps in (10, max(20, int(seconds * 25 * 100 / batch))):
        began = time.perf_counter()
        for _ in range(steps):
            step()
    result = steps * batch / (time.perf_counter() - began)
    accelerator.end_training()
    return result if accelerator.is_main_process else 0.0


def products(batch: int, precision: str, seconds: float) -> float:
    """Only the matrix products of a step, with preallocated outputs."""
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    g, d = [LATENT, HIDDEN, HIDDEN, IMAGE], [IMAGE, HIDDEN, HIDDEN, HIDDEN, 1]
    shapes: list[tuple[int, int, int]] = []  # (rows, inner, columns)

    def forward(widths: list[int], n: int) -> None:
        shapes.extend((n, a, b) for a, b in itertools.pairwise(widths))

    def backward(widths: list[int], n: int, weights: bool, inputs: bool) -> None:
        for i, (a, b) in reversed(list(enumerate(itertools.pairwise(widths)))):
            if weights:
                shapes.append((a, n, b))
            if i or inputs:
                shapes.append((n, b, a))

    forward(g, batch)  # the D step: generated images, one pass over both halves, gradients of D's weights
    forward(d, 2 * batch)
    backward(d, 2 * batch, weights=True, inputs=False)
    forward(g, batch)  # the G step: generated images, D's pass, gradients through D and of G's weights
    forward(d, batch)
    backward(d, batch, weights=False, inputs=True)
    backward(g, batch, weights=True, inputs=False)
    work = [
        (torch.randn(m, k).to(kind), torch.randn(k, n).to(kind), torch.empty(m, n, dtype=kind)) for m, k, n in shapes
    ]

    def step() -> None:
        for a, b, out in work:
            torch.mm(a, b, out=out)

    return rate(step, batch, seconds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("loop", choices=("notebook", "example", "products"))
    parser.add_argument("--data", default="data")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--precision", choices=("no", "bf16"), default="no")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.epochs:
        train_notebook(arguments.data, arguments.batch, arguments.epochs, arguments.seed, arguments.folder)
        sys.exit()
    if arguments.loop == "products":
        speed = products(arguments.batch, arguments.precision, arguments.seconds)
    else:
        loop = {"notebook": notebook, "example": example}[arguments.loop]
        speed = loop(arguments.data, arguments.batch, arguments.seconds)
    if speed:
        print(json.dumps({"images_per_second": speed}), flush=True)
