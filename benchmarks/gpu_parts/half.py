"""The part `fp16`: half precision with a gradient scaler."""

from __future__ import annotations

import math

from gpu_parts.bits import Runs
from gpu_parts.configs import flag, refusal, stored
from gpu_parts.context import Context
from gpu_parts.workers import Job

STEPS = 60
SCALE = 2.0**40  # overflows at first, so that updates are skipped and the scale falls


def run(context: Context) -> None:
    name = "fp16 with a scale of 2^40 at first: seed"
    if not context.on_gpu:
        context.not_run(name, "needs a GPU")
        return
    runs = Runs(context)
    jobs: dict[str, Job] = {}
    for capture in ("eager", "graph"):
        config = runs.config(capture, "seed", "fp16", flag("capture", capture == "graph"), steps=STEPS)
        if why := refusal(config):
            context.not_run(f"{name}, {capture}", why)
            continue
        jobs[capture] = Job("train", {"config": stored(config), "scale": SCALE})
    runs.run(jobs)
    for capture in jobs:
        if not runs.missing(f"{name}, {capture}", capture):
            check(context, f"{name}, {capture}", runs.outcomes[capture].result or {})
    if len(jobs) == 2:
        runs.compare("graph = eager: seed, fp16", "eager", "graph", exact=False, steps=STEPS)


def check(context: Context, name: str, result: dict) -> None:
    """Finite losses at the end, and a scale that fell."""
    losses = [value for key, value in result["rows"][-1].items() if key.startswith("loss/")]
    problem = ""
    if not all(math.isfinite(loss) for loss in losses):
        problem = f"the last losses are {losses}"
    elif not 1 <= result["scale"] < SCALE:
        problem = f"the scale is {result['scale']:g}"
    context.check(name, problem, {"scale at the end": result["scale"], "last loss": max(losses)})
