"""The part `speed`: images per second of one rank, and their distance from what this machine could do at best."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gpu_model
from gpu_figures import A100, COUNTS, H100

from gan_dist.config import PRESETS
from gpu_parts.configs import GREY, SHAPES, flag, measured_config, refusal, stored
from gpu_parts.context import Context
from gpu_parts.rows import Value
from gpu_parts.workers import Job, Outcome, run_jobs

SECONDS = 0.6  # of a measurement
LIMIT = 45.0  # of a job: building, capturing, measuring
STEPS = 16  # of a measurement at least, warm-up and profile included
BATCHES = (100, 1_024, 8_192)
CONVOLUTIONS = ("conv", "pictures")  # presets whose variants are measured
LOOPS = ("seed", "conv")  # presets whose networks the other loops train
GUESS = {"TFLOP/s no": 20.0, "TFLOP/s tf32": 40.0, "TFLOP/s bf16": 100.0, "TFLOP/s fp16": 100.0}  # not calibrated
MODELS = {"A100": A100, "H100": H100, "H200": H100}


@dataclass(frozen=True)
class Case:
    """A measurement."""

    preset: str
    precision: str
    batch: int
    capture: bool
    loop: str = ""
    """notebook or example, instead of the toolkit."""
    variant: str = ""
    """Key of configs.FLAGS that is on."""

    def __str__(self) -> str:
        how = self.loop or ("graph" if self.capture else "eager")
        return ", ".join(filter(None, [self.preset, self.precision, f"{self.batch:,}", how, self.variant]))


def cases(short: bool) -> list[Case]:
    """In the order of their worth: those that do not fit into the time are the last ones."""
    if short:
        tiny = [Case("conv", "no", 16, True), Case("seed", "no", 16, True), Case("seed", "bf16", 16, False)]
        return [*tiny, *(Case("seed", "no", 16, False, loop) for loop in ("notebook", "example"))]
    found = []
    for batch in BATCHES:
        for precision in ("bf16", "no"):
            found += [Case(preset, precision, batch, True) for preset in PRESETS]
            found += [Case(preset, precision, batch, False) for preset in LOOPS]
        found += [Case(preset, "no", batch, False, "notebook") for preset in LOOPS]
        found += [Case(preset, "bf16", batch, False, "example") for preset in LOOPS]
    for variant in ("channels_last", "cudnn_benchmark"):
        found += [Case(preset, "bf16", 1_024, True, variant=variant) for preset in CONVOLUTIONS]
    for batch in BATCHES:
        found += [Case(preset, precision, batch, True) for precision in ("tf32", "fp16") for preset in PRESETS]
        found += [Case(preset, "bf16", batch, False) for preset in PRESETS if preset not in LOOPS]
    return found


def run(context: Context) -> None:
    compare(context, measure_cases(context, cases(context.short)))


def compare(context: Context, figures: dict[Case, dict[str, Any]]) -> None:
    """Rows of ratios: graphs to the other loops and to eager mode, and each variant to its absence."""
    for other in figures:
        below, above, how = other, replace(other, loop="", capture=True), other.loop or "eager"
        if other.variant:
            below, above, how = replace(other, variant=""), other, f"without {other.variant}"
        if above != below and above in figures and below in figures:
            ratio = figures[above]["images/s"] / figures[below]["images/s"]
            context.measured(f"{above} / {how}", {"ratio of images/s": ratio})


def measure_cases(context: Context, chosen: list[Case]) -> dict[Case, dict[str, Any]]:
    """Measure cases that are possible; returns the figures of those that were measured.

    Args:
        context: of the part.
        chosen: in the order of their worth.
    """
    jobs: dict[Case, Job] = {}
    for case in chosen:
        changes = [flag("capture", case.capture)] + ([flag(case.variant, on=True)] if case.variant else [])
        timeout = {"distributed": {"timeout": 60.0}}
        config = measured_config(
            case.preset, context.scratch, case.batch, case.precision, context.short, *changes, timeout,
            {"run": {"dir": context.scratch / "speed" / str(len(jobs))}},
        )  # fmt: skip
        expected = predicted_seconds(context, case.preset, case.precision, case.batch)
        if why := refusal(config):
            context.not_run(str(case), why)
        elif expected > LIMIT / 2:
            context.not_run(str(case), f"{STEPS} steps would take about {expected:.0f} s")
        elif case.loop:
            shape = SHAPES.get(case.preset, GREY)
            values = {"name": case.loop, "config": stored(config), "shape": shape, "seconds": seconds(context)}
            jobs[case] = Job("loop", values)
        else:
            jobs[case] = Job("measure", {"config": stored(config), "seconds": seconds(context)})
    figures, late = {}, []
    for case, outcome in zip(jobs, run_jobs(context, list(jobs.values()), limit=LIMIT), strict=True):
        if outcome.result is not None:
            figures[case] = outcome.result
            context.measured(str(case), columns(context, case, outcome.result))
        elif outcome.problem == "no time left":
            late.append(case)
        else:
            report(context, str(case), outcome)
    if late:
        context.not_run(f"{len(late)} of {len(jobs)} cases", f"no time left: {'; '.join(map(str, late))}")
    return figures


def report(context: Context, name: str, outcome: Outcome) -> None:
    """The row of a job without a result."""
    if outcome.expected:
        context.not_run(name, outcome.problem)
    else:
        context.check(name, outcome.problem)


def seconds(context: Context) -> float:
    return 0.05 if context.short else SECONDS


def predicted_seconds(context: Context, preset: str, precision: str, images: int) -> float:
    """Seconds of a measurement with so many images a step on each rank, if it reaches 20 % of the arithmetic."""
    return 0.0 if context.short else STEPS * arithmetic_seconds(context, preset, precision, images) / 0.2


def arithmetic_seconds(context: Context, preset: str, precision: str, images: int) -> float:
    """Seconds of a step's floating-point operations at the speed of a large product in this precision."""
    name = f"TFLOP/s {precision}"
    peak = context.machine.get(name) or GUESS[name]
    return images * COUNTS[preset].flops / (1e12 * float(peak))


def columns(context: Context, case: Case, figures: dict[str, Any]) -> dict[str, Value]:
    """The figures of a case, the shares of the floors in its time, and the time that gpu_model.py predicts.

    The launch floor of a step is its number of operations x the host's time for a launch, or x the device's time for a
    small kernel if they are in a graph.
    """
    values: dict[str, Value] = {
        key: figures.get(key) for key in ("images/s", "ms", "kernel ms", "kernels", "launches", "memory MB")
    }
    if case.loop or context.short:
        return values
    counted = case.precision.replace("tf32", "no")
    operations = gpu_model.OPERATIONS.get((case.preset, counted, "plain"))
    each = context.machine.get("kernel us" if case.capture else "launch us")
    if operations and each:
        values["launch floor / time"] = 1e-3 * operations[0] * float(each) / figures["ms"]
    arithmetic = arithmetic_seconds(context, case.preset, case.precision, case.batch)
    values["arithmetic floor / time"] = 1e3 * arithmetic / figures["ms"]
    model = next((model for name, model in MODELS.items() if name in str(context.machine.get("gpu names"))), None)
    if model is not None and case.precision in ("no", "bf16"):
        predicted = gpu_model.step(case.preset, case.batch, 1, case.capture, case.precision, model)
        values["model ms"] = 1e3 * predicted
    return values
