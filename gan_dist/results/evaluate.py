"""Evaluation of a run's generator, or of images: their figures, and the same figures of real images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from gan_dist.config import MIN_EVALUATED, Config, DataConfig, DataSource, InputError, Weights
from gan_dist.data.images import ImageSet
from gan_dist.data.sources import load_held_out, load_images, pin_source
from gan_dist.distributed.numerics import set_numerics
from gan_dist.evaluation.accuracy_score import MAX_TRAINED, classification_accuracy_score
from gan_dist.evaluation.classifier_file import TrainedClassifier, classifier_bytes
from gan_dist.evaluation.classifier_training import train_classifier
from gan_dist.evaluation.estimates import Estimate
from gan_dist.evaluation.extractors import classifier_for
from gan_dist.evaluation.features import Reference, extract_features
from gan_dist.evaluation.floor import real_figures
from gan_dist.evaluation.inception_file import check_inception, inception_file
from gan_dist.evaluation.inception_judge import InceptionJudge, make_judge
from gan_dist.evaluation.metrics import compute_figures
from gan_dist.evaluation.reference import reference_for
from gan_dist.files import replacing
from gan_dist.results.evaluation import Evaluation, check_result
from gan_dist.results.image_sets import (
    ImageFiles,
    JudgedImages,
    RealImages,
    Run,
    holds_images,
    real_images_of_run,
    run_config,
)

OWN = Path("auto")  # features without FID and KID


@dataclass(frozen=True)
class RunOptions:
    """How the generator of a run is evaluated."""

    count: int = 10_000
    """Number of images to generate, at least MIN_EVALUATED."""
    seed: int = 0
    """Random seed of their latents."""
    weights: Weights = "average"
    """Which generator of the run, as in `load_generator`."""
    root: Path | None = None
    """Location of the run's data, if it differs, as the next field."""
    source: DataSource | None = None
    features: Path | None = None
    """evaluate.features, for FID and KID. None: as in the run, if its file is still there."""
    real: Path | None = None
    """The real images: another run, or images as in `evaluate_images`. None: those that the run is trained on."""
    size: int | None = None
    """Pixels per side to which the images of `real` are resized; the side of the generator's images."""
    accuracy_score: bool = False
    """Also compute the Classification Accuracy Score, of a conditional run."""


def evaluate_run(run: Path, announce: Callable[[str], None], options: RunOptions = RunOptions()) -> Evaluation:
    """Evaluate the generator of a run, print the figures, and write them to RUN/evaluation.json.

    Args:
        run: the run's folder, which may still be training; or one of its .safetensors files, in any folder. Then the
            figures of NAME.safetensors are written to NAME-evaluation.json beside it, and the real images are those of
            its metadata.
        announce: called with one line above the figures, and with one line for each fallback.
        options: what else is asked for.

    Raises:
        InputError: the run has no such generator, its data set can't be read or has no classifier, or the figures can't
            be written.
    """
    count, real, size = options.count, options.real, options.size
    if count < MIN_EVALUATED:
        raise InputError(f"count={count} is not supported: an evaluation needs at least {MIN_EVALUATED} images")
    opened = Run.read(run, options.weights)
    check_result(opened.result)
    if options.accuracy_score and not opened.config.model.conditional:
        raise InputError(f"accuracy-score is for conditional runs, and {run} is not one; omit it")
    features = _features(options.features, opened.config, announce)
    if real is not None and holds_images(real):
        _check_size(size, opened.shape, run)
        found = _files(real, size, opened.config.data).real(opened.shape, run, announce)
    else:
        data = opened.config.data if real is None else run_config(real).data
        found = real_images_of_run(real or run, data, announce, options.root, options.source)
        _check_size(size, found.train.shape, real or run)
        if opened.shape != found.train.shape:
            raise InputError(
                f"{opened.file} generates images (C, H, W) of shape {opened.shape}, but those of "
                f"{found.train.provenance.file} are of shape {found.train.shape}; give the training data of the run "
                "with --data.root"
            )
    scored = None
    if options.accuracy_score:
        held_out = _held_out(found, announce)

        def scored() -> Estimate:
            made = opened.generate(min(len(found.train.images), MAX_TRAINED), options.seed)
            assert made.labels is not None
            return classification_accuracy_score(made.pixels, made.labels, found.train, held_out, announce)

    return _evaluate(lambda: opened.generate(count, options.seed), found, features, announce, scored)


def _held_out(real: RealImages, announce: Callable[[str], None]) -> ImageSet:
    """The held-out images of a conditional run.

    Raises:
        InputError: there are none with the classes of the training images.
    """
    held_out = load_held_out(pin_source(real.config, real.train.provenance.source), announce)
    if held_out.labels is None or held_out.spec.classes != real.train.spec.classes:
        raise InputError(f"accuracy-score requires held-out images with classes; {real.train.spec.name} has none")
    return held_out


def evaluate_images(
    images: Path,
    real: Path,
    announce: Callable[[str], None],
    features: Path | None = None,
    size: int | None = None,
    root: Path | None = None,
    source: DataSource | None = None,
) -> Evaluation:
    """Evaluate images in a folder, a .zip or a .npz file, print the figures, and write them to NAME-evaluation.json
    beside it.

    Args:
        images: all images in it are judged; classes are ignored.
        real: the real images: a run, whose training images are used, or a folder, .zip or .npz file, whose classes
            and splits are used.
        announce: called with one line above the figures, and with one line for each fallback.
        features: evaluate.features, for FID and KID. None: as in the run, if there is one.
        size: pixels per side to which both are resized. None: as in the run; without a run, all have the same size.
        root, source: location of the run's data, if it differs.

    Raises:
        InputError: the images can't be read or compared, or the figures can't be written.
    """
    if holds_images(real):
        like, features = DataConfig(), features or OWN
        check_inception(features)
        found = _files(real, size, like).real(None, None, announce)
    else:
        config = run_config(real)
        like, features = config.data, _features(features, config, announce)
        found = real_images_of_run(real, like, announce, root, source)
        _check_size(size, found.train.shape, real)
    files = _files(images, size, like)
    judged = files.judged(found.train.shape, real, announce)
    check_result(judged.result)
    return _evaluate(lambda: judged, found, features, announce)


def _files(path: Path, size: int | None, like: DataConfig) -> ImageFiles:
    return ImageFiles(path, like if size is None else replace(like, size=size))


def _check_size(size: int | None, shape: tuple[int, int, int], run: Path) -> None:
    _, height, width = shape
    if size is not None and (size, size) != (height, width):
        raise InputError(f"size={size} is not that of the images of {run}, {width}x{height}; omit it")


def _features(given: Path | None, config: Config, announce: Callable[[str], None]) -> Path:
    """What is given, else the value of a run if its file is still there."""
    features = config.evaluate.features if given is None else given
    try:
        check_inception(features)
    except InputError as error:
        if given is not None:
            raise
        announce(f"FID and KID are left out: {error}")
        return OWN
    return features


def _evaluate(
    judge: Callable[[], JudgedImages],
    real: RealImages,
    features: Path,
    announce: Callable[[str], None],
    accuracy_score: Callable[[], Estimate] | None = None,
) -> Evaluation:
    """Compute, write and show the figures of images, which `judge` returns, and of `accuracy_score` if it is given."""
    train = real.train
    classifier = classifier_for(real.config, announce, train=train)
    reference = reference_for(real.config, train, classifier, announce)
    inception = _inception(features, real, reference, announce)
    judged = judge()
    labelled = classifier.task == "classes"
    images = extract_features(classifier.network, judged.pixels, labelled, judged.labels)
    count = len(judged.pixels)
    figures = compute_figures(images, reference)
    floor = real_figures(reference, count, train.stack, conditional=judged.labels is not None)
    if inception is not None:
        figures |= inception.figures(images.pixels)
        floor = floor | inception.reference.floor
    if accuracy_score is not None:
        figures["score/accuracy"] = accuracy_score()
        floor = floor | {"score/accuracy": Estimate(*[classifier.accuracy] * 3)}
    evaluation = Evaluation(
        run=str(judged.path),
        count=count,
        seed=judged.seed,
        generator=None if judged.generator is None else str(judged.generator),
        step=judged.step,
        classifier=classifier.id,
        classifier_accuracy=classifier.accuracy,
        classifier_description=classifier.description,
        data=train.provenance.to_dict(),
        figures=figures,
        classes=train.spec.classes,
        real=floor,
        inception=None if inception is None else inception.describe(len(images.pixels)),
    )
    evaluation.write(judged.result)
    announce(evaluation.title())
    if evaluation.inception is not None:
        announce(evaluation.inception)
    if classifier.task == "rotations":
        announce("without labels, the figures of classes are left out: score/classifier, classes/*, modes/*")
    Console().print(evaluation.table())
    if judged.generator is None:
        announce(f"figures in {judged.result}")
    return evaluation


def _inception(
    features: Path, real: RealImages, reference: Reference, announce: Callable[[str], None]
) -> InceptionJudge | None:
    if inception_file(features) is None:
        return None
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = found or torch.device("cpu")
    set_numerics(device, tf32=False, deterministic=False)  # as in a run, with which it shares its cache
    return make_judge(features, real.train.images, reference.held_out_pixels, device, announce)


def make_shipped_classifier(
    data: DataConfig, file: Path, announce: Callable[[str], None], epochs: int | None = None
) -> TrainedClassifier:
    """Train a classifier on a data set and write it as the file that ships with the package.

    Raises:
        InputError: the data can't be used, or has no held-out images, or the file can't be written.
    """
    train, held_out = load_images(data, announce), load_held_out(data, announce)
    trained = train_classifier(train, held_out, announce, epochs=epochs)
    try:
        with replacing(file) as beside:
            beside.write_bytes(classifier_bytes(trained))
    except OSError as error:
        raise InputError(f"{file} can't be written ({error.strerror}); choose another") from error
    return trained
