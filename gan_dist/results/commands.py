"""The commands that read data or a run. Imports no torch, so --help is answered at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from gan_dist.config import EVALUATED, SEEDS, Config, DataConfig, DataName, DataSource, InputError, Range, Weights
from gan_dist.config.arguments import read_arguments
from gan_dist.config.rules import wrong_features
from gan_dist.config.run_arguments import read_run_arguments
from gan_dist.data.readers import reader_for


@dataclass(frozen=True)
class EvaluateData:
    name: DataName = "mnist"
    """Data set of the classifier, with --train-classifier. A run has its own."""
    root: Path | None = None
    """Folder of the data set. None: as in the run."""
    source: DataSource | None = None
    """Where the images come from. None: as in the run, or local if root is given."""


@dataclass(frozen=True)
class EvaluateArguments:
    run: Annotated[Positional[Path | None], arg(metavar="[RUN|IMAGES]")] = None
    """What is judged: a run folder, one of its .safetensors files, or a folder, .zip or .npz file of images. Figures of
    NAME.safetensors or of images are written to NAME-evaluation.json beside it."""
    real: Annotated[Positional[Path | None], arg(metavar="[REAL]")] = None
    """The real images: a run folder, whose training images are used; or a folder, .zip or .npz file of images. None:
    the training images of the run that is judged."""
    count: Annotated[int, EVALUATED] = 10_000
    """Number of images to generate. Of a folder or file of images, all are judged."""
    seed: Annotated[int, SEEDS] = 0
    """Random seed of the latents."""
    weights: Weights = "average"
    """Which generator of the run. average: the exponential moving average if the run keeps one, else the trained
    generator. live: the trained generator. best: as average, at the best evaluation."""
    size: Annotated[int, Range(4, 1_024, "as data.size")] | None = None
    """Pixels per side to which images in folders and files are resized, as by data.size. None: as in the run; without a
    run, all images have the same size."""
    features: Path | None = None
    """As evaluate.features. inception:FILE: also FID and KID as in papers. None: as in the run."""
    accuracy_score: bool = False
    """Of a conditional run: also the accuracy of a classifier that is trained on generated images and tested on real
    ones. Takes minutes."""
    data: EvaluateData = field(default_factory=EvaluateData)
    """The training images of the run."""
    train_classifier: Path | None = None
    """For maintainers: train the classifier of a data set and write it to this file. Takes no RUN."""


def evaluate(arguments: Sequence[str]) -> int:
    """Evaluate a run's generator or images, or train the classifier of a data set."""
    parsed = read_arguments(
        EvaluateArguments,
        arguments,
        prog="gan-dist evaluate",
        description=(
            "Compare images of a run's generator, or those in a folder, with real ones; print the figures and write "
            "evaluation.json."
        ),
    )
    if (parsed.run is None) == (parsed.train_classifier is None):
        raise InputError("give either a RUN to evaluate, or --train-classifier FILE")
    if parsed.features is not None and (wrong := wrong_features("features", parsed.features)):
        raise InputError(wrong)
    from gan_dist.results.evaluate import RunOptions, evaluate_images, evaluate_run, make_shipped_classifier
    from gan_dist.results.image_sets import holds_images

    data, run, real = parsed.data, parsed.run, parsed.real
    located = data.root is not None or data.source is not None
    if real is not None and holds_images(real) and located:
        raise InputError(
            f"data.root and data.source are for the data of a run, but {real} has the real images; omit them"
        )
    if run is not None and holds_images(run):
        if parsed.accuracy_score:
            raise InputError(f"accuracy-score is for a run, and {run} holds images; omit it")
        if real is None:
            raise InputError(f"{run} holds images and no run; give the real images, too: gan-dist evaluate {run} REAL")
        evaluate_images(run, real, print, parsed.features, parsed.size, data.root, data.source)
        return 0
    if run is not None:
        options = RunOptions(
            *(parsed.count, parsed.seed, parsed.weights, data.root, data.source),
            *(parsed.features, real, parsed.size, parsed.accuracy_score),
        )
        evaluate_run(run, print, options)
        return 0
    assert parsed.train_classifier is not None
    source = DataConfig(data.name, data.root or DataConfig.root, data.source or DataConfig.source)
    trained = make_shipped_classifier(source, parsed.train_classifier, print)
    accuracy = f"{100 * trained.accuracy:.2f} % accuracy on held-out images"
    print(f"classifier {trained.id} in {parsed.train_classifier}: {accuracy}")
    return 0


@dataclass(frozen=True)
class DataArguments(Config):
    output: Path = Path("data.png")
    """Picture of the first 64 images. With an augmentation, NAME-augmented.png shows what the discriminator sees."""


def data(arguments: Sequence[str]) -> int:
    """Read a data set, preparing what is needed, and show it."""
    config = read_run_arguments(
        DataArguments,
        arguments,
        prog="gan-dist data",
        description="Read and prepare the data of a run, and show what they are. Takes the flags of a training.",
    )
    if config.output.suffix != ".png":
        raise InputError(f"output={config.output} must end in .png")
    reader_for(config.data.name).check(config.data)
    from gan_dist.results.preview import preview

    preview(config, config.output, print)
    return 0


@dataclass(frozen=True)
class DoctorArguments:
    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run folder; the run may still be training."""


def doctor(arguments: Sequence[str]) -> int:
    """Print the problems of a run.

    Returns:
        0 if there are no problems; 1 if there are; 3 if none were found, but more steps or an evaluation are needed to
        judge the run.
    """
    parsed = read_arguments(
        DoctorArguments,
        arguments,
        prog="gan-dist doctor",
        description=(
            "Find the problems of a run from its recorded figures, with advice. Exit code: 0 no problems, 1 problems, "
            "3 too early to tell."
        ),
    )
    from gan_dist.evaluation.doctor import Verdict
    from gan_dist.results.doctor import examine_run, print_examination

    examination = examine_run(parsed.run)
    print_examination(examination)
    return {Verdict.NO_PROBLEMS: 0, Verdict.PROBLEMS: 1, Verdict.TOO_EARLY: 3}[examination.report.verdict]


@dataclass(frozen=True)
class DiffArguments:
    runs: Annotated[Positional[tuple[Path, Path]], arg(metavar="RUN RUN")]
    """Folders of two runs trained with --train.log-hashes."""


def diff(arguments: Sequence[str]) -> int:
    """Print the first step in which two runs differ; return 1 if there is one."""
    parsed = read_arguments(
        DiffArguments,
        arguments,
        prog="gan-dist diff",
        description="Find the first step, and the tensors, in which two runs differ. Exit code: 0 equal, 1 different.",
    )
    from gan_dist.results.diff import compare_hashes

    comparison = compare_hashes(*parsed.runs)
    print(comparison.describe())
    return 0 if comparison.differs_at is None else 1
