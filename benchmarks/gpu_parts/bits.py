"""The part `bits`: runs that must be equal, bit for bit or to rounding."""

from __future__ import annotations

import math
from typing import Any

from gan_dist.config import Config
from gan_dist.results.diff import compare_hashes
from gpu_parts.configs import flag, measured_config, refusal, stored
from gpu_parts.context import Context
from gpu_parts.workers import Job, Outcome, run_jobs

SHARDS = 8
STEPS, STOP = 12, 7  # of a run, and where one is stopped, inside a log window
SHORT_SHARDS, SHORT_STEPS, SHORT_STOP = 2, 6, 3
ROUNDING = 1e-2  # largest relative difference of a loss after STEPS steps: a GAN amplifies rounding
EXACT = (("seed", "no"), ("conv", "no"), ("digits", "no"), ("r3-conv", "bf16"))
FAST = (("seed", "no"), ("conv", "bf16"))
ON_CPU = ("seed", "conv")
ON_RANKS = (("conv", "no"), ("r3-conv", "bf16"))
DETERMINISTIC = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # before the first product of a worker

Changes = dict[str, dict[str, Any]]


class Runs:
    """Runs of this part, by name.

    Args:
        context: of the part.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.shards, self.steps, self.stop = SHARDS, STEPS, STOP
        if context.short:
            self.shards, self.steps, self.stop = SHORT_SHARDS, SHORT_STEPS, SHORT_STOP
        self.folder = context.scratch / context.part
        self.outcomes: dict[str, Outcome] = {}

    def config(self, name: str, preset: str, precision: str, *more: Changes | None, steps: int | None = None) -> Config:
        """A short run with hashes of every step."""
        batch = 32 if self.context.short else 96
        changes: Changes = {
            "train": {"steps": steps or self.steps, "log_hashes": 1},
            "log": {"every_steps": 4},
            "run": {"dir": self.folder / name},
        }
        return measured_config(preset, self.context.scratch, batch, precision, self.context.short, changes, *more)

    def run(self, jobs: dict[str, Job], ranks: int = 1, **more: Any) -> None:
        """Run jobs; a name with + continues the run of that name."""
        outcomes = run_jobs(self.context, list(jobs.values()), ranks, limit=60, **more)
        self.outcomes |= dict(zip(jobs, outcomes, strict=True))

    def missing(self, name: str, *runs: str) -> bool:
        """Whether a run is missing; then the row of the check is added."""
        for run in runs:
            outcome = self.outcomes.get(run)
            if outcome is None or outcome.result is None:
                problem = "it was not run" if outcome is None else outcome.problem
                if outcome is None or outcome.expected:
                    self.context.not_run(name, problem)
                else:
                    self.context.check(name, f"{run}: {problem}")
                return True
        return False

    def compare(self, name: str, run: str, other: str, exact: bool = True, steps: int | None = None) -> None:
        """Add the row of a comparison: bit for bit, or of the losses to rounding."""
        if self.missing(name, run, other):
            return
        with self.context.checking(name):
            comparison = compare_hashes(self.folder / run, self.folder / other)
            problem = "" if comparison.differs_at is None else comparison.describe()
            if comparison.differs_at is None and comparison.equal_steps != list(range(1, (steps or self.steps) + 1)):
                problem = f"hashes of the steps {comparison.equal_steps} only"
            drift = self.drift(run, other)
            if not exact:
                note = "bit for bit" if not problem else f"to rounding; {problem}"
                problem = problem if drift > ROUNDING or not math.isfinite(drift) else ""
                self.context.check(name, problem, {"loss differs by": drift}, note)
            else:
                self.context.check(name, problem, {"loss differs by": drift}, "bit for bit")

    def drift(self, run: str, other: str) -> float:
        """Largest relative difference of a loss between two runs."""
        rows = [(self.outcomes[name].result or {})["rows"] for name in (run, other)]
        pairs = [(a[key], b[key]) for a, b in zip(*rows, strict=True) for key in a if key.startswith("loss/")]
        assert pairs, "no losses"
        return max(abs(a - b) / max(abs(a), abs(b), 1e-3) for a, b in pairs)


def run(context: Context) -> None:
    runs = Runs(context)
    alone(context, runs)
    against_the_cpu(context, runs)
    on_ranks(context, runs)


def alone(context: Context, runs: Runs) -> None:
    """Graph against eager, stopped against straight runs, and images from a file against the device's, on one rank."""
    exact: Changes = {"train": {"exact_shards": runs.shards}}
    modes = [("exact", case, exact) for case in EXACT] + [("fast", case, {}) for case in FAST]
    if context.short:
        modes = [modes[1], modes[-2]]
    jobs: dict[str, Job] = {}
    refused: dict[str, str] = {}
    for mode, (preset, precision), changes in modes:
        for capture in ("eager", "graph"):
            name = f"{mode}-{preset}-{precision}-{capture}"
            config = runs.config(name, preset, precision, changes, flag("capture", capture == "graph"))
            if why := refusal(config):
                refused[name] = why
                continue
            perturb = 3 if context.has_fault("bits") and name.endswith("-eager") and mode == "exact" else None
            jobs[name] = Job("train", {"config": stored(config), "perturb_at": perturb})
    resumed, precision = EXACT[1]
    stopped = "stopped"
    for number, until in enumerate((runs.stop, runs.steps)):
        config = runs.config(stopped, resumed, precision, exact, flag("capture", on=True), steps=until)
        jobs[stopped + number * "+"] = Job("train", {"config": stored(config)})
    from_file: Changes = {"data": {"memory": "file"}}
    config = runs.config("file", resumed, precision, exact, flag("capture", on=True), from_file)
    jobs["file"] = Job("train", {"config": stored(config)})
    if context.on_gpu:
        jobs |= same_draws(runs, "gpu")
    runs.run(jobs, **DETERMINISTIC)
    if f"{stopped}+" in runs.outcomes:
        runs.outcomes[stopped] = runs.outcomes[f"{stopped}+"]
    for mode, (preset, precision), _ in modes:
        prefix, what = f"{mode}-{preset}-{precision}", f"graph = eager: {preset}, {precision}, {mode} mode"
        if why := refused.get(f"{prefix}-graph"):
            context.not_run(what, why)
        else:
            runs.compare(what, f"{prefix}-eager", f"{prefix}-graph", exact=mode == "exact")
    straight = f"exact-{EXACT[1][0]}-{EXACT[1][1]}-graph"
    runs.compare(f"stopped after {runs.stop} steps and resumed = straight: {resumed}, exact mode", straight, stopped)
    runs.compare(f"images from a file = on the device: {resumed}, exact mode", straight, "file")


def on_ranks(context: Context, runs: Runs) -> None:
    """The exact mode on 2, 4, 8, … ranks against one."""
    cases = ON_RANKS[:1] if context.short else ON_RANKS
    counts = [ranks for ranks in context.rank_counts if runs.shards % ranks == 0 and ranks > 1]
    if not counts:
        context.not_run("exact mode on 2 ranks = on 1", "needs 2 GPUs")
    for ranks in counts:
        jobs = {}
        for preset, precision in cases:
            name = f"ranks-{preset}-{precision}-{ranks}"
            changes: Changes = {"train": {"exact_shards": runs.shards}, "distributed": {"timeout": 30.0}}
            config = runs.config(name, preset, precision, changes, flag("capture", on=True))
            jobs[name] = Job("train", {"config": stored(config)})
        runs.run(jobs, ranks, **DETERMINISTIC)
        for preset, precision in cases:
            one, several = f"exact-{preset}-{precision}-graph", f"ranks-{preset}-{precision}-{ranks}"
            runs.compare(f"exact mode on {ranks} ranks = on 1: {preset}, {precision}", one, several)


def same_draws(runs: Runs, device: str) -> dict[str, Job]:
    """Eager runs with random numbers that do not depend on the device."""
    jobs = {}
    for preset in ON_CPU:
        name = f"{device}-{preset}"
        config = runs.config(name, preset, "no", flag("capture", on=False))
        jobs[name] = Job("train", {"config": stored(config), "same_draws": True})
    return jobs


def against_the_cpu(context: Context, runs: Runs) -> None:
    """A GPU against the CPU, with the same random numbers."""
    if context.on_gpu:
        runs.run(same_draws(runs, "cpu"), cpu=True, **DETERMINISTIC)
    for preset in ON_CPU:
        name = f"GPU = CPU, the same random numbers: {preset}, no"
        if not context.on_gpu:
            context.not_run(name, "needs a GPU")
        else:
            compare_losses(context, runs, name, f"cpu-{preset}", f"gpu-{preset}")


def compare_losses(context: Context, runs: Runs, name: str, run: str, other: str) -> None:
    """Add the row of a comparison of losses, to rounding."""
    if runs.missing(name, run, other):
        return
    drift = runs.drift(run, other)
    problem = "" if drift <= ROUNDING else f"a loss differs by {drift:.3g}"
    context.check(name, problem, {"loss differs by": drift}, "to rounding")
