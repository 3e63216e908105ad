"""How good a run's generator is: figures of what it makes, beside the same figures of real images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gan_dist.config import MIN_EVALUATED, DataConfig, DataSource, InputError, Weights
from gan_dist.data.pixels import quantize
from gan_dist.data.sources import load_images, load_labelled, settled
from gan_dist.evaluation.classifier import TrainedClassifier, classifier_bytes, classifier_for, train_classifier
from gan_dist.evaluation.metrics import compute_figures, real_figures
from gan_dist.evaluation.observations import Estimate, observe
from gan_dist.evaluation.reference import reference_for
from gan_dist.files import replacing, write_json
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_config, read_optional_json
from gan_dist.results.generate import generate, generator_file, is_generator_file, read_generator


@dataclass(frozen=True)
class Evaluation:
    """What `gan-dist evaluate` found."""

    run: str
    count: int
    """Images generated."""
    seed: int
    """Of their latents."""
    generator: str
    """The file of the generator."""
    step: int
    """The step that the generator comes from."""
    classifier: str
    """Its id: only figures of the same one can be compared."""
    classifier_accuracy: float
    data: dict[str, str | int | None]
    """Where the real images came from."""
    figures: dict[str, Estimate]
    real: dict[str, Estimate]
    """The same figures of real images, as near as a generator can be expected to come."""

    def table(self) -> Table:
        """For a person: each figure, its interval, and that of real images beside it."""
        table = Table()
        for name in ("figure", "generated", "95 % interval", "real"):
            table.add_column(name, justify="left" if name == "figure" else "right")
        for name, figure in self.figures.items():
            real = self.real.get(name)
            interval = f"{figure.low:.4g} to {figure.high:.4g}"
            table.add_row(name, f"{figure.value:.4g}", interval, "-" if real is None else f"{real.value:.4g}")
        return table


def evaluate_run(
    run: Path,
    announce: Callable[[str], None],
    count: int = 10_000,
    seed: int = 0,
    root: Path | None = None,
    source: DataSource | None = None,
    weights: Weights = "average",
) -> Evaluation:
    """Evaluate the generator of a run, show the figures, and write them to RUN/evaluation.json.

    Args:
        run: the run's folder, which may still be training; or one of its .safetensors files, wherever that lies. Then
            the figures of NAME.safetensors are written to NAME-evaluation.json beside it, and the real images are those
            that its metadata name.
        announce: called with one line above the figures, and one where something else is used than one would expect.
        count: images to generate (>= MIN_EVALUATED).
        seed: other images for another.
        root, source: where the real images are, if not where the run had them.
        weights: which generator of the run, as in `load_generator`.

    Raises:
        InputError: the run has no such generator, its data set can't be read or has no classifier, or the figures can't
            be written.
    """
    if count < MIN_EVALUATED:
        raise InputError(f"count={count} can't be used: figures need at least {MIN_EVALUATED} images")
    used = generator_file(run, weights)
    generator, config, step = read_generator(used)
    folder, file = RunFolder(run), RunFolder(run).evaluation
    if is_generator_file(run):
        folder, file = RunFolder(run.parent), run.with_name(f"{run.stem}-evaluation.json")
    else:
        config = read_config(folder.config)  # after a resume the data may be elsewhere
    trained_on = _provenance(folder.environment, announce)
    data = _data(config.data, trained_on.get("source"), root, source)
    train = load_images(data, announce)
    if generator.shape != train.shape:
        raise InputError(
            f"{used} makes images (C, H, W) of {generator.shape}, but those of {train.provenance.file} are of "
            f"{train.shape}; give the data that the run was trained on with --data.root"
        )
    if train.provenance.sha256 != trained_on.get("sha256", train.provenance.sha256):
        announce(f"{run} was trained on other images than those of {train.provenance.file}: mind what is compared")
    classifier = classifier_for(data, announce)
    reference = reference_for(data, train, classifier, announce)
    observed = observe(classifier.network, quantize(generate(generator, count, seed)))
    evaluation = Evaluation(
        run=str(run),
        count=count,
        seed=seed,
        generator=str(used),
        step=step,
        classifier=classifier.id,
        classifier_accuracy=classifier.accuracy,
        data=train.provenance.to_dict(),
        figures=compute_figures(observed, reference),
        real=real_figures(reference, count, train.stack),
    )
    try:
        write_json(file, asdict(evaluation))
    except OSError as error:
        raise InputError(f"{file} can't be written ({error.strerror}); make {file.parent} writable") from error
    announce(
        f"{used}, step {step:,}: {count:,} images, classifier {classifier.id} ({100 * classifier.accuracy:.2f} % right)"
    )
    Console().print(evaluation.table())
    return evaluation


def _provenance(environment: Path, announce: Callable[[str], None]) -> dict[str, str]:
    """What the run noted of its data: "source" and "sha256", as far as it noted them."""
    noted, damage = read_optional_json(environment)
    if damage:
        announce(f"{environment} {damage}: whether the real images are those of the training is not checked")
    data = noted.get("data")
    known = data if isinstance(data, dict) else {}
    return {name: known[name] for name in ("source", "sha256") if isinstance(known.get(name), str)}


def _data(data: DataConfig, used: str | None, root: Path | None, source: DataSource | None) -> DataConfig:
    """The run's data set, at the source that it came from then, unless another place is given."""
    if root is not None or source is not None:
        return replace(data, root=root or data.root, source=source or "local")
    return data if used is None else settled(data, used)


def make_shipped_classifier(
    data: DataConfig, file: Path, announce: Callable[[str], None], epochs: int = 12
) -> TrainedClassifier:
    """Train a classifier on a data set and write it as the file that ships with the package.

    Raises:
        InputError: the data can't be used, or has no held-out images, or the file can't be written.
    """
    train, held_out = (load_labelled(data, split, announce) for split in ("train", "test"))
    trained = train_classifier(train, held_out, announce, epochs=epochs)
    try:
        with replacing(file) as beside:
            beside.write_bytes(classifier_bytes(trained))
    except OSError as error:
        raise InputError(f"{file} can't be written ({error.strerror}); choose another") from error
    return trained
