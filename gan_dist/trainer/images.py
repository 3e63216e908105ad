"""Gives every rank the training images: its host's copy of them, or what rank 0 sends."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from gan_dist.config import DataConfig, InputError
from gan_dist.data.images import ImageSet, MappedFile, create_mapped
from gan_dist.data.readers.reader import Provenance
from gan_dist.data.sources import load_images, pin_source
from gan_dist.data.spec import DataSpec
from gan_dist.distributed.broadcast import broadcast_tensor

Access = Literal["read", "mapped", "received"]
"""How a rank got the images. read: from its host's files. mapped: the file that another rank maps. received: from
rank 0."""
AccessByRank = dict[Access, list[int]]


@dataclass(frozen=True)
class ImagesDescription:
    """What rank 0 tells the others about the training images. Their pixels are not part of it: they are not pickled."""

    spec: DataSpec
    provenance: Provenance
    stack: int
    stored_shape: tuple[int, ...]
    """(n, C, H, W) of the stored images."""
    labelled: bool
    mapped: MappedFile | None


class _Copy(NamedTuple):
    """What a rank has of the images so far."""

    pixels: Tensor | None
    mapped: MappedFile | None = None
    access: Access = "received"


def describe_images(images: ImageSet) -> ImagesDescription:
    """The description of rank 0's images."""
    shape, labelled = tuple(images.images.shape), images.labels is not None
    return ImagesDescription(images.spec, images.provenance, images.stack, shape, labelled, images.mapped)


def share_images(
    own: ImageSet | None,
    described: ImagesDescription,
    config: DataConfig,
    accelerator: Accelerator,
    announce: Callable[[str], None],
) -> tuple[ImageSet, AccessByRank]:
    """Give every rank the images of rank 0. A collective: every rank must call it.

    A rank maps the file that rank 0 maps, if it sees it. On other hosts one rank reads that host's copy, and the others
    of that host map the file that it maps. A rank that has none by then receives the images.

    Args:
        own: rank 0's images; None on other ranks.
        described: by rank 0.
        config: where this rank's host has its copy.
        accelerator: of the ranks.
        announce: called with one line per fact that the user may not expect.

    Returns:
        The images, and how each rank got them.

    Raises:
        InputError: a host has other images; the same error on every rank.
    """
    if own is not None and accelerator.num_processes == 1:
        return own, {"read": [0]}
    copy = _Copy(own.images, own.mapped, "read") if own is not None else _map(described.mapped)
    copy = _use_copies_of_hosts(copy, described, config, accelerator)
    copy = _send_to_the_rest(copy, described, accelerator, announce)
    labels = own.labels if own is not None else None
    if described.labelled:
        labels = torch.empty(described.stored_shape[:1], dtype=torch.int64) if labels is None else labels
        broadcast_tensor(labels, described.stored_shape[:1], torch.int64, accelerator, labels)
    access: AccessByRank = {}
    for rank, how in enumerate(gather_object([copy.access])):
        access.setdefault(how, []).append(rank)
    assert copy.pixels is not None
    return ImageSet(copy.pixels, labels, described.spec, described.provenance, described.stack, copy.mapped), access


def _map(file: MappedFile | None) -> _Copy:
    """The images in a file that another rank maps, if this rank sees the same file."""
    pixels = file.open() if file is not None else None
    return _Copy(None) if pixels is None else _Copy(pixels, file, "mapped")


def _use_copies_of_hosts(
    copy: _Copy, described: ImagesDescription, config: DataConfig, accelerator: Accelerator
) -> _Copy:
    """Use the copies that hosts other than rank 0's have, if they are the same images."""
    host = socket.gethostname()
    hosts = gather_object([(host, copy.pixels is not None)])
    without = {name for name, has in hosts if not has} - {hosts[0][0]}
    if not without or described.provenance.source == "sample":
        return copy
    read = None
    if host in without and os.environ.get("LOCAL_RANK", "0") == "0":
        read = _read_copy(config, described)
    answer = None if read is None else (host, read.provenance.sha256, read.mapped)
    for rank, found in enumerate(gather_object([answer])):
        if found is None:
            continue
        if found[1] != described.provenance.sha256:
            raise InputError(
                f"the images of {found[0]} (rank {rank}) differ from those of {hosts[0][0]} (rank 0): data sha256 "
                f"{found[1][:12]} and {described.provenance.sha256[:12]}; copy the same data to every host"
            )
        if found[0] == host and copy.pixels is None:
            copy = _map(found[2]) if read is None else _Copy(read.images, read.mapped, "read")
    return copy


def _send_to_the_rest(
    copy: _Copy, described: ImagesDescription, accelerator: Accelerator, announce: Callable[[str], None]
) -> _Copy:
    """Send the images to the ranks that have none.

    If rank 0 maps a file, the images may be too large for the private memory of each rank: one rank of each host writes
    them to a temporary file, and the others of that host map it. The file has no name any more when the run begins.
    """
    host, rank = socket.gethostname(), accelerator.process_index
    needy = [(name, other) for name, other, has in gather_object([(host, rank, copy.pixels is not None)]) if not has]
    if not needy:
        return copy
    mine = (host, rank) in needy
    first = mine and rank == min(other for name, other in needy if name == host)
    file, problem, into = None, "", None
    if mine and described.mapped is None:
        into = torch.empty(described.stored_shape, dtype=torch.uint8)
    elif first:
        try:
            file = create_mapped(described.stored_shape)
            into = file.open("r+")
        except OSError as error:
            problem = f"{host} has no copy of the images, and no space to receive them ({error.strerror})"
    if problems := [text for text in gather_object([problem]) if text]:
        raise InputError(f"{problems[0]}; copy the data there, or set GAN_DIST_CACHE to a folder with space")
    broadcast_tensor(copy.pixels, described.stored_shape, torch.uint8, accelerator, into, announce)
    for name, written in gather_object([(host, file)]):
        if mine and into is None and written is not None and name == host:
            into = written.open()
    gather_object([None])  # all ranks of a host have mapped the file
    if file is not None:
        file.path.unlink()
    return _Copy(into) if mine else copy


def _read_copy(config: DataConfig, described: ImagesDescription) -> ImageSet | None:
    """This host's copy of the images; None if it has none."""
    try:
        return load_images(pin_source(config, described.provenance.source), lambda line: None)
    except InputError:
        return None
