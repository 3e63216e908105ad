"""Which files a data set consists of, and where they are under data.root. Imports neither torch nor numpy.

So a command can say within a fraction of a second that its data are not there.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from gan_dist.config import DataConfig, InputError

# IDX: two zero bytes, the type of the numbers (0x08 uint8, 0x0C int32), how many dimensions.
IMAGES_MAGIC = 0x00000803
LABELS_MAGIC = 0x00000801
QMNIST_LABELS_MAGIC = 0x00000C02  # eight numbers an image, the first is the class


@dataclass(frozen=True)
class Published:
    """What is known of a data set's training images, or of its held-out images, before they are read."""

    torchvision_class: str
    """Its class in torchvision.datasets, and the name of its folder under the root."""
    file: str
    labels: str
    count: int
    md5: str | None
    """Of the uncompressed images; None where no trustworthy figure is at hand."""
    labels_magic: int = LABELS_MAGIC


_TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", 60_000)
_TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", 10_000)
_QMNIST_TRAIN = ("qmnist-train-images-idx3-ubyte", "qmnist-train-labels-idx2-int", 60_000)
_QMNIST_TEST = ("qmnist-test-images-idx3-ubyte", "qmnist-test-labels-idx2-int", 60_000)

PUBLISHED: dict[str, Published] = {
    "mnist": Published("MNIST", *_TRAIN, "6bbc9ace898e44ae57da46a324031adb"),
    "fashion-mnist": Published("FashionMNIST", *_TRAIN, "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
    "kmnist": Published("KMNIST", *_TRAIN, None),
    "qmnist": Published("QMNIST", *_QMNIST_TRAIN, None, QMNIST_LABELS_MAGIC),
}
HELD_OUT: dict[str, Published] = {
    "mnist": Published("MNIST", *_TEST, "2646ac647ad5339dbf082846283269ea"),
    "fashion-mnist": Published("FashionMNIST", *_TEST, None),
    "kmnist": Published("KMNIST", *_TEST, None),
    "qmnist": Published("QMNIST", *_QMNIST_TEST, None, QMNIST_LABELS_MAGIC),
}


def find_local(config: DataConfig) -> Path | None:
    """The file of training images under the root, plain or gzipped; None if there is none.

    What lies there may be anything, a broken symbolic link for one: reading it says what is wrong with it.

    Raises:
        InputError: the root is no folder, or can't be searched.
    """
    _check_root(config.root)
    name = PUBLISHED[config.name].file
    return next((file for folder in folders(config) if (file := plain_or_gzipped(folder / name))), None)


def require_local(config: DataConfig) -> Path:
    """The file of training images under the root.

    Raises:
        InputError: there is none; or as in `find_local`.
    """
    file = find_local(config)
    if file is None:
        raise InputError(
            f"data.root={config.root} holds no {config.name}: looked for {folders(config)[0]}/"
            f"{PUBLISHED[config.name].file}[.gz]; give --data.root a folder laid out as torchvision writes it, "
            "or --data.source download"
        )
    return file


def folders(config: DataConfig) -> list[Path]:
    """Where the files may be; the first is where torchvision puts them."""
    folder = config.root / PUBLISHED[config.name].torchvision_class
    return [folder / "raw", folder, config.root]


def plain_or_gzipped(file: Path) -> Path | None:
    """`file`, or `file`.gz where it alone is there; None where neither is.

    Raises:
        InputError: their folder can't be searched.
    """
    return next((path for path in (file, file.with_name(f"{file.name}.gz")) if _is_there(path)), None)


def _check_root(root: Path) -> None:
    try:
        mode = root.stat().st_mode
    except FileNotFoundError:
        if root.is_symlink():
            raise InputError(f"data.root={root} is a symbolic link to nothing; give --data.root a folder") from None
    except OSError as error:
        raise InputError(f"data.root={root} can't be read ({error.strerror}); give --data.root a folder") from error
    except ValueError as error:  # a NUL character in the path
        raise InputError(f"data.root={str(root)!r} can't be read ({error}); give --data.root a folder") from error
    else:
        if not stat.S_ISDIR(mode):
            raise InputError(f"data.root={root} is not a folder; give --data.root the folder that holds the data")


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise InputError(
            f"{path} can't be read ({error.strerror}); make it readable, or give --data.root another folder"
        ) from error
    return True
