"""What a training step of each preset computes: weights, floating-point operations and bytes of memory traffic.

    python benchmarks/gpu_counts.py [PRESET …]

Trains two steps of each preset on the CPU, on random images of the shape of its data, with two batch sizes, and counts
the operations of the second step: floating-point operations of matrix products and convolutions, by the formulas of
torch.utils.flop_counter, and the bytes that every operation reads and writes, views excepted. Both grow linearly with
the batch; prints the part for each image and the constant part, for the table COUNTS in gpu_figures.py. The counts are
those of eager mode in fp32.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from gpu_parts.configs import GREY, SHAPES, changed, on_random_images, random_images
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import conv_flop_count, flop_registry

from gan_dist.config import PRESETS
from gan_dist.config.derived import derive
from gan_dist.distributed.preemption import StopRequest
from gan_dist.gan.steps import discriminator_step, generator_step
from gan_dist.models.cost import count_weights
from gan_dist.outputs.folder import RunFolder
from gan_dist.trainer.build import build

BATCHES = (2, 4)


class CountingMode(TorchDispatchMode):
    """Adds up the floating-point operations, and the bytes that operations read and write.

    FlopCounterMode itself refuses penalties: its hooks do not support autograd.grad with a graph.
    """

    flops = 0
    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func.overloadpacket is torch.ops.aten.convolution_backward:
            # torch counts the gradient of a grouped convolution's weights as if there were one group.
            (output, inputs, weight), transposed, wanted = args[:3], args[7], args[10]
            forward = conv_flop_count(list(inputs.shape), list(weight.shape), list(output.shape), transposed)
            self.flops += sum(wanted[:2]) * forward
        elif func.overloadpacket in flop_registry:
            self.flops += flop_registry[func.overloadpacket](*args, **kwargs, out_val=result)
        if not func.is_view and "empty" not in str(func):
            tensors = [each for each in tree_leaves((args, kwargs, result)) if isinstance(each, Tensor)]
            self.bytes += sum(each.numel() * each.element_size() for each in tensors)
        return result


def count(name: str, batch: int, folder: Path) -> tuple[int, int, int, int]:
    """Weights of the discriminator and of the generator, floating-point operations and bytes of a step of a preset."""
    shape = SHAPES.get(name, GREY)
    file = random_images(folder, shape, 8 * BATCHES[-1])
    config = on_random_images(name, file, batch)
    short = {"train": {"steps": 2, "epochs": 1}, "run": {"dir": folder / f"run-{name}-{batch}"}}
    config, _ = derive(changed(config, short), shape, 8 * BATCHES[-1])
    run = RunFolder(config.run.dir)
    with contextlib.closing(run), contextlib.redirect_stdout(io.StringIO()):
        trainer = build(config, run, StopRequest(), Accelerator(cpu=True))
        batches = iter(trainer.loader)
        for step in (1, 2):
            loaded = next(batches).result()
            with CountingMode() as counted:
                trainer.gan.begin(step)
                discriminator_step(trainer.gan, loaded)
                generator_step(trainer.gan, loaded)
        trainer.writer.wait()
    networks = trainer.gan.discriminator_update.network, trainer.gan.generator_update.network
    discriminator, generator = map(count_weights, networks)
    return discriminator, generator, counted.flops, counted.bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", default=list(PRESETS))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        for name in parser.parse_args().presets:
            (d, g, few, low), (*_, more, high) = (count(name, batch, Path(scratch)) for batch in BATCHES)
            images = BATCHES[1] - BATCHES[0]
            per_image, traffic = (more - few) / images, (high - low) / images
            assert few == per_image * BATCHES[0], "the operations do not grow in proportion to the batch"
            constant = low - traffic * BATCHES[0]
            pixels = math.prod(SHAPES.get(name, GREY))
            print(f'    "{name}": Counts({d}, {g}, {per_image:.4g}, {traffic:.4g}, {constant:.4g}, {pixels}),')


if __name__ == "__main__":
    main()
