"""The part `machine`: hardware, versions, the constants of the model, and the random numbers of this GPU."""

from __future__ import annotations

import json

import numpy as np

from gpu_parts import philox
from gpu_parts.context import Context
from gpu_parts.workers import Job, run_jobs

SEED, BLOCK, DRAWS = 1_234_567_890_123, 2**15, 3  # blocks as in gan_dist/gan/latents.py
TOLERANCE = 2e-5  # of normal numbers: the GPU's logarithm, sine and square root


def run(context: Context) -> None:
    block = 64 if context.short else BLOCK
    jobs = [
        Job("machine"),
        Job("calibrate", {"short": context.short}),
        Job("random numbers", {"seed": SEED, "block": block, "draws": DRAWS}),
    ]
    found: dict[str, object] = {}
    for outcome in run_jobs(context, jobs):
        kind = outcome.job.kind
        if outcome.result is None:
            context.check(kind, outcome.problem)
        elif kind == "random numbers":
            compare_numbers(context, outcome.result, block, bool(found.get("gpus")))
        else:
            found |= outcome.result
            # The parts that follow use what is known, also if a later job hangs.
            (context.scratch / "machine-found.json").write_text(json.dumps(found))
            if kind == "calibrate":
                context.measured("launch, kernel, product, copy", outcome.result)
            else:
                gpus = f"{outcome.result['gpus']} GPUs: {outcome.result.get('gpu names', 'none')}"
                context.measured("hardware", {}, f"{gpus}; {outcome.result['cpu']}")


def compare_numbers(context: Context, result: dict[str, list[float]], block: int, on_gpu: bool) -> None:
    """Random numbers of the device against those that Philox predicts for every GPU with enough threads."""
    name = f"random numbers of a GPU, in blocks of {block:,}"
    if not on_gpu:
        context.not_run(name, "needs a GPU")
        return
    uniform = np.concatenate([philox.uniform(SEED, block, draw) for draw in range(DRAWS)])
    normal = np.concatenate([philox.normal(SEED, block, draw) for draw in range(DRAWS)])
    wrong = int(np.sum(uniform != np.array(result["uniform"], np.float32)))
    off = float(np.max(np.abs(normal - np.array(result["normal"]))))
    problem = f"{wrong} uniform numbers differ from Philox's" if wrong else ""
    if off > TOLERANCE:
        problem = problem or f"normal numbers differ from Philox's by up to {off:.3g}"
    values = {"sha256 of normal numbers": str(result["sha256"]), "largest difference": off}
    context.check(name, problem, values, "as predicted: the same on every GPU that executes a block at once")
