"""A run's generator as a repository of the Hugging Face hub: a folder on disk, or uploaded in one commit."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from gan_dist.config import InputError, package_version, to_dict
from gan_dist.config.extras import require_packages
from gan_dist.config.hub import is_model_id
from gan_dist.files import first_line, read_file
from gan_dist.outputs.pictures import COLUMNS, COUNT
from gan_dist.results.export.card import model_card
from gan_dist.results.export.measured import measured_figures, training_data
from gan_dist.results.export.published import published_config
from gan_dist.results.export.request import ExportFailed, ExportRequest
from gan_dist.results.generator import MAX_BYTES, generator_file, is_generator_file, read_generator
from gan_dist.results.hub import FILE, PACKAGE
from gan_dist.results.output import output_folder
from gan_dist.results.sample import generate_pixels
from gan_dist.results.sample_formats import save_grid
from gan_dist.tensors import read_tensors, tensor_bytes

SEED = 0  # of the grid
MAX_ROWS = 20  # classes in the grid
KEPT = ("data", "step", "class_counts")  # of the metadata of a generator's file, in addition to the configuration
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{1,63}")


def export_hub(request: ExportRequest, announce: Callable[[str], None]) -> str:
    """Write the folder, or upload it. For the arguments, see `formats.Exporter`."""
    require_packages("format=hub", "hub", [PACKAGE])
    if request.repo is None or not is_model_id(request.repo):
        raise InputError(f"repo={request.repo} is not of the form USER/NAME; pass --repo USER/NAME")
    if request.license is None or not LICENSE.fullmatch(request.license):
        raise InputError(
            f"license={request.license} is not an identifier of a license; pass one of "
            "https://huggingface.co/docs/hub/repositories-licenses, such as --license mit"
        )
    if is_generator_file(request.run):
        raise InputError(
            f"format=hub is for a run folder, which has figures, and {request.run} is a file; give the run"
        )
    files = repository_files(request, request.repo, request.license, announce)
    if request.dry_run:
        with output_folder(request.output, replaceable=files.__contains__) as folder:
            for name, content in files.items():
                (folder / name).write_bytes(content)
        return f"{request.output}: {', '.join(sorted(files))}; nothing was uploaded"
    return f"uploaded to {upload(request, request.repo, files)}"


def repository_files(
    request: ExportRequest, repo: str, license: str, announce: Callable[[str], None]
) -> dict[str, bytes]:
    """The files of the repository: name -> content.

    Raises:
        InputError: the run lacks a figure or a fact of the card.
    """
    file = generator_file(request.run, request.weights)
    generator, config, step = read_generator(file)
    measured, data = measured_figures(request.run, file, step, announce), training_data(request.run)
    config = published_config(config)
    tensors, metadata = read_tensors(read_file(file, MAX_BYTES))
    described = {name: text for name, text in metadata.items() if name in KEPT} | {
        "config": json.dumps(to_dict(config))
    }
    labels, rows = _labels(generator)
    count = COUNT if labels is None else len(labels)
    card = model_card(repo, license, generator, config, step, measured, data, rows, (count, SEED))
    return {
        "README.md": f"{card}\n".encode(errors="replace"),  # half a surrogate pair in a class
        FILE: tensor_bytes(tensors, described),
        "config.json": json.dumps(to_dict(config), indent=2).encode(),
        "samples.png": _grid(generator, count, labels),
    }


def upload(request: ExportRequest, repo: str, files: Mapping[str, bytes]) -> str:
    """Create the repository and upload all files in one commit. Returns its address.

    Raises:
        InputError: it exists, or this user may not write to it.
        ExportFailed: the hub can't be reached, or refuses the files.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import LocalTokenNotFoundError

    api = HfApi(library_name="gan_dist", library_version=package_version())
    try:
        if not request.force and api.repo_exists(repo):
            raise InputError(f"repo={repo} exists; choose another, or pass --force to add a commit to it")
        address = api.create_repo(repo, exist_ok=True)
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        api.create_commit(repo, operations, commit_message=f"gan-dist export, {request.run.absolute().name}")
    except InputError:
        raise
    # Also errors of the HTTP library, which depends on the version of huggingface_hub.
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, LocalTokenNotFoundError) or status in (401, 403):
            reason = first_line(error)
            raise InputError(
                f"repo={repo} is not writable ({reason}); log in with hf auth login, or set HF_TOKEN"
            ) from error
        raise ExportFailed(f"repo={repo}: the upload failed ({first_line(error)}); run the command again") from error
    return str(address)


def _labels(generator: nn.Module) -> tuple[torch.Tensor | None, list[str]]:
    """The labels of a grid with a row for each of the first classes, and the names of these classes."""
    classes = generator.classes
    if classes is None:
        return None, []
    rows = list(classes)[:MAX_ROWS]  # type: ignore[arg-type]
    return torch.arange(len(rows)).repeat_interleave(COLUMNS), rows


def _grid(generator: nn.Module, count: int, labels: torch.Tensor | None) -> bytes:
    """A grid of generated images, as the content of a PNG."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "samples.png"
        save_grid(generate_pixels(generator, count, SEED, labels), file, rows=labels)
        return file.read_bytes()
