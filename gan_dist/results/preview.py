"""What a data set is and looks like, before anything is trained on it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from gan_dist.config import Config, InputError
from gan_dist.config.rules import SAFE_PROBABILITY, image_warnings
from gan_dist.data.images import ImageSet
from gan_dist.data.order import GlobalBatches
from gan_dist.data.sources import load_images, pin_source
from gan_dist.data.store import DeviceStore
from gan_dist.evaluation.classifier_file import TrainedClassifier
from gan_dist.evaluation.extractors import classifier_for
from gan_dist.gan.augmentation import RandomAugmentation
from gan_dist.gan.latents import Draws
from gan_dist.outputs.pictures import COUNT, save_grid

FEW = 10  # images of a class that are too few to learn it
MAX_CLASSES_SHOWN = 40
CHUNK = 1_000  # images hashed at a time


def preview(config: Config, picture: Path, announce: Callable[[str], None]) -> None:
    """Read a data set and prepare what a run needs, the classifier of its evaluations included; print what it is, and
    draw the first images of a run.

    Args:
        config: of the run.
        picture: gets a grid of 64 images as the data loader returns them. With an augmentation, one of the same images
            as the discriminator will see them is written beside it.
        announce: called with one line per fact that the user may not expect.

    Raises:
        InputError: the data can't be used, or the picture can't be written.
    """
    images = load_images(config.data, announce)
    first, pictures = first_images(images, config), {"picture": picture}
    try:
        save_grid(first, picture)
        if config.augment.on:
            pictures["augmented"] = picture.with_name(f"{picture.stem}-augmented.png")
            save_grid(augment(first, config), pictures["augmented"])
    except OSError as error:
        raise InputError(f"output={picture} can't be written ({error.strerror}); choose another") from error
    for note in (*images.notes, *remarks(images), *image_warnings(config)):
        announce(note)
    classifier = classifier_for(pin_source(config.data, images.provenance.source), announce, train=images)
    Console().print(describe(images, classifier, pictures))


def describe(images: ImageSet, classifier: TrainedClassifier, pictures: Mapping[str, Path]) -> Table:
    """A table of the data set."""
    spec, data = images.spec, images.provenance
    table = Table(show_header=False, title_justify="left", title=f"data {spec.name}")
    table.add_row("from", f"{data.file} ({data.source}; {data.verified} verified)")
    table.add_row("images", spec.describe_shape())
    table.add_row("training", f"{spec.count:,} images, sha256 {data.sha256[:12]}")
    table.add_row("held out", f"{spec.held_out:,} images" if spec.held_out else "none")
    table.add_row("classes", "none" if spec.classes is None else f"{len(spec.classes)}")
    if spec.classes is not None and images.class_counts is not None:
        counts = images.class_counts.tolist()
        for name, count in list(zip(spec.classes, counts, strict=True))[:MAX_CLASSES_SHOWN]:
            table.add_row("", f"{name}: {count:,}")
        if len(counts) > MAX_CLASSES_SHOWN:
            table.add_row("", f"and {len(counts) - MAX_CLASSES_SHOWN} more")
    table.add_row("judged by", classifier.description)
    for name, file in pictures.items():
        table.add_row(name, str(file))
    return table


def first_images(images: ImageSet, config: Config) -> Tensor:
    """The first 64 images of a run, (64, C, H, W) in [-1, 1]."""
    cpu, mirrored = torch.device("cpu"), config.data.mirror
    size = min(COUNT, len(images.images))
    batches = GlobalBatches(len(images.images), size, config.train.seed, range(1), cpu, images.stack, mirrored)
    return DeviceStore(images, cpu, mirrored).__getitems__(next(iter(batches))).result().images


def augment(images: Tensor, config: Config) -> Tensor:
    """Images as the discriminator sees them in a first step. An adaptive probability is taken at its highest."""
    probability = config.augment.probability if config.augment.target is None else SAFE_PROBABILITY
    draws = Draws(config.train.seed, len(images), 0, 1, images.device)
    augmentation = RandomAugmentation(config.augment.names, torch.tensor(probability), False, draws)
    draws.begin(1)
    return augmentation(images, augmentation.draw("discriminator")[:, 0])


def remarks(images: ImageSet) -> Iterator[str]:
    """What may be wrong with the data: one line for each kind."""
    names = images.spec.classes
    if names is not None and images.class_counts is not None:
        counts = images.class_counts.tolist()
        few = [f"{name} ({count})" for name, count in zip(names, counts, strict=True) if count < FEW]
        if few:
            more = ", …" if few[5:] else ""
            yield f"{len(few)} class(es) have fewer than {FEW} training images: {', '.join(few[:5])}{more}"
    if copies := count_duplicates(images):
        yield f"{copies:,} training images have the same pixels as an earlier one"


def count_duplicates(images: ImageSet) -> int:
    """The number of images whose pixels are those of an earlier image."""
    seen = set()
    for chunk in images.images.split(CHUNK):
        seen |= {hashlib.blake2b(image.data, digest_size=16).digest() for image in chunk.numpy()}
    return len(images.images) - len(seen)
