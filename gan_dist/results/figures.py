"""The figures of an evaluation as they are shown: title, which direction is better, interval, and real images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gan_dist.evaluation.history import Row, class_number, figure
from gan_dist.files import is_whole
from gan_dist.outputs.records import is_number

Better = Literal["lower", "higher", "real"]
"""Which values of a figure are better. real: neither; values near that of real images are good."""


@dataclass(frozen=True)
class FigureInfo:
    """How a figure is shown."""

    title: str
    better: Better
    meaning: str
    """One short sentence."""


# In the order in which they are shown. A figure that is missing here is shown after these, by its own name.
FIGURE_INFO: dict[str, FigureInfo] = {
    "inception/fid": FigureInfo("FID", "lower", "Fréchet distance in Inception features."),
    "inception/kid": FigureInfo("KID", "lower", "Kernel distance in Inception features."),
    "distance/frechet": FigureInfo("Fréchet distance", "lower", "Distance between generated and real features."),
    "distance/kernel": FigureInfo("Kernel distance", "lower", "The same without assuming normal features."),
    "coverage": FigureInfo("Coverage", "higher", "Share of the real images near a generated one."),
    "precision": FigureInfo("Precision", "higher", "Share of the generated images that could be real."),
    "recall": FigureInfo("Recall", "higher", "Share of the real images that could be generated."),
    "density": FigureInfo("Density", "real", "Real images near a generated one, relative to real ones."),
    "diversity/features": FigureInfo("Diversity", "real", "Mean distance between the features of two images."),
    "score/classifier": FigureInfo("Inception score", "higher", "Every image is of one class, and all classes occur."),
    "score/accuracy": FigureInfo(
        "Accuracy score", "higher", "Accuracy of a classifier that is trained on generated images."
    ),
    "asked/obtained": FigureInfo("Class obtained", "higher", "Share of the images that show the class asked for."),
    "within/frechet": FigureInfo("Fréchet within classes", "lower", "Mean of the Fréchet distances of the classes."),
    "classes/from_uniform": FigureInfo("Class imbalance", "real", "Distance of the class shares from equal ones."),
    "modes/found": FigureInfo("Modes found", "higher", "Combinations of classes that occur."),
    "modes/divergence": FigureInfo("Mode divergence", "lower", "KL divergence of the combinations from equal ones."),
    "nearest/generated": FigureInfo("Nearest training image", "real", "Distance to the nearest training image."),
    "nearest/ratio": FigureInfo("Nearest, relative", "real", "The same, relative to held-out images. Low: copies."),
    "score/train": FigureInfo(
        "D prefers training images", "real", "Rate against held-out images. 0.5: no memorization."
    ),
    "score/held_out": FigureInfo("D prefers held-out images", "real", "The reverse."),
}

MAX_PLAIN = 1e9  # from here on, numbers are written with an exponent

# Not figures, and figures of which others say the same.
NOT_SHOWN = ("step", "epoch", "images_seen", "seconds", "count", "classifier", "inception", "intervals")


@dataclass(frozen=True)
class Measured:
    """A figure of an evaluation with its 95 % confidence interval; low and high are NaN if it has none."""

    value: float
    low: float
    high: float

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def half_width(self) -> float:
        """Half of the interval's width; NaN without an interval."""
        return self.high / 2 - self.low / 2  # their difference may overflow


def info(name: str) -> FigureInfo:
    """How a figure is shown; by its name if nothing is known of it."""
    return FIGURE_INFO.get(name, FigureInfo(name, "real", ""))


def measured(row: Row, name: str) -> Measured | None:
    """A figure of a line of evaluations.jsonl; None if the line does not have it, or no finite value.

    An interval that does not contain the value is not one, and is ignored.
    """
    value = figure(row, name)
    if math.isnan(value):
        return None
    interval = row.get("intervals", {}).get(name) or (None, None)
    low, high = (float(end) if end is not None else math.nan for end in interval)
    return Measured(value, low, high) if low <= value <= high else Measured(value, math.nan, math.nan)


def general_figures(row: Row) -> list[str]:
    """The names of the figures of an evaluation that are not of a single class, in the order of FIGURE_INFO."""
    known = [name for name in FIGURE_INFO if name in row]
    return known + [name for name in row if name not in FIGURE_INFO and name not in NOT_SHOWN and not of_class(name)]


def of_class(name: str) -> bool:
    """Whether a figure is of a single class, such as classes/3, asked/3, within/3 and within/3/diversity."""
    parts = name.split("/")
    return len(parts) > 1 and parts[0] in ("classes", "asked", "within") and class_number(parts[1]) is not None


def comparable(a: Row, b: Row, name: str) -> bool:
    """Whether a figure of two evaluations may be compared: it depends on the feature extractor, and distances depend
    on the number of images."""
    extractor = "inception" if name.startswith("inception/") else "classifier"
    return a.get(extractor) == b.get(extractor) and a.get("count") == b.get("count")


def number(value: float | int) -> str:
    """A number with four significant digits, for people: 0.0032, 1.274, 39.01, 1,234."""
    if not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}" if abs(value) < MAX_PLAIN else f"{value:.3g}"
    return f"{value:.4g}" if abs(value) >= 1e-3 else f"{value:.2g}"


def value_text(figure: Measured, value: float | None = None) -> str:
    """A figure with the digits that its interval justifies: the half-width has two significant ones.

    Args:
        figure: whose interval determines the digits.
        value: shown instead of the figure's own, such as that of real images.
    """
    shown = figure.value if value is None else value
    if not (figure.has_interval and figure.half_width > 0 and abs(shown) < MAX_PLAIN):
        return number(shown)
    decimals = min(max(1 - math.floor(math.log10(figure.half_width)), 0), 8)
    return f"{shown:,.{decimals}f}"


def interval_text(figure: Measured) -> str:
    """ "1.20 to 1.41"; empty without an interval."""
    return f"{value_text(figure, figure.low)} to {value_text(figure, figure.high)}" if figure.has_interval else ""


def as_row(values: Mapping[str, Any]) -> Row:
    """The content of evaluation.json as a line of evaluations.jsonl."""
    figures = values.get("figures")
    row: dict[str, Any] = {"intervals": {}}
    for name, found in figures.items() if isinstance(figures, dict) else ():
        if isinstance(found, dict) and all(is_number(found.get(key)) for key in ("value", "low", "high")):
            row[name] = float(found["value"])
            row["intervals"][name] = [float(found["low"]), float(found["high"])]
    row |= {key: values[key] for key in ("count", "step") if is_whole(values.get(key))}
    return row | {key: values[key] for key in ("classifier", "inception") if isinstance(values.get(key), str)}
