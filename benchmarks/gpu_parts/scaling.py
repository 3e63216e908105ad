"""The part `scaling`: images per second of 1 to N ranks, at a fixed global batch and at a fixed batch of each rank."""

from __future__ import annotations

from typing import Any

import gpu_model
from gpu_figures import H100

from gpu_parts.configs import GREY, SHAPES, changed, flag, measured_config, refusal, stored
from gpu_parts.context import Context
from gpu_parts.rows import Value
from gpu_parts.speed import LIMIT, predicted_seconds, report, seconds
from gpu_parts.workers import Job, run_jobs

STRONG = (("conv", 1_024), ("pictures", 1_024), ("pictures", 8_192), ("cifar10", 256))
"""(preset, global batch)."""
WEAK = (("conv", 1_024), ("pictures", 256), ("cifar10", 32))
"""(preset, batch of each rank)."""
PRECISION = "bf16"
DDP = ", ddp"
EXAMPLE = "loop as in Accelerate's examples"


def run(context: Context) -> None:
    baseline: dict[str, float] = {}
    if context.gpus == 1:
        context.not_run("1 to N ranks", "needs 2 GPUs")
        return
    one, *between, most = context.rank_counts
    counts = [most] if context.short else [one, most, *between]  # in the order of their worth
    for i, ranks in enumerate(counts):
        here = context.until(1 / (len(counts) - i))
        measure(here, ranks, baseline)


def settings(context: Context, ranks: int) -> dict[str, tuple[str, int, dict[str, Any] | None]]:
    """Name of a row -> preset, global batch, changes."""
    strong, weak = ((("conv", 16),), (("conv", 16),)) if context.short else (STRONG, WEAK)
    found: dict[str, tuple[str, int, dict[str, Any] | None]] = {}
    for preset, batch in strong:
        found[f"strong, {preset}, {batch:,}"] = preset, batch // ranks * ranks, flag("ddp", on=False)
    for preset, batch in weak:
        found[f"weak, {preset}, {batch:,} a rank"] = preset, batch * ranks, flag("ddp", on=False)
    preset, batch = strong[0]
    found[f"strong, {preset}, {batch:,}, {EXAMPLE}"] = preset, batch // ranks * ranks, None
    if ranks > 1:
        for preset, batch in strong[:2]:
            found[f"strong, {preset}, {batch:,}{DDP}"] = preset, batch // ranks * ranks, flag("ddp", on=True)
    return found


def measure(context: Context, ranks: int, baseline: dict[str, float]) -> None:
    """Measure all settings on so many ranks; fills `baseline` on one."""
    jobs: dict[str, Job] = {}
    for name, (preset, batch, changes) in settings(context, ranks).items():
        run: dict[str, Any] = {"run": {"dir": context.scratch / "scaling" / f"{ranks}-{len(jobs)}"}}
        precision = "no" if context.short else PRECISION
        config = measured_config(preset, context.scratch, batch, precision, context.short, changes)
        captured = flag("capture", on=not name.endswith(DDP))  # a graph can't replay DDP's hooks
        config = changed(config, captured, run, {"distributed": {"timeout": 60.0}})
        expected = predicted_seconds(context, preset, precision, batch // ranks)
        slow = f"it would take about {expected:.0f} s" if expected > LIMIT / 2 else ""
        if why := refusal(config) or slow:
            context.not_run(f"{ranks} ranks: {name}", why)
            continue
        profiled = 0 if context.short else 3
        if name.endswith(EXAMPLE):
            shape = SHAPES.get(preset, GREY)
            values = {"name": "example", "config": stored(config), "shape": shape, "seconds": seconds(context)}
            jobs[name] = Job("loop", values)
            continue
        jobs[name] = Job("measure", {"config": stored(config), "seconds": seconds(context), "profiled": profiled})
    if ranks > 1:
        jobs["all-reduce"] = Job("all-reduce", {"short": context.short})
    for name, outcome in zip(jobs, run_jobs(context, list(jobs.values()), ranks, LIMIT), strict=True):
        row = f"{ranks} rank{'s' * (ranks > 1)}: {name}"
        if outcome.result is None:
            report(context, row, outcome)
        elif name == "all-reduce":
            reduced(context, ranks, outcome.result)
        else:
            speed = outcome.result["images/s"]
            if ranks == 1:
                baseline[name] = speed
            context.measured(row, figures(outcome.result, baseline.get(name.removesuffix(DDP)), ranks))


def figures(result: dict[str, Any], alone: float | None, ranks: int) -> dict[str, Value]:
    """The figures of a run, and its speedup and efficiency.

    Args:
        result: of the job.
        alone: images per second of one rank; at a fixed batch of each rank, the efficiency is that of weak scaling.
        ranks: of the run.
    """
    values: dict[str, Value] = {key: result.get(key) for key in ("images/s", "ms", "kernel ms", "memory MB")}
    if alone:
        values |= {"speedup": result["images/s"] / alone, "efficiency": result["images/s"] / alone / ranks}
    return values


def reduced(context: Context, ranks: int, result: dict[str, Any]) -> None:
    """Rows of all-reduces, beside the time of NCCL's own model on an H100 host."""
    for size, us in result.items():
        model = 1e6 * gpu_model.all_reduce(float(size), ranks, H100) if context.on_gpu and ranks <= 8 else None
        context.measured(f"{ranks} ranks: all-reduce of {int(size):,} bytes", {"us": us, "model us (H100)": model})
