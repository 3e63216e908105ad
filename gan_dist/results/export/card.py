"""The model card of a published generator: everything on it was measured, or is recorded in the run."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from gan_dist.config import Config, package_version
from gan_dist.models.cost import count_weights
from gan_dist.results.export.explorer import TEMPLATES
from gan_dist.results.export.measured import SHOWN, GeneratorFigures, TrainingData
from gan_dist.results.figures import info, interval_text, value_text

TASK = "unconditional-image-generation"
"""The hub's task of generators. It has none for classes."""


def model_card(
    repo: str,
    license: str,
    generator: nn.Module,
    config: Config,
    step: int,
    measured: GeneratorFigures,
    data: TrainingData,
    rows: Sequence[str],
    grid: tuple[int, int],
) -> str:
    """README.md of the repository.

    Args:
        repo: USER/NAME.
        license: the hub's identifier of it.
        generator: from `read_generator`, as the next two.
        config: of the run.
        step: of the generator.
        measured: its figures.
        data: the data set.
        rows: the classes of the rows of samples.png; empty if they have none.
        grid: number and seed of the images in samples.png.
    """
    channels, height, width = generator.shape  # type: ignore[misc]
    name = repo.partition("/")[2]
    return TEMPLATES.get_template("card.md.j2").render(
        front_matter=_front_matter(name, license, config, measured, data),
        name=name,
        repo=repo,
        license=license,
        channels=channels,
        height=height,
        width=width,
        classes=generator.classes,
        data=data,
        rows=rows,
        grid_count=grid[0],
        seed=grid[1],
        measured=measured,
        figures=[_figure(name, measured) for name in SHOWN if name in measured.figures],
        training=[
            ("Data", f"{data.name}, {data.count:,} images"),
            ("SHA-256 of the images", data.sha256),
            ("Architecture", f"{config.model.architecture}, {count_weights(generator):,} weights"),
            ("Loss", config.train.loss),
            ("Steps", f"{step:,} of {config.train.batch_size} images"),
            ("Seed", str(config.train.seed)),
            ("Software", f"gan_dist {package_version()}"),
        ],
    )


def markdown(text: str) -> str:
    """Text as it stands, in Markdown: names from files must be neither formatting nor HTML."""
    return re.sub(r"([!-+/:-@\[-`{-~-])", r"\\\1", " ".join(text.split()))


TEMPLATES.filters["markdown"] = markdown


def _front_matter(name: str, license: str, config: Config, measured: GeneratorFigures, data: TrainingData) -> str:
    """The YAML that the hub reads."""
    from huggingface_hub import EvalResult, ModelCardData

    result = EvalResult(
        task_type=TASK,
        dataset_type=data.name,
        dataset_name=data.name,
        metric_type="frechet_distance",
        metric_name=f"Fréchet distance, features of classifier {measured.features}",
        metric_value=round(measured.figures["distance/frechet"].value, 4),
    )
    return ModelCardData(
        license=license,
        library_name="gan_dist",
        pipeline_tag=TASK,
        tags=["gan", "image-generation", config.model.architecture],
        model_name=name,
        eval_results=[result],
    ).to_yaml()


def _figure(name: str, measured: GeneratorFigures) -> tuple[str, str, str, str]:
    """A row of the table: title, value, interval, and floor."""
    found, floor = measured.figures[name], measured.floor.get(name)
    return info(name).title, value_text(found), interval_text(found), "-" if floor is None else value_text(found, floor)
