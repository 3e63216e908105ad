"""Formats of data sets. A new one is a file here and a line in READERS."""

from __future__ import annotations

from gan_dist.data.readers import arrays, cifar10, folder, mnist, svhn
from gan_dist.data.readers.reader import Reader

# Value of --data.name -> how it is read.
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
