"""The doctor names the problem of runs with one problem, and finds none in good runs at any step."""

from __future__ import annotations

import contextlib
import io
import math
import os
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, train_here
from hypothesis import given, strategies

from gan_dist import cli
from gan_dist.config import (
    PRESETS,
    Config,
    DataConfig,
    EvaluateConfig,
    InputError,
    LogConfig,
    PenaltyConfig,
    TrainConfig,
    to_dict,
    to_flat,
)
from gan_dist.data.spec import DataSpec
from gan_dist.evaluation import history
from gan_dist.evaluation.doctor import EXPLAINED, FINDINGS, Finding, diagnose
from gan_dist.evaluation.history import Row
from gan_dist.files import write_json
from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import StepLines
from gan_dist.results import doctor as results
from gan_dist.results.doctor import examine_run, print_examination
from gan_dist.trainer import reporting
from gan_dist.trainer.evaluation import report_diagnosis

Rows = list[dict[str, Any]]

BCE = Config()
RELATIVISTIC = Config(train=TrainConfig(loss="relativistic"))
R3 = replace(RELATIVISTIC, penalty=PenaltyConfig(r1=5.0, r2=5.0))
R3_FADING = replace(RELATIVISTIC, penalty=PenaltyConfig(r1=5.0, r2=5.0, final_factor=0.01))
R3_HEAVY = replace(RELATIVISTIC, penalty=PenaltyConfig(r1=1e5, r2=1e5))
WGAN_GP = Config(train=TrainConfig(loss="wasserstein"), penalty=PenaltyConfig(gradient=10.0))
WASSERSTEIN = Config(train=TrainConfig(loss="wasserstein"))
HINGE = Config(train=TrainConfig(loss="hinge"))
LEAST_SQUARES = Config(train=TrainConfig(loss="least-squares"))

LOSS_D, LOSS_G, REAL, FAKE = "loss/discriminator", "loss/generator", "score/real", "score/fake"
GRADIENT_D, GRADIENT_G, R1, R2, GP = (
    *("gradient/discriminator", "gradient/generator"),
    *("penalty/r1", "penalty/r2", "penalty/gradient"),
)
POINTS = (100, 500, 1000, 2000, 4000, 7000)  # the steps of the figures below; shorter lists end earlier

# The figures of real images: MNIST's held-out ones.
SHARES = (0.092, 0.114, 0.106, 0.101, 0.1, 0.091, 0.092, 0.101, 0.098, 0.104)
FLOOR = {"diversity/features": 31.5, "classes/from_uniform": 0.027, "coverage": 0.963} | {
    f"classes/{i}": s for i, s in enumerate(SHARES)
}


def metrics_rows(
    figures: dict[str, Sequence[float]], last: int, every: int = 100, points: Sequence[int] = POINTS
) -> Rows:
    """Lines of metrics.jsonl that interpolate the recorded figures, with the noise of real rows."""
    noise = random.Random(0)
    rows = []
    for step in range(every, last + 1, every):
        row: dict[str, Any] = {"step": step, "epoch": step / 600, "images_seen": 100 * step}
        for name, values in figures.items():
            share = 0.3 if name.startswith("gradient/") else 0.01
            row[name] = interpolate(points, values, step) * (1 + share * noise.uniform(-1, 1))
        rows.append(row)
    return rows


def interpolate(points: Sequence[int], values: Sequence[float], step: int) -> float:
    known = list(zip(points, values, strict=False))
    for (left, low), (right, high) in pairwise(known):
        if step <= right:
            return low + (high - low) * max(step - left, 0) / (right - left)
    return known[-1][1]


def evaluation(
    step: int,
    diversity: float,
    from_uniform: float,
    shares: Sequence[float] = SHARES,
    ratio: float = 1.17,
    train: float = 0.5,
    **more: float,
) -> dict[str, Any]:
    run = {"step": step, "epoch": step / 600, "images_seen": 100 * step, "classifier": "0123", "count": 3000}
    classes = {f"classes/{label}": share for label, share in enumerate(shares)}
    images = {"diversity/features": diversity, "classes/from_uniform": from_uniform, "nearest/ratio": ratio}
    return run | classes | images | {"score/train": train, "score/held_out": 1 - train} | more


@dataclass(frozen=True)
class Case:
    """A recorded run on MNIST, on one thread, of one to eleven minutes."""

    config: Config
    figures: dict[str, Sequence[float]]
    evaluations: Rows = field(default_factory=list)
    problem: str = ""
    last: int = 3000
    floor: dict[str, float] = field(default_factory=lambda: FLOOR)
    points: Sequence[int] = POINTS


ONE_CLASS = (*[0.0] * 8, 1.0, 0.0)  # the classifier takes noise for an 8
COLLAPSED = [evaluation(2000, 1.0, 0.9, ONE_CLASS)]

GOOD = {
    "R3, seed 0": Case(
        R3,
        {
            LOSS_D: (0.646, 0.519, 0.557, 0.642, 0.676, 0.687),
            LOSS_G: (0.867, 1.07, 0.979, 0.817, 0.749, 0.724),
            REAL: (0.529, 0.602, 0.579, 0.529, 0.51, 0.504),
            FAKE: (0.471, 0.398, 0.421, 0.471, 0.49, 0.496),
            R1: (0.00212, 0.00771, 0.00701, 0.0029, 0.00115, 0.00058),
            R2: (0.0021, 0.00712, 0.00595, 0.00267, 0.00111, 0.000575),
            GRADIENT_D: (0.594, 2.45, 2.16, 1.73, 1.08, 0.743),
            GRADIENT_G: (0.194, 0.359, 0.189, 0.116, 0.0812, 0.034),
        },
        [
            evaluation(400, 7.1, 0.403, (0.24, *[0.09] * 8, 0.0)),  # too early to be judged
            evaluation(2000, 16.9, 0.161, (0.106, 0.095, 0.097, 0.198, 0.071, 0.089, 0.068, 0.157, 0.043, 0.076)),
            evaluation(4000, 20.7, 0.115, train=0.491),
            evaluation(7000, 23.5, 0.081, train=0.517),
        ],
        last=7000,
    ),
    "R3, seed 1": Case(
        R3,
        {
            LOSS_D: (0.644, 0.542, 0.56, 0.639, 0.672, 0.684),
            LOSS_G: (0.876, 1.02, 0.967, 0.821, 0.758, 0.729),
            REAL: (0.53, 0.588, 0.577, 0.53, 0.512, 0.505),
            FAKE: (0.47, 0.412, 0.423, 0.47, 0.488, 0.495),
            R1: (0.00224, 0.00691, 0.0065, 0.00296, 0.00138, 0.000672),
            R2: (0.00223, 0.00638, 0.00585, 0.00272, 0.00133, 0.00067),
            GRADIENT_D: (0.816, 0.898, 1.31, 1.47, 1.45, 1.01),
            GRADIENT_G: (0.275, 0.3, 0.189, 0.114, 0.0741, 0.0362),
        },
        [evaluation(2000, 17.0, 0.159, train=0.464), evaluation(7000, 24.3, 0.075, train=0.509)],
        last=7000,
    ),
    "R3, seed 2": Case(
        R3,
        {
            LOSS_D: (0.64, 0.515, 0.55, 0.607, 0.672, 0.687),
            LOSS_G: (0.882, 1.05, 0.985, 0.874, 0.758, 0.727),
            REAL: (0.532, 0.604, 0.583, 0.549, 0.512, 0.504),
            FAKE: (0.468, 0.396, 0.417, 0.451, 0.488, 0.496),
            R1: (0.00248, 0.00784, 0.00685, 0.00451, 0.00139, 0.000625),
            R2: (0.00243, 0.00689, 0.00603, 0.00401, 0.00133, 0.000621),
            GRADIENT_D: (0.697, 0.756, 1.7, 1.41, 1.46, 0.919),
            GRADIENT_G: (0.206, 0.33, 0.284, 0.147, 0.0814, 0.0402),
        },
        [
            evaluation(2000, 16.1, 0.162, (0.092, 0.127, 0.076, 0.174, 0.07, 0.108, 0.075, 0.153, 0.026, 0.1)),
            evaluation(4000, 20.9, 0.119, train=0.519),
        ],
        last=7000,
    ),
    "R3, seed 3": Case(
        R3,
        {
            LOSS_D: (0.654, 0.532, 0.563, 0.64, 0.675),
            LOSS_G: (0.845, 1.03, 0.969, 0.817, 0.753),
            REAL: (0.525, 0.595, 0.575, 0.53, 0.51),
            FAKE: (0.475, 0.405, 0.425, 0.47, 0.49),
            R1: (0.00182, 0.00717, 0.0064, 0.00293, 0.00121),
            R2: (0.00187, 0.00662, 0.00564, 0.0027, 0.00116),
            GRADIENT_D: (0.275, 1.22, 1.26, 1.41, 1.06),
            GRADIENT_G: (0.0916, 0.338, 0.231, 0.11, 0.0909),
        },
        last=4000,
    ),
    "R3, seed 4": Case(
        R3,
        {
            LOSS_D: (0.645, 0.5, 0.544, 0.634, 0.676, 0.684),
            LOSS_G: (0.874, 1.1, 0.991, 0.826, 0.753, 0.73),
            REAL: (0.53, 0.614, 0.586, 0.533, 0.51, 0.505),
            FAKE: (0.47, 0.386, 0.414, 0.467, 0.49, 0.495),
            R1: (0.00229, 0.00855, 0.00726, 0.00318, 0.00124, 0.000725),
            R2: (0.00229, 0.00759, 0.00629, 0.00291, 0.0012, 0.000717),
            GRADIENT_D: (0.644, 1.35, 1.71, 1.61, 1.31, 1.03),
            GRADIENT_G: (0.137, 0.282, 0.218, 0.116, 0.0607, 0.039),
        },
        [evaluation(2000, 16.7, 0.163), evaluation(7000, 23.6, 0.081, train=0.53)],
        last=7000,
    ),
    "preset r3, whose gammas decrease, without its initial weights": Case(
        R3_FADING,
        {
            LOSS_D: (0.646, 0.609, 0.619, 0.649, 0.638, 0.572, 0.554),
            LOSS_G: (0.867, 0.94, 0.898, 0.832, 0.931, 1.33, 1.4),
            REAL: (0.53, 0.55, 0.543, 0.526, 0.539, 0.602, 0.612),
            FAKE: (0.47, 0.45, 0.457, 0.474, 0.461, 0.398, 0.388),
            R1: (0.00212, 0.0113, 0.00778, 0.00552, 0.0229, 0.216, 0.29),
            R2: (0.0021, 0.0115, 0.00803, 0.00552, 0.0226, 0.214, 0.286),
            GRADIENT_D: (4.84, 1.73, 2.58, 2.26, 2.26, 3.18, 4.81),
            GRADIENT_G: (0.551, 0.278, 0.248, 0.149, 0.308, 0.972, 1.04),
        },
        [evaluation(2000, 18.7, 0.141), evaluation(12000, 27.3, 0.062, train=0.521)],
        last=17000,
        points=(100, 500, 1000, 2000, 6000, 12000, 17000),
    ),
    "preset r3, first epochs, with its coverage": Case(
        PRESETS["r3"](),
        {LOSS_D: (0.507, 0.619, 0.669), LOSS_G: (1.54, 0.95, 0.783)},
        [
            evaluation(600, 13.0, 0.307, coverage=0.133, density=1.24, precision=0.911),
            evaluation(2400, 22.2, 0.089, coverage=0.629, density=0.905, precision=0.815),
        ],
    ),
    "preset r3 for 60 epochs, whose D memorizes its images slightly": Case(
        PRESETS["r3"](),
        {
            LOSS_D: (0.507, 0.619, 0.669, 0.671, 0.658, 0.655),
            LOSS_G: (1.54, 0.95, 0.783, 0.782, 0.773, 0.773),
            REAL: (0.626, 0.546, 0.514, 0.514, 0.52, 0.522),
            FAKE: (0.374, 0.454, 0.486, 0.486, 0.48, 0.478),
            R1: (0.0819, 0.0155, 0.00365, 0.00621, 0.0092, 0.00975),
            R2: (0.073, 0.016, 0.00365, 0.00617, 0.00925, 0.0098),
            GRADIENT_D: (2.64, 3.01, 1.44, 1.35, 1.91, 2.19),
            GRADIENT_G: (0.443, 0.28, 0.0744, 0.0928, 0.106, 0.12),
        },
        [
            evaluation(6000, 26.8, 0.056, ratio=1.165, train=0.512),
            evaluation(24000, 30.8, 0.03, ratio=1.079, train=0.545),
            evaluation(30000, 31.3, 0.031, ratio=1.073, train=0.558),
            evaluation(36000, 31.7, 0.029, ratio=1.053, train=0.568),
        ],
        last=37000,
        points=(100, 500, 2000, 6000, 30000, 37000),
    ),
    "WGAN-GP, whose critic is ahead, as it should be": Case(
        WGAN_GP,
        {
            LOSS_D: (-2.5, -6.17, -4.87, -4.67, -2.72),
            LOSS_G: (2.88, 6.58, 5.23, 5.03, 3.09),
            REAL: (0.751, 0.982, 0.959, 0.957, 0.859),
            FAKE: (0.249, 0.018, 0.041, 0.0427, 0.141),
            GP: (0.113, 0.0679, 0.049, 0.0433, 0.021),
            GRADIENT_D: (4.6, 16.7, 10.6, 9.07, 9.93),
            GRADIENT_G: (3.36, 4.71, 4.14, 3.28, 3.75),
        },
        [evaluation(2000, 15.0, 0.278, (0.074, 0.074, 0.16, 0.231, 0.062, 0.169, 0.032, 0.118, 0.023, 0.057))],
        last=4900,
    ),
}

R3_FIGURES = GOOD["R3, seed 0"].figures

PROBLEMATIC = {
    "G's learning rate 0, bce": Case(
        BCE,
        {
            LOSS_D: (0.266, 7.15e-05, 1.78e-05, 4.02e-06),
            LOSS_G: (4.06, 10.0, 11.6, 13.3),
            REAL: (0.962, 1.0, 1.0, 1.0),
            FAKE: (0.168, 7.11e-05, 1.75e-05, 3.87e-06),
            GRADIENT_D: (0.00862, 0.00109, 0.000347, 7.24e-05),
            GRADIENT_G: (13.7, 17.9, 20.4, 23.4),
        },
        problem="discriminator-overpowers",
    ),
    "relativistic without penalties": Case(
        RELATIVISTIC,
        {
            LOSS_D: (0.123, 0.00883, 0.000527, 0.0143, 0.0124),
            LOSS_G: (4.61, 14.7, 18.0, 15.9, 15.0),
            REAL: (0.908, 0.995, 1.0, 0.994, 0.992),
            FAKE: (0.092, 0.005, 0.000228, 0.00632, 0.00843),
            GRADIENT_D: (1.76, 0.0162, 0.000226, 0.111, 0.558),
            GRADIENT_G: (14.8, 32.9, 11.3, 34.9, 14.6),
        },
        problem="discriminator-overpowers",
    ),
    "the seed, epochs 12 to 20": Case(
        BCE,
        {LOSS_D: (0.741, 0.125, 0.125), LOSS_G: (1.47, 6.66, 6.6), REAL: (0.858, 0.97, 0.97), FAKE: (0.4, 0.03, 0.03)},
        problem="discriminator-overpowers",
    ),
    "hinge": Case(
        HINGE,
        {LOSS_D: (0.722, 0.0134, 0.12, 0.12), LOSS_G: (0.71, 2.63, 2.36, 3.3), REAL: (0.82, 0.95), FAKE: (0.4, 0.1)},
        problem="discriminator-overpowers",
    ),
    "least squares, whose scores do not show that D is ahead": Case(
        LEAST_SQUARES,
        {LOSS_D: (0.034, 0.0052, 0.0075), LOSS_G: (0.5, 0.545, 0.556), REAL: (0.717, 0.73), FAKE: (0.527, 0.5)},
        problem="discriminator-overpowers",
    ),
    "D's learning rate 0, bce": Case(
        BCE,
        {
            LOSS_D: (1.72, 1.98),
            LOSS_G: (0.457, 0.32),
            REAL: (0.505, 0.505),
            FAKE: (0.638, 0.727),
            GRADIENT_D: (4.33, 4.45),
            GRADIENT_G: (0.00763, 0.00198, 0.00188, 0.00269),
        },
        COLLAPSED,
        problem="discriminator-fooled",
    ),
    "D's learning rate 0, R3": Case(
        R3,
        {
            LOSS_D: (1.22, 1.28),
            LOSS_G: (0.355, 0.325),
            REAL: (0.297, 0.278),
            FAKE: (0.703, 0.722),
            R1: (0.0008, 0.0008),
            R2: (0.00098, 0.00103),
            GRADIENT_D: (4.36, 4.4),
            GRADIENT_G: (0.00665, 0.00743, 0.00342, 0.0024),
        },
        COLLAPSED,
        problem="discriminator-fooled",
    ),
    "R1 and R2 of gamma 1e5": Case(
        R3_HEAVY,
        {
            LOSS_D: (0.691, 0.693),
            LOSS_G: (0.697, 0.693),
            REAL: (0.501, 0.5),
            FAKE: (0.499, 0.5),
            R1: (4.3e-05, 3.4e-07, 1.6e-06, 1e-08),
            R2: (2.8e-05, 1.2e-07, 7.7e-07, 1e-08),
            GRADIENT_D: (35.2, 5.06, 16.1, 16.1),
            GRADIENT_G: (0.00764, 0.000742, 0.0006, 0.0005),
        },
        COLLAPSED,
        problem="generator-starves",
    ),
    "G's tanh saturated, R3 with the learning rate x 10": Case(
        R3, R3_FIGURES | {GRADIENT_G: (0.19, 0.0, 0.0)}, problem="generator-starves"
    ),
    "R3 with the learning rate x 30": Case(
        R3,
        {
            LOSS_D: (232.0, 3.3, 2900.0, 18.0, 63.1),
            LOSS_G: (259.0, 54.5, 1930.0, 725.0, 927.0),
            REAL: (0.851, 0.977, 1.0, 0.98, 0.884),
            FAKE: (0.149, 0.0228, 0.0, 0.0204, 0.116),
            R1: (14100.0, 1.94, 542000.0, 8990.0, 32200.0),
            R2: (1750.0, 0.748, 102000.0, 4680.0, 17600.0),
            GRADIENT_D: (501.0, 2580.0, 12000000.0, 1070000.0, 8680000.0),
            GRADIENT_G: (1.61e-05, 0.0),
        },
        COLLAPSED,
        problem="diverges",
    ),
    "R1 and R2 diverge, R3 with the learning rate x 10": Case(
        R3, R3_FIGURES | {R1: (0.0955, 4.0, 23.1), R2: (0.0862, 3.2, 23.4)}, problem="diverges"
    ),
    "Wasserstein without a penalty": Case(
        WASSERSTEIN,
        {
            LOSS_D: (-0.202, 0.145, 0.106, -19.8, -37100.0),
            LOSS_G: (1.73, 0.519, 6.32, 261.0, 321000.0),
            REAL: (0.493, 0.481, 0.502, 0.54, 0.534),
            FAKE: (0.507, 0.519, 0.498, 0.46, 0.466),
            GRADIENT_D: (1.5, 1.64, 27.6, 456.0, 362000.0),
            GRADIENT_G: (1.51, 1.27, 17.4, 535.0, 443000.0),
        },
        COLLAPSED,
        problem="diverges",
    ),
    "the same, step 2,000": Case(
        WASSERSTEIN,
        {LOSS_D: (-0.2, 0.1, 0.1, -0.5), LOSS_G: (1.73, 0.5, 5.0, 7.0), GRADIENT_G: (1.51, 1.27, 17.4, 130.0)},
        problem="diverges",
        last=2000,
    ),
    "the seed with the learning rate x 30, step 7,600": Case(
        BCE,
        {LOSS_D: (1.84, 12.9), LOSS_G: (4.7, 350.0), REAL: (0.93, 0.95), FAKE: (0.36, 0.08), GRADIENT_G: (62.0, 148.0)},
        problem="diverges",
    ),
    "only MNIST's first 50 images": Case(
        R3,
        R3_FIGURES,
        [
            evaluation(1000, 19.3, 0.211, ratio=0.7, train=0.827),
            evaluation(2000, 24.2, 0.161, ratio=0.58, train=0.5),
            evaluation(4000, 27.7, 0.128, ratio=0.43, train=0.5),
        ],
        problem="generator-copies",
        last=4000,
    ),
    "only MNIST's first 500 images": Case(
        R3,
        R3_FIGURES,
        [
            evaluation(1000, 14.6, 0.178, ratio=0.91, train=0.491),
            evaluation(2000, 19.9, 0.162, ratio=0.93, train=0.64),
            evaluation(4000, 24.8, 0.071, ratio=0.9, train=0.792),
        ],
        problem="discriminator-memorizes",
        last=4000,
    ),
    "the seed after 4 epochs: noise, all of it in the ball of one outlier": Case(
        BCE,
        {LOSS_D: (0.741, 0.6), LOSS_G: (1.47, 2.2)},
        [
            evaluation(1800, 1.19, 0.9, ONE_CLASS, coverage=0.005, density=1.56, precision=1.0),
            evaluation(2400, 1.37, 0.9, ONE_CLASS, coverage=0.0047, density=2.27, precision=1.0),
        ],
        problem="mode-collapse",
    ),
    "noise that is classified as all classes": Case(
        R3, R3_FIGURES, [evaluation(2400, 20.0, 0.1, coverage=0.004, precision=0.9)], problem="mode-collapse"
    ),
    "the seed after 10 epochs": Case(
        BCE, {LOSS_D: (0.741, 0.466), LOSS_G: (1.47, 3.64)}, [evaluation(6000, 5.5, 0.4)], "mode-collapse", last=6000
    ),
    "the seed after 300 epochs": Case(
        BCE,
        {LOSS_D: (0.741, 0.577), LOSS_G: (1.47, 2.17)},
        [evaluation(6000, 20.1, 0.597, (0.0, 0.568, 0.004, 0.023, 0.053, 0.006, 0.007, 0.189, 0.011, 0.14), 0.98)],
        problem="mode-collapse",
        last=6000,
    ),
    "the seed after 100 epochs": Case(
        BCE,
        {LOSS_D: (0.741, 0.729), LOSS_G: (1.47, 1.89)},
        [evaluation(6000, 20.6, 0.427, (0.006, 0.457, 0.034, 0.065, 0.054, 0.03, 0.035, 0.157, 0.049, 0.112), 1.13)],
        problem="missing-classes",
        last=6000,
    ),
    "only ones": Case(
        R3,
        {LOSS_D: (0.649, 0.691), LOSS_G: (0.836, 0.703), GRADIENT_D: (0.209, 0.119), GRADIENT_G: (0.164, 0.0195)},
        [evaluation(3000, 10.2, 0.858, (0.0, 0.958, 0.015, 0.0, 0.013, 0.0, 0.0, 0.0, 0.012, 0.002))],
        problem="missing-classes",
        floor={"diversity/features": 10.9, "classes/from_uniform": 0.896}
        | {f"classes/{label}": 0.996 if label == 1 else 0.0005 for label in range(10)},
    ),
    "no sevens, eights and nines, of which G generates some by mistake": Case(
        R3,
        R3_FIGURES,
        [evaluation(3000, 21.7, 0.255, (0.174, 0.17, 0.15, 0.15, 0.12, 0.11, 0.08, 0.0143, 0.016, 0.015))],
        problem="missing-classes",
        floor=FLOOR | {"classes/7": 0.0, "classes/8": 0.0, "classes/9": 0.001},
    ),
}


def findings(
    rows: Sequence[Row], evaluations: Sequence[Row], config: Config, floor: dict[str, float] | None = None
) -> list[Finding]:
    return diagnose(rows, evaluations, config, floor).findings


def findings_at(case: Case, rows: Rows, count: int) -> list[Finding]:
    """The findings after `count` rows."""
    step = rows[count - 1]["step"] if count else 0
    return findings(rows[:count], [row for row in case.evaluations if row["step"] <= step], case.config, case.floor)


@pytest.mark.parametrize("name", GOOD)
def test_a_good_run_has_no_findings_at_any_step(name: str) -> None:
    case = GOOD[name]
    rows = metrics_rows(case.figures, case.last, points=case.points)
    for count in range(len(rows) + 1):
        assert findings_at(case, rows, count) == []


@pytest.mark.parametrize("name", PROBLEMATIC)
def test_a_run_with_one_problem_has_one_finding(name: str) -> None:
    case = PROBLEMATIC[name]
    rows = metrics_rows(case.figures, case.last)
    assert [finding.name for finding in findings_at(case, rows, len(rows))] == [case.problem]
    for count in range(len(rows)):
        assert {finding.name for finding in findings_at(case, rows, count)} <= {case.problem}
        if count < 20:
            assert findings_at(case, rows, count) == [], "too early"


def test_an_oscillating_loss_is_distinguished_from_a_trend_and_from_an_outlier() -> None:
    def names(losses: list[float]) -> list[str]:
        rows = [{"step": 100 * (i + 1), LOSS_D: 3.0, LOSS_G: loss} for i, loss in enumerate(losses)]
        return [finding.name for finding in findings(rows, [], BCE)]

    # The seed with the learning rate x 30, steps 3,600 to 5,500.
    fast = [
        *(8.32, 9.07, 9.17, 11.3, 9.94, 10.1, 10.3, 96.3, 65.4, 32.7),
        *(15.3, 8.5, 14.7, 26.4, 12.0, 26.9, 43.0, 32.4, 34.0, 36.6),
    ]
    fluctuating = [5.0, 5.5, 5.1, 6.0, 4.6] * 4
    assert names(fast) == ["oscillates"]
    assert names([9.0, 60.0, 12.0, 80.0, 30.0] * 4) == ["oscillates"]
    assert names([-60.0, 9.0, -80.0, 30.0] * 5) == ["oscillates"]  # Wasserstein's can have either sign
    assert names(fluctuating) == []  # the seed's
    assert names([loss * (1 + i) for i, loss in enumerate(fluctuating)]) == []  # with a trend
    assert names([*fluctuating[:18], 50.0, 5.0]) == []  # with an outlier
    assert names(fluctuating[:10] + [10 * loss for loss in fluctuating[10:]]) == []  # to a new level
    assert names(fluctuating[:7] + [10 * loss for loss in fluctuating[7:13]] + fluctuating[13:]) == []  # and back


def test_figures_near_a_threshold_are_no_finding() -> None:
    def names(**figures: tuple[float, ...]) -> list[str]:
        given = {name.replace("_", "/"): values for name, values in figures.items()}
        return [finding.name for finding in findings(metrics_rows(R3_FIGURES | given, 3000), [], R3)]

    ahead = 0.12 * math.log(2)
    assert names(loss_discriminator=(ahead,), loss_generator=(9.0,)) == ["discriminator-overpowers"]
    assert names(loss_discriminator=(ahead,), loss_generator=(9.0, 9.0, 9.0, 5.0)) == []  # G is catching up
    assert names(score_real=(0.47,), score_fake=(0.53,)) == []  # a D that guesses, slightly worse than at random
    starving, small = (5e-6,), (3e-5,)
    assert names(gradient_generator=starving, gradient_discriminator=(0.01,)) == ["generator-starves"]
    assert names(gradient_generator=small, gradient_discriminator=(0.01,)) == []


def test_wasserstein_losses_have_no_scale() -> None:
    case = GOOD["WGAN-GP, whose critic is ahead, as it should be"]
    scaled = [LOSS_D, LOSS_G, GRADIENT_D, GRADIENT_G]
    for factor in (1e-3, 1e6):
        figures = {name: [v * factor if name in scaled else v for v in values] for name, values in case.figures.items()}
        assert findings(metrics_rows(figures, 4000), case.evaluations, case.config, FLOOR) == []


@pytest.mark.parametrize(("every", "last"), [(5, 3000), (50, 3000), (1000, 20_000)])
def test_the_log_interval_does_not_change_the_findings(every: int, last: int) -> None:
    for name in ("D's learning rate 0, R3", "relativistic without penalties", "Wasserstein without a penalty"):
        case = PROBLEMATIC[name]
        config = replace(case.config, log=LogConfig(every_steps=every))
        rows = metrics_rows(case.figures, last, every)
        assert [finding.name for finding in findings(rows, case.evaluations[:0], config)] == [case.problem]
        early = rows[: 20 * max(1, 100 // every) - 1]
        assert findings(early, [], config) == []


def test_a_figure_without_a_finite_value_is_found_at_once() -> None:
    rows = metrics_rows(R3_FIGURES, 300)
    rows[1][LOSS_G] = None
    rows[2][GRADIENT_G] = math.inf
    (finding,) = findings(rows, [], R3)
    assert (finding.name, finding.step) == ("not-finite", 300)
    assert finding.evidence == "no finite gradient/generator, loss/generator in at least one row since step 100"
    assert findings(rows + metrics_rows(R3_FIGURES, 1500)[3:], [], R3) == []  # long ago


def test_skipped_updates_are_found_while_there_are_new_ones() -> None:
    rows = [row | {"updates_skipped": min(i, 7)} for i, row in enumerate(metrics_rows(R3_FIGURES, 3000))]
    (finding,) = findings(rows[:9], [], R3)
    assert finding.evidence == "7 updates with NaN or infinity since step 100"
    assert findings(rows, [], R3) == []


def test_missing_figures_do_not_hide_a_problem() -> None:
    case = PROBLEMATIC["relativistic without penalties"]
    for name in case.figures:
        rows = [{k: v for k, v in row.items() if k != name} for row in metrics_rows(case.figures, 3000)]
        expected = [] if name in (LOSS_D, LOSS_G) else [case.problem]
        assert [finding.name for finding in findings(rows, [{"step": 2500}], case.config, {})] == expected
    # Without figures of real images, only findings that need none.
    shares = [evaluation(2500, 1.0, 0.9, ONE_CLASS)]
    (finding,) = findings(metrics_rows(R3_FIGURES, 3000), shares, R3)
    assert finding.evidence == "100% of the images show class 8, classes/from_uniform 0.90"
    few = [evaluation(2500, 20.0, 0.1, (0.0, *[0.11] * 9)) | {"count": 500}]
    assert findings(metrics_rows(R3_FIGURES, 3000), few, R3, FLOOR) == []  # may be chance


def test_digits_missing_in_the_data_are_distinguished_from_digits_that_g_misses() -> None:
    lacking, missing = (
        PROBLEMATIC["no sevens, eights and nines, of which G generates some by mistake"],
        PROBLEMATIC["the seed after 100 epochs"],
    )
    (finding,) = findings(metrics_rows(lacking.figures, 3000), lacking.evaluations, lacking.config, lacking.floor)
    assert finding.evidence == "class 7 0.0%, class 8 0.0%, class 9 0.1% of the real images"
    (finding,) = findings(metrics_rows(missing.figures, 6000), missing.evaluations, missing.config, missing.floor)
    assert finding.evidence == "class 0 0.6% of the images"


def test_memorization_must_increase_to_be_found() -> None:
    rows = metrics_rows(R3_FIGURES, 4000)
    falling = [evaluation(2000, 20.0, 0.1, train=0.7), evaluation(4000, 24.0, 0.1, train=0.65)]
    assert findings(rows, falling, R3, FLOOR) == []
    assert [finding.name for finding in findings(rows, falling[1:], R3, FLOOR)] == ["discriminator-memorizes"]


def test_classes_are_compared_with_the_shares_that_real_images_have() -> None:
    """Of 3,000 images, 60 % are of one class of the real ones, and 0.1 % of another."""
    real = (0.6, 0.3, 0.099, 0.001)
    floor = {"diversity/features": 20.0, "classes/from_uniform": 0.4} | {f"classes/{i}": s for i, s in enumerate(real)}
    rows, config = metrics_rows(R3_FIGURES, 3000), replace(R3, data=DataConfig(name="folder"))

    def names(*shares: float) -> list[str]:
        uneven = sum(abs(share - 1 / 4) for share in shares) / 2
        return [found.name for found in findings(rows, [evaluation(2500, 20.0, uneven, shares)], config, floor)]

    assert names(0.6, 0.3, 0.1, 0.0) == []  # three images are too few to miss them
    assert names(0.7, 0.3, 0.0, 0.0) == ["missing-classes"]
    assert names(0.05, 0.05, 0.9, 0.0) == ["mode-collapse"]
    without = {k: v for k, v in evaluation(2500, 20.0, 0.4).items() if not k.startswith("classes/")}
    assert findings(rows, [without], R3, FLOOR) == []


def test_classes_are_named(tmp_path: Path) -> None:
    folder, shares = RunFolder(tmp_path), (0.7, 0.3, 0.0, 0.0)
    config = replace(R3, data=DataConfig(name="folder"))
    write_run(folder, config, metrics_rows(R3_FIGURES, 3000), [evaluation(2500, 20.0, 0.5, shares)])
    write_json(folder.floor, {"diversity/features": 20.0, "classes/from_uniform": 0.4, "classes/2": 0.1})
    for names, shown in ((("cat", "dog", "horse", "3"), "class 2 (horse) 0.0%"), (None, "class 2 0.0%")):
        spec = DataSpec("animals", (3, 32, 32), names, 1_000, 100, "classifier")
        write_json(folder.environment, {"data": {"spec": spec.to_dict()}})
        (finding,) = examine_run(folder.path).report.findings
        assert shown in finding.evidence
    folder.environment.write_text("{}")
    (finding,) = examine_run(folder.path).report.findings
    assert "class 2 0.0%" in finding.evidence


def test_findings_that_cannot_be_judged_for_the_data_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, folder = metrics_rows(R3_FIGURES, 3000), RunFolder(tmp_path)
    whole = evaluation(2500, 24.0, 0.1)
    assert diagnose(rows, [whole], R3, FLOOR).not_judged == ()
    without = {k: v for k, v in whole.items() if not k.startswith(("classes/", "nearest/", "score/"))}
    write_run(folder, R3, rows, [without])
    print_examination(examine_run(folder.path))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not judged")]
    for name in ("missing-classes", "discriminator-memorizes", "generator-copies"):
        assert name in line


def test_advice_names_flags_that_exist() -> None:
    advices = set()
    for case in PROBLEMATIC.values():
        for config in (case.config, BCE, R3):
            rows = metrics_rows(case.figures, case.last)
            advices |= {finding.advice for finding in findings(rows, case.evaluations, config, case.floor)}
    for half in ("no", "bf16"):
        config = replace(BCE, train=TrainConfig(mixed_precision=half))  # type: ignore[arg-type]
        advices |= {finding.advice for finding in findings([{"step": 100, LOSS_D: None}], [], config)}
    known = {"--" + name.replace("_", "-") for name in to_flat(Config())}
    assert len(advices) > 10
    for advice in advices:
        flags = re.findall(r"--[a-z0-9.-]*[a-z0-9]", advice)
        assert flags, f"no flag in {advice!r}"
        assert set(flags) <= known


# Findings whose cases are not in PROBLEMATIC -> the tests with these cases.
def conditional(asked: float, diversity: float) -> Rows:
    """An evaluation in which these are the figures of class 1; those of class 0 are good."""
    classes = {"asked/0": 0.95, "within/0/diversity": 9.0, "asked/1": asked, "within/1/diversity": diversity}
    return [evaluation(2500, 20.0, 0.1, **classes)]


def test_a_class_is_compared_with_real_images_of_this_class() -> None:
    rows, classes = metrics_rows(R3_FIGURES, 3000), ("cat", "dog")
    floor = FLOOR | {"asked/0": 0.99, "within/0/diversity": 10.0, "asked/1": 0.8, "within/1/diversity": 20.0}

    def found(asked: float, diversity: float) -> list[Finding]:
        return diagnose(rows, conditional(asked, diversity), R3, floor, classes).findings

    assert found(0.5, 7.0) == []
    (finding,) = found(0.3, 7.0)
    assert finding.name == "class-not-obeyed"
    assert finding.evidence == "images of the class that was asked for: class 1 (dog) 30% (real images 80%)"
    (finding,) = found(0.5, 5.0)
    assert finding.name == "class-collapse"
    assert finding.evidence == "diversity within class 1 (dog) 5 (real images 20)"
    # A classifier that can't recognize the class itself says nothing about the generator.
    floor["asked/1"] = 0.4
    assert found(0.3, 7.0) == []


SEPARATE_TESTS = {
    "class-not-obeyed": test_a_class_is_compared_with_real_images_of_this_class,
    "class-collapse": test_a_class_is_compared_with_real_images_of_this_class,
    "not-finite": test_a_figure_without_a_finite_value_is_found_at_once,
    "oscillates": test_an_oscillating_loss_is_distinguished_from_a_trend_and_from_an_outlier,
}


def test_every_finding_is_tested_and_documented() -> None:
    assert {case.problem for case in PROBLEMATIC.values()} | SEPARATE_TESTS.keys() == FINDINGS.keys()
    assert all(find.__doc__ for find in FINDINGS.values())
    documentation = (REPOSITORY / "docs" / "evaluation.md").read_text()
    assert [name for name in FINDINGS if f"`{name}`" not in documentation] == []
    assert set(EXPLAINED) <= set(FINDINGS)
    assert {other for others in EXPLAINED.values() for other in others} <= set(FINDINGS)


# The report


def write_run(folder: RunFolder, config: Config, rows: Rows, evaluations: Rows) -> None:
    folder.path.mkdir(exist_ok=True)
    write_json(folder.config, to_dict(config))
    for file, lines in ((folder.metrics, rows), (folder.evaluations, evaluations)):
        for line in lines:
            StepLines(file).append(line)
    write_json(folder.floor, FLOOR)


def test_the_report_names_the_steps_of_each_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path)
    good = metrics_rows(R3_FIGURES, 7000)
    frozen = metrics_rows(PROBLEMATIC["D's learning rate 0, R3"].figures, 3000)
    evaluations = [evaluation(2000, 16.9, 0.161), evaluation(7001, 1.0, 0.9, ONE_CLASS)]
    write_run(folder, R3, frozen + good[30:], evaluations)
    examination = examine_run(tmp_path)
    assert [(o.finding.name, o.first_step, o.last_step) for o in examination.occurrences] == [
        ("discriminator-fooled", 2000, 3500),  # the median of ten windows, up to half of which may be better already
        ("mode-collapse", 7000, None),  # an evaluation newer than the last row counts too
    ]
    assert cli.main(["doctor", str(tmp_path)]) == 1
    output = capsys.readouterr().out
    assert f"{tmp_path}: problems at step 7,000\nmode-collapse, since step 7,000\n" in output
    assert "resolved problems\ndiscriminator-fooled, steps 2,000 to 3,500\n" in output
    assert "diversity/features 1 (real images 31.5)" in output


def test_a_run_that_cannot_be_judged_yet_is_not_reported_as_good(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def output(name: str, code: int, rows: Rows, evaluations: Rows, config: Config = R3) -> str:
        write_run(RunFolder(tmp_path / name), config, rows, evaluations)
        assert cli.main(["doctor", str(tmp_path / name)]) == code
        return capsys.readouterr().out.removeprefix(f"{tmp_path / name}: ")

    rows, good = metrics_rows(R3_FIGURES, 4000), evaluation(2400, 22.2, 0.089, coverage=0.629)
    assert output("good", 0, rows, [good]).startswith(
        "no problems at step 4,000\nlatest figures\nstep 4,000: loss/disc"
    )
    young = output("young", 3, rows[:18], [])
    assert young.startswith(
        "too early to tell at step 1,800: this needs 200 more steps and an evaluation at step 2,000 or later\nlatest"
    )
    noise = output("noise", 3, rows[:18], [evaluation(1800, 1.0, 0.9, ONE_CLASS, coverage=0.005, precision=1.0)])
    assert noise.splitlines()[1] == (
        "so far, the images of step 1,800 are far from real ones: diversity/features 1 (real images 31.5); "
        "coverage 0.005 (real images 0.963); 100% of the images show class 8, classes/from_uniform 0.90"
    )
    early = output("early", 3, rows, [evaluation(1800, 20.3, 0.108, coverage=0.529)])
    assert early.startswith("too early to tell at step 4,000: this needs an evaluation at step 2,000 or later\nlatest")
    never = replace(R3, evaluate=EvaluateConfig(every_epochs=None))
    assert "(none is scheduled; resume the run with --evaluate.every-epochs)" in output("never", 3, rows, [], never)
    assert "too early to tell: metrics.jsonl has no lines yet" in output("empty", 3, [], [])
    RunFolder(tmp_path / "good").floor.unlink()
    assert cli.main(["doctor", str(tmp_path / "good")]) == 3
    assert "this needs the figures of real images, which an evaluation writes to floor.json" in capsys.readouterr().out


def test_an_early_finding_is_reported_with_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = metrics_rows(R3_FIGURES, 4000)
    rows[9][LOSS_G] = None
    write_run(RunFolder(tmp_path / "later"), R3, rows, [evaluation(2400, 22.2, 0.089)])
    write_run(RunFolder(tmp_path / "young"), R3, rows[:10], [])
    assert cli.main(["doctor", str(tmp_path / "later")]) == 0
    assert "not-finite, steps 1,000 to 1,900" in capsys.readouterr().out
    assert cli.main(["doctor", str(tmp_path / "young")]) == 1  # NaN is found at any step
    output = capsys.readouterr().out
    assert "loss/generator -" in output
    assert "too early to tell whether there are more: this needs 1,000 more steps and an evaluation" in output


def test_noise_is_announced_during_training_without_a_verdict(
    flags: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GAN_DIST_CACHE", str(tmp_path / "cache"))
    counted: list[object] = []
    monkeypatch.setattr(reporting, "report_diagnosis", lambda trainer: counted.append(report_diagnosis(trainer)))
    words = ["--train.epochs", "1", "--evaluate.every-epochs", "1", "--evaluate.count", "1000"]
    assert train_here([*flags(tmp_path / "run"), *words, "--wandb.mode", "disabled"]) == 0
    output = capsys.readouterr().out
    assert re.search(r"epoch 1: Fréchet distance .*, coverage 0\.\d{3} \(real images \d\.\d{3}\), precision", output)
    assert "doctor, step 10: too early to tell, but the images of step 10 are far from real ones: diversity" in output
    assert counted == [None, None]
    assert cli.main(["doctor", str(tmp_path / "run")]) == 3


FIGURE_VALUES = strategies.none() | strategies.floats() | strategies.integers(-(2**999), 2**999)
FIGURE_NAMES = strategies.sampled_from(
    [
        *(LOSS_D, LOSS_G, REAL, FAKE, GRADIENT_D, GRADIENT_G, R1, R2, GP, "updates_skipped", "count", "precision"),
        *(f"classes/{label}" for label in (*range(10), "from_uniform", "x")),
        *("diversity/features", "coverage", "density", "nearest/ratio", "score/train", "score/held_out"),
    ]
)
FIGURES = strategies.dictionaries(FIGURE_NAMES, FIGURE_VALUES)


@pytest.mark.slow
@pytest.mark.fuzz
@given(
    metrics=strategies.lists(FIGURES, max_size=3),
    evaluations=strategies.lists(FIGURES, max_size=3),
    floor=FIGURES,
    repeated=strategies.sampled_from([1, 10]),
)
def test_no_figures_are_a_traceback(
    metrics: Rows, evaluations: Rows, floor: dict[str, Any], repeated: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any values that a valid row of a run's files can have."""
    folder = RunFolder(tmp_path_factory.mktemp("some"))
    rows = [{"step": 100 * i, "epoch": 1} | row for i, row in enumerate(metrics * repeated, 1)]
    evaluated = [{"step": 1000 * i, "epoch": 1} | row for i, row in enumerate(evaluations, 1)]
    write_run(folder, R3, rows, evaluated)
    write_json(folder.floor, floor)
    with contextlib.redirect_stdout(io.StringIO()):
        print_examination(examine_run(folder.path))


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "evaluations.jsonl", "floor.json"])
@pytest.mark.parametrize("content", [b"", b"\xff", b"[1]", b'{"step": "x"}\n[]\n', b"[" * 9999, None])
def test_a_damaged_folder_is_at_most_one_line(
    name: str, content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(RunFolder(tmp_path), R3, metrics_rows(R3_FIGURES, 4000), [evaluation(2400, 22.2, 0.089)])
    (tmp_path / name).unlink()
    if content is None:
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    code = cli.main(["doctor", str(tmp_path)])
    output = capsys.readouterr().err
    if name == "config.json" or (content is None and name.endswith("jsonl")):
        assert (code, output.count("\n")) == (2, 1)
        assert f"{tmp_path / name} " in output
    else:
        assert (code, output) == (3, "")  # too early to tell: it names what is missing


@pytest.mark.parametrize("changed", [{"log": {"every_steps": 0}}, {"log": {"every_steps": "x"}}, {"log": 3}])
def test_an_invalid_configuration_is_one_line(
    changed: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(RunFolder(tmp_path), R3, metrics_rows(R3_FIGURES, 4000), [])
    write_json(RunFolder(tmp_path).config, to_dict(R3) | changed)
    assert cli.main(["doctor", str(tmp_path)]) == 2
    output = capsys.readouterr().err
    assert output.count("\n") == 1
    assert "config.json can't be used" in output


def test_a_long_run_is_diagnosed_a_bounded_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "MAX_MOMENTS", 7)
    assert list(results.moments(5)) == [1, 2, 3, 4, 5]
    assert list(results.moments(0)) == []
    counts = list(results.moments(1800))
    assert len(counts) == 7
    assert counts[-1] == 1800


def test_a_folder_without_a_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="holds no run"):
        examine_run(tmp_path)
    assert cli.main(["doctor", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_real_run_that_diverges(
    flags: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A critic without a penalty grows steeper without bound. This is found during the training and afterwards."""
    monkeypatch.setattr(history, "WINDOW", 5)  # so that 100 steps are enough instead of 2,000
    run, unbounded = tmp_path / "run", ("--train.loss", "wasserstein", "--optimizer.learning-rate", "0.001")
    rare = ("--samples.every-epochs", "99", "--checkpoint.every-steps", "999", "--evaluate.every-epochs", "None")
    assert train_here(flags(run, *unbounded, *rare, "--train.steps", "150", "--wandb.mode", "disabled")) == 0
    live = re.findall(r"doctor, step (\d+): (.*?): .*; (.*)", capsys.readouterr().out)
    examination = examine_run(run)
    (finding,) = examination.report.findings
    assert (finding.name, finding.step, finding.advice) == ("diverges", 150, "try --penalty.gradient 10")
    assert examination.report.missing == [
        "an evaluation at step 2,000 or later (none is scheduled; resume the run with --evaluate.every-epochs)"
    ]
    assert live == [(str(o.first_step), o.finding.name, o.finding.advice) for o in examination.occurrences]
