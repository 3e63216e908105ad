"""Formats of data sets. A new one is a file here and a line in READERS, unless its names begin with a prefix."""

from __future__ import annotations

from gan_dist.config import InputError
from gan_dist.config.hub import hub_id
from gan_dist.config.rules import unknown_data
from gan_dist.data.readers import arrays, cifar10, folder, huggingface, mnist, svhn
from gan_dist.data.readers.reader import Reader

# Value of --data.name -> how it is read. hf:USER/SET is read by `huggingface`.
READERS: dict[str, Reader] = {
    "mnist": mnist.READER,
    "fashion-mnist": mnist.READER,
    "kmnist": mnist.READER,
    "qmnist": mnist.READER,
    "cifar10": cifar10.READER,
    "svhn": svhn.READER,
    "folder": folder.READER,
    "arrays": arrays.READER,
}


def reader_for(name: str) -> Reader:
    """The reader of a data set.

    Args:
        name: value of --data.name.

    Raises:
        InputError: there is none.
    """
    if hub_id(name) is not None:
        return huggingface.READER
    if (unknown := unknown_data(name)) is not None:
        raise InputError(unknown)
    return READERS[name]
