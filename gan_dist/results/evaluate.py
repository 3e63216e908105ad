"""Evaluation of a run's generator: figures of its images, and the same figures of real images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gan_dist.config import MIN_EVALUATED, DataConfig, DataSource, InputError, Weights
from gan_dist.data.images import ImageSet
from gan_dist.data.pixels import quantize
from gan_dist.data.sources import load_held_out, load_images, pin_source
from gan_dist.evaluation.classifier_file import TrainedClassifier, classifier_bytes
from gan_dist.evaluation.classifier_training import classifier_for, train_classifier
from gan_dist.evaluation.estimates import Estimate
from gan_dist.evaluation.features import extract_features
from gan_dist.evaluation.floor import real_figures
from gan_dist.evaluation.metrics import compute_figures
from gan_dist.evaluation.reference import reference_for
from gan_dist.files import replacing, write_json
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_config, read_optional_json
from gan_dist.results.generator import generator_file, is_generator_file, read_generator
from gan_dist.results.sample import generate_images


@dataclass(frozen=True)
class Evaluation:
    """The result of `gan-dist evaluate`."""

    run: str
    count: int
    """Number of generated images."""
    seed: int
    """Random seed of their latents."""
    generator: str
    """File of the generator."""
    step: int
    """Step of the generator."""
    classifier: str
    """Id of the classifier. Figures of different classifiers are not comparable."""
    classifier_accuracy: float
    classifier_description: str
    """What it was trained for."""
    data: dict[str, str | int | None]
    """Provenance of the real images."""
    figures: dict[str, Estimate]
    classes: tuple[str, ...] | None
    """Names of the classes, in the order of the figures classes/0, classes/1, …; None if the images have none."""
    real: dict[str, Estimate]
    """The same figures of real images. A generator can't be expected to be better."""

    def title(self) -> str:
        """One line for the console."""
        return f"{self.generator}, step {self.step:,}: {self.count:,} images, {self.classifier_description}"

    def table(self) -> Table:
        """A table for the console: each figure with its interval and its value for real images."""
        table = Table()
        for name in ("figure", "generated", "95 % interval", "real"):
            table.add_column(name, justify="left" if name == "figure" else "right")
        for name, figure in self.figures.items():
            real = self.real.get(name)
            interval = f"{figure.low:.4g} to {figure.high:.4g}"
            table.add_row(
                self._label(name), f"{figure.value:.4g}", interval, "-" if real is None else f"{real.value:.4g}"
            )
        return table

    def _label(self, figure: str) -> str:
        """A figure's name, with that of its class unless this is the same number."""
        index = figure.removeprefix("classes/")
        if self.classes is None or index == figure or not index.isdigit() or self.classes[int(index)] == index:
            return figure
        return f"{figure} {escape(self.classes[int(index)])}"


def evaluate_run(
    run: Path,
    announce: Callable[[str], None],
    count: int = 10_000,
    seed: int = 0,
    root: Path | None = None,
    source: DataSource | None = None,
    weights: Weights = "average",
) -> Evaluation:
    """Evaluate the generator of a run, print the figures, and write them to RUN/evaluation.json.

    Args:
        run: the run's folder, which may still be training; or one of its .safetensors files, in any folder. Then the
            figures of NAME.safetensors are written to NAME-evaluation.json beside it, and the real images are those of
            its metadata.
        announce: called with one line above the figures, and with one line for each fallback.
        count: number of images to generate (>= MIN_EVALUATED).
        seed: random seed of their latents.
        root, source: location of the real images, if it differs from the run's.
        weights: which generator of the run, as in `load_generator`.

    Raises:
        InputError: the run has no such generator, its data set can't be read or has no classifier, or the figures can't
            be written.
    """
    if count < MIN_EVALUATED:
        raise InputError(f"count={count} is not supported: an evaluation needs at least {MIN_EVALUATED} images")
    used = generator_file(run, weights)
    generator, config, step = read_generator(used)
    is_file = is_generator_file(run)
    folder = RunFolder(run.parent if is_file else run)
    if not is_file:
        config = read_config(folder.config)  # a resume may have changed the location of the data
    trained_on = _provenance(folder.environment, announce)
    data = _data(config.data, trained_on.get("source"), root, source)
    train = load_images(data, announce)
    _check_shape(used, generator.shape, train)
    if train.provenance.sha256 != trained_on.get("sha256", train.provenance.sha256):
        announce(f"{run} was trained on other images than those of {train.provenance.file}, which are used here")
    classifier = classifier_for(data, announce, train=train)
    reference = reference_for(data, train, classifier, announce)
    generated = quantize(generate_images(generator, count, seed))
    images = extract_features(classifier.network, generated, labelled=classifier.task == "classes")
    evaluation = Evaluation(
        run=str(run),
        count=count,
        seed=seed,
        generator=str(used),
        step=step,
        classifier=classifier.id,
        classifier_accuracy=classifier.accuracy,
        classifier_description=classifier.description,
        data=train.provenance.to_dict(),
        figures=compute_figures(images, reference),
        classes=train.spec.classes,
        real=real_figures(reference, count, train.stack),
    )
    _write(evaluation, run.with_name(f"{run.stem}-evaluation.json") if is_file else folder.evaluation)
    announce(evaluation.title())
    if classifier.task == "rotations":
        announce("without labels, the figures of classes are left out: score/classifier, classes/*, modes/*")
    Console().print(evaluation.table())
    return evaluation


def _check_shape(generator: Path, shape: object, images: ImageSet) -> None:
    if shape != images.shape:
        raise InputError(
            f"{generator} generates images (C, H, W) of shape {shape}, but those of {images.provenance.file} are of "
            f"shape {images.shape}; give the training data of the run with --data.root"
        )


def _write(evaluation: Evaluation, file: Path) -> None:
    try:
        write_json(file, asdict(evaluation))
    except OSError as error:
        raise InputError(f"{file} can't be written ({error.strerror}); make {file.parent} writable") from error


def _provenance(environment: Path, announce: Callable[[str], None]) -> dict[str, str]:
    """ "source" and "sha256" of the run's data, as far as environment.json has them."""
    recorded, damage = read_optional_json(environment)
    if damage:
        announce(f"{environment} {damage}; the real images are not compared with the training images")
    data = recorded.get("data")
    known = data if isinstance(data, dict) else {}
    return {name: known[name] for name in ("source", "sha256") if isinstance(known.get(name), str)}


def _data(data: DataConfig, used: str | None, root: Path | None, source: DataSource | None) -> DataConfig:
    """The run's data set: at the given location, else at the source that the run used."""
    if root is not None or source is not None:
        return replace(data, root=root or data.root, source=source or "local")
    return data if used is None else pin_source(data, used)


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
