"""Training loops as people write them, with the networks of a preset: the references of the measured runs.

Both have less to do than the toolkit: binary cross entropy without penalties and averages, no labels, no metrics but
the curves, and random images that are in memory already.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gan_dist.config import Config
from gan_dist.config.derived import derive
from gan_dist.models import build_pair

Shape = tuple[int, int, int]
IMAGES = 4_096  # of the example's data set, at least a batch


def notebook(config: Config, shape: Shape, accelerator: Accelerator) -> Callable[[], None]:
    """The step of a teaching notebook: eager, two Adams over separate parameters, .item() for the curves."""
    device, batch = accelerator.device, config.train.batch_size
    generator, discriminator = _networks(config, shape)
    generator, discriminator = generator.to(device), discriminator.to(device)
    d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-4)
    g_optimizer = torch.optim.Adam(generator.parameters(), lr=2e-4)
    images = torch.rand(batch, *shape, device=device) * 2 - 1
    bce = nn.BCEWithLogitsLoss()
    curves: list[tuple[float, ...]] = []

    def step() -> None:
        real = images[torch.randperm(batch, device=device)]
        ones, zeros = torch.ones(batch, device=device), torch.zeros(batch, device=device)
        real_logits = discriminator(real)
        fake_logits = discriminator(generator(torch.randn(batch, config.model.latent_dim, device=device)).detach())
        d_loss = bce(real_logits, ones) + bce(fake_logits, zeros)
        d_optimizer.zero_grad()
        d_loss.backward()
        d_optimizer.step()
        g_loss = bce(discriminator(generator(torch.randn(batch, config.model.latent_dim, device=device))), ones)
        g_optimizer.zero_grad()
        g_loss.backward()
        g_optimizer.step()
        scores = real_logits.sigmoid().mean().item(), fake_logits.sigmoid().mean().item()
        curves.append((d_loss.item(), g_loss.item(), *scores))

    return step


def example(config: Config, shape: Shape, accelerator: Accelerator) -> Callable[[], None]:
    """A step as in Accelerate's examples: prepared networks (DDP, autocast), gathered losses."""
    device = accelerator.device
    generator, discriminator = _networks(config, shape)
    d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-4)
    g_optimizer = torch.optim.Adam(generator.parameters(), lr=2e-4)
    batch = config.train.batch_size
    images = torch.rand(math.ceil(IMAGES / batch) * batch, *shape) * 2 - 1
    # split_batches, as the toolkit sets it: the batch size is global.
    loader = DataLoader(TensorDataset(images), batch_size=batch, shuffle=True, drop_last=True)
    prepared: Any = accelerator.prepare(generator, discriminator, d_optimizer, g_optimizer, loader)
    generator, discriminator, d_optimizer, g_optimizer, loader = prepared
    bce, stream = nn.BCEWithLogitsLoss(), _forever(loader)
    curves: list[Tensor] = []

    def step() -> None:
        real = next(stream)
        n = len(real)
        ones, zeros = torch.ones(n, device=device), torch.zeros(n, device=device)
        d_optimizer.zero_grad()
        fake = generator(torch.randn(n, config.model.latent_dim, device=device))
        d_loss = bce(discriminator(real).float(), ones) + bce(discriminator(fake.detach()).float(), zeros)
        accelerator.backward(d_loss)
        d_optimizer.step()
        g_optimizer.zero_grad()
        g_loss = bce(discriminator(fake).float(), ones)
        accelerator.backward(g_loss)
        g_optimizer.step()
        curves.append(accelerator.gather_for_metrics(torch.stack([d_loss.detach(), g_loss.detach()])).mean())

    return step


LOOPS: dict[str, Callable[[Config, Shape, Accelerator], Callable[[], None]]] = {
    "notebook": notebook,
    "example": example,
}


def _networks(config: Config, shape: Shape) -> tuple[nn.Module, nn.Module]:
    """Both networks, without labels."""
    derived, _ = derive(config, shape, IMAGES)
    return build_pair(derived.model, shape, config.train.seed, 0)


def _forever(loader: Any) -> Iterator[Tensor]:
    while True:
        for (images,) in loader:
            yield images
