"""A run's generator as an ONNX model, compared with torch before it is written."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gan_dist.config import InputError, package_version, to_dict
from gan_dist.config.extras import require_packages
from gan_dist.models.cost import count_weights
from gan_dist.results.classes import choose_labels
from gan_dist.results.export.published import published_config
from gan_dist.results.export.request import ExportFailed, ExportRequest
from gan_dist.results.generator import generator_file, read_generator
from gan_dist.results.output import output_file
from gan_dist.seeding import sample_latents

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
MAX_WEIGHTS = 450_000_000  # a file of protobuf has at most 2 GB
MAX_DIFFERENCE = 1e-4  # of images in [-1, 1]: 0.013 of 255 grey levels
BATCHES = (1, 3, 252)  # images that are compared: any number of them must work
SEED = 2


def export_onnx(request: ExportRequest, announce: Callable[[str], None]) -> str:
    """Write the model. For the arguments, see `formats.Exporter`.

    Its inputs are "latents", (n, latent_dim) of float32, and for a conditional run "labels", (n,) of int64. Its output
    is "images", (n, C, H, W) in [-1, 1].

    Raises:
        ExportFailed: the images differ from those of torch.
    """
    require_packages("format=onnx", "onnx", PACKAGES)
    generator, config, step = read_generator(generator_file(request.run, request.weights))
    if count_weights(generator) > MAX_WEIGHTS:
        raise InputError(
            f"run={request.run} has more than {MAX_WEIGHTS:,} weights, which one ONNX file can't hold; use --format hub"
        )
    metadata = {
        "config": json.dumps(to_dict(published_config(config))),
        "step": str(step),
        "gan_dist": package_version(),
        **({} if generator.classes is None else {"classes": json.dumps(generator.classes)}),
    }
    content = convert(generator, metadata)
    difference = largest_difference(content, generator)
    if not difference <= MAX_DIFFERENCE:  # also NaN
        raise ExportFailed(
            f"onnxruntime generates other images than torch from {request.run}: they differ by up to {difference:.2g}, "
            f"more than {MAX_DIFFERENCE:g}; nothing was written"
        )
    with output_file(request.output) as temporary:
        temporary.write_bytes(content)
    compared = f"{sum(BATCHES)} images differ from torch by at most {difference:.2g}"
    return f"{request.output}: {len(content) / 1e6:.1f} MB; {compared} (range -1 to 1)"


def convert(generator: nn.Module, metadata: Mapping[str, str]) -> bytes:
    """The content of an ONNX file.

    Args:
        generator: from `load_generator`.
        metadata: of the model, by name.
    """
    count = torch.export.Dim("n", min=1)
    inputs = _inputs(generator, 2)
    # torch announces each of its phases on stdout, and the common name of the batch sizes as a warning.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            generator,
            tuple(inputs.values()),
            dynamo=True,
            input_names=list(inputs),
            output_names=["images"],
            dynamic_shapes=tuple({0: count} for _ in inputs),
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(metadata)
    return program.model_proto.SerializeToString()


def largest_difference(content: bytes, generator: nn.Module) -> float:
    """The largest difference between images of onnxruntime and of torch, from the same random latents.

    Args:
        content: of the ONNX file.
        generator: from which it was made.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    differences = []
    for seed, count in enumerate(BATCHES, SEED):
        inputs = _inputs(generator, count, seed)
        (images,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
        differences.append((torch.from_numpy(images) - generator(*inputs.values())).abs().max())
    return torch.stack(differences).max().item()


def _inputs(generator: nn.Module, count: int, seed: int = SEED) -> dict[str, Tensor]:
    latent_dim: Any = generator.latent_dim
    labels = choose_labels(generator, count, seed)
    latents = {"latents": sample_latents(count, latent_dim, seed, "export")}
    return latents if labels is None else latents | {"labels": labels}
