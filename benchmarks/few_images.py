"""What augmentation gives with few images: a preset on some digits of each class, judged by the whole of MNIST.

    python benchmarks/few_images.py --data DIR --folder DIR [--variants "FLAG ..." ...] [--per-class 50]
                                    [--preset digits] [--minutes M] [--seeds N ...] [--processes N] [--threads N]
                                    [-- FLAG ...]

Writes FOLDER/few.npz: the first --per-class training images of each digit, and all test images as held-out ones. Trains
the preset on it with each variant, which are flags such as "--augment.target 0.3" or "" for none, and with each seed,
for M minutes. FLAGS are passed to each training. Results stay in the folder and are reused.

Prints Markdown, medians of the seeds with the lowest and the highest: the Fréchet distance of 10,000 images to all
60,000 training images of MNIST; nearest/ratio and score/train of the run's last evaluation, against the few; the share
of visibly augmented images (augmented.py), and of those that are not merely off the center.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from statistics import median

import numpy as np
import torch
from augmented import CLASSIFIERS, read_pixels, visibly_augmented
from conditional import parse, train, training_parser
from launching import REPOSITORY

from gan_dist.config import DataConfig
from gan_dist.data.images import ImageSet
from gan_dist.data.sources import load_held_out, load_images
from gan_dist.evaluation.distances import frechet_distance
from gan_dist.evaluation.extractors import classifier_for
from gan_dist.evaluation.features import extract_features
from gan_dist.evaluation.reference import reference_for
from gan_dist.outputs.records import read_json_lines
from gan_dist.results.classes import choose_labels
from gan_dist.results.generator import load_generator
from gan_dist.results.sample import generate_pixels

COUNT = 10_000  # images
ARRAYS = ("--data.name", "arrays")
COLUMNS = ("distance", "nearest/ratio", "score/train", "visibly augmented", "of these not by translation")


def write_few(images: ImageSet, held_out: ImageSet, per_class: int, file: Path) -> None:
    """Write the first images of each class, and all held-out ones, in the format of --data.name arrays."""
    assert images.labels is not None
    assert held_out.labels is not None
    kept = torch.cat([(images.labels == label).nonzero()[:per_class, 0] for label in range(10)])
    arrays = {"x_train": images.images[kept, 0], "y_train": images.labels[kept]}
    arrays |= {"x_test": held_out.images[:, 0], "y_test": held_out.labels}
    np.savez(file, **{name: array.numpy() for name, array in arrays.items()})


class Judge:
    """Computes the columns of a finished run.

    Args:
        config: of the whole data set.
        images: its training images.
    """

    def __init__(self, config: DataConfig, images: ImageSet) -> None:
        self.classifier = classifier_for(config, print)
        self.reference = reference_for(config, images, self.classifier, print)

    def columns(self, run: Path) -> tuple[float, ...]:
        generator = load_generator(run)
        pixels = generate_pixels(generator, COUNT, 0, choose_labels(generator, COUNT, 0))
        features = extract_features(self.classifier.network, pixels)
        distance = frechet_distance(features, self.reference)["distance/frechet"].value
        latest = read_json_lines(run / "evaluations.jsonl")[-1]
        others = [classify(pixels) for name, classify in CLASSIFIERS.items() if name != "translation"]
        not_moved = torch.stack(others).any(0).double().mean().item()
        return distance, latest["nearest/ratio"], latest["score/train"], visibly_augmented(pixels)["any"], not_moved


def main() -> None:
    parser = training_parser(__doc__, minutes=20)
    parser.add_argument("--variants", nargs="+", default=["", "--augment.target 0.3 --augment.rise-images 200000"])
    parser.add_argument("--per-class", type=int, default=50)
    parser.add_argument("--preset", default="digits")
    arguments = parse(parser)
    folder = arguments.folder
    whole = DataConfig(root=arguments.data, source="local")
    images = load_images(whole, print)
    few = folder / "few.npz"
    if not few.exists():
        write_few(images, load_held_out(whole, print), arguments.per_class, few)
        words = ["data", *ARRAYS, "--data.root", str(few), "--output", str(folder / "few.png")]  # trains the classifier
        subprocess.run([sys.executable, "-m", "gan_dist.cli", *words], check=True, cwd=REPOSITORY)
    judge = Judge(whole, images)
    real = f"visibly augmented of the real images: {visibly_augmented(read_pixels(few))['any']:.2%}\n"
    common = [*ARRAYS, "--train.epochs", "1000000", *arguments.flags]
    print(f"\n{real}\n| flags | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    for variant in arguments.variants:
        rows = []
        for seed in arguments.seeds:
            run = folder / f"{'_'.join(shlex.split(variant)).replace('--', '') or 'none'}-{seed}"
            if not (run / "columns.json").exists():
                settings = {"data": few, "flags": [*common, *shlex.split(variant)]}
                train(arguments.preset, seed, run, argparse.Namespace(**{**vars(arguments), **settings}))
                (run / "columns.json").write_text(json.dumps(judge.columns(run)))
            rows.append(json.loads((run / "columns.json").read_text()))
        shown = [f"{median(column):.3g} ({min(column):.3g} to {max(column):.3g})" for column in zip(*rows, strict=True)]
        print(f"| `{variant or 'none'}` | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
