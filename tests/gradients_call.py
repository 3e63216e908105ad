"""What the tests of gradients do on several ranks: functions for `Group.run`."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn

from gan_dist.distributed.launcher import start_accelerator
from gan_dist.gan.guard import NonfiniteGuard
from gan_dist.gan.overlapped_update import OverlappedUpdate
from gan_dist.gan.reduction import FastReduction
from gan_dist.gan.stop_signal import ReducedStopSignal
from gan_dist.gan.update import PartStats, Update, flatten
from gan_dist.trainer.gradients import wrap_in_ddp

CPU = torch.device("cpu")
STEPS, BATCH = 6, 8
BUCKET = 1000 * 4  # bytes, for several buckets


def main(arguments: Sequence[str]) -> int:
    """NAME, then its arguments."""
    return {"hosts": call_on_hosts, "compare": compare}[arguments[0]](*arguments[1:])


def call_on_hosts(ranks: str, module: str, *words: str) -> int:
    """Call MODULE.main(words) as if each so many ranks were on a host of their own."""
    size, rank = int(ranks), int(os.environ["RANK"])
    environment = {"LOCAL_RANK": str(rank % size), "LOCAL_WORLD_SIZE": ranks}
    with mock.patch.dict(os.environ, environment):
        return int(importlib.import_module(module).main(words))


def compare() -> int:
    """Compare DDP's buckets with one vector: accumulation, half precision, a GradScaler, penalties, NaN and a stop."""
    accelerator = start_accelerator("no", 1, 60.0)
    for parts, dtype, scaled in ((1, torch.float32, False), (4, torch.float32, False), (2, torch.bfloat16, False)):
        check_equal(accelerator, parts, dtype, scaled)
    check_equal(accelerator, 2, torch.float16, scaled=True)
    check_nonfinite_and_stop(accelerator)
    accelerator.end_training()
    return 0


class Network(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(20, 60), nn.Tanh(), nn.Linear(60, 40), nn.Tanh(), nn.Linear(40, 1))

    def forward(self, images: Tensor, labels: None = None) -> Tensor:
        return super().forward(images)


class Setup:
    """An update of a small network.

    Args:
        overlapped: with DDP.
    """

    def __init__(
        self, overlapped: bool, accelerator: Accelerator, parts: int, dtype: torch.dtype, scaled: bool
    ) -> None:
        rank, ranks = accelerator.process_index, accelerator.num_processes
        self.faulty = False
        generator = torch.Generator().manual_seed(0)
        network = Network()
        for parameter in network.parameters():
            parameter.data.normal_(0, 0.2, generator=generator)
        weights = flatten(network)
        self.guard = NonfiniteGuard(STEPS, rank, ranks, CPU, scaled)
        self.stop = ReducedStopSignal(CPU)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, enabled=scaled)
        optimizer: Any = torch.optim.Adam([weights], lr=1e-3, fused=True)
        options: dict[str, Any] = {"dtype": dtype, "stop": self.stop}

        def backward(loss: Tensor, inputs: list[Tensor]) -> None:
            self.scaler.scale(loss).backward(inputs=inputs)

        make: Callable[..., Update] = Update
        if overlapped:
            make, options["wrap"] = OverlappedUpdate, lambda module: wrap_in_ddp(module, accelerator, BUCKET)
        self.update = make(network, optimizer, FastReduction(ranks, parts), BATCH, backward, self.guard, **options)
        if scaled:
            step = optimizer.step

            def scaled_step() -> None:
                self.scaler.step(optimizer)
                self.scaler.update()

            assert step is not None
            self.update._step = scaled_step

    def loss(self, images: Tensor) -> tuple[Tensor, PartStats]:
        """A loss with several forward passes, and a penalty with its backward pass through a backward pass."""
        images = images.requires_grad_()
        dtype = next(self.update.forward_network.parameters()).dtype
        logits = self.update.forward_network(images.to(dtype)).float() - self.update.forward_network(-images.to(dtype))
        (gradient,) = torch.autograd.grad(self.update.full_precision(images).sum(), images, create_graph=True)
        loss = logits.square().mean() + gradient.square().sum(1).mean()
        if self.faulty:  # the gradient is NaN, the loss is not
            loss = loss + (0 * self.update.forward_network[0].weight.sum()).sqrt()  # type: ignore[index, union-attr, operator]
        return loss, {"loss": loss.detach()}


def inputs_of(step: int, rank: int) -> Tensor:
    return torch.randn(BATCH, 20, generator=torch.Generator().manual_seed(100 * step + rank))


def check_equal(accelerator: Accelerator, parts: int, dtype: torch.dtype, scaled: bool) -> None:
    """The same gradients and weights to rounding, with one collective for each bucket, and none for other networks."""
    flat, ddp = (Setup(overlapped, accelerator, parts, dtype, scaled) for overlapped in (False, True))
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}[dtype]
    counts = []
    for step in range(STEPS):
        images = inputs_of(step, accelerator.process_index)
        expected = flat.update(flat.loss, images)["loss"].clone()
        with mock.patch.object(dist, "all_reduce", wraps=dist.all_reduce) as reduced:
            found = ddp.update(ddp.loss, images)["loss"]
        counts.append([call.args[0].numel() for call in reduced.call_args_list])
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
        scale = flat.update.gradients.abs().max()
        torch.testing.assert_close(ddp.update.gradients / scale, flat.update.gradients / scale, rtol=0, atol=tolerance)
    torch.testing.assert_close(ddp.update.weights, flat.update.weights, rtol=0, atol=20 * tolerance * 1e-3)
    assert not torch.equal(ddp.update.weights, Setup(False, accelerator, 1, dtype, scaled).update.weights)
    sizes = len(flat.update.weights) + accelerator.num_processes + 1  # the guard's numbers, and the stop signal
    assert [sum(count) for count in counts] == [sizes] * STEPS, counts
    assert counts[2:] == counts[2:3] * (STEPS - 2), counts  # DDP rebuilds its buckets after the first step
    assert len(counts[-1]) > 1, "the network has one bucket"
    gathered = [torch.empty_like(ddp.update.weights) for _ in range(accelerator.num_processes)]
    dist.all_gather(gathered, ddp.update.weights)
    assert all(torch.equal(gathered[0], other) for other in gathered)


def check_nonfinite_and_stop(accelerator: Accelerator) -> None:
    """A NaN of one rank is rejected on all, and named; a stop request of one rank is seen by all in the next step."""
    rank, last = accelerator.process_index, accelerator.num_processes - 1
    for parts in (1, 2):
        setup = Setup(True, accelerator, parts, torch.float32, scaled=False)
        for step in range(STEPS):
            if rank == last and step == 4:
                setup.stop.request()
            before = setup.update.weights.clone()
            images = inputs_of(step, rank)
            if step == 2 and rank == last:
                images[0, 0] = torch.nan
            setup.faulty = step == 3 and rank == last
            setup.update(setup.loss, images)
            setup.guard.record(setup.update._sums.new_zeros(accelerator.num_processes))  # of the other network
            assert torch.equal(setup.update.weights, before) == (step in (2, 3))
            assert setup.stop.steps_before == min(step + 1, 4)
            if step in (2, 3):
                (found,) = setup.guard.collect(step + 1)
                assert found.ranks == (last,), found
                assert found.step == step + 1
