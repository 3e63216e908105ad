"""How a run does: the evaluation of its images, and what the doctor says of its figures."""

from __future__ import annotations

import math

from gan_dist.evaluation.doctor import Verdict, diagnose
from gan_dist.files import write_json
from gan_dist.run.records import StepLines
from gan_dist.training.state import Best, Run


def evaluate(run: Run) -> None:
    """Measure how good the generator is, and note if it is better than ever. A collective: all ranks work on it."""
    with run.timing.evaluation():
        measured = run.quality.measure(run.ema.network, run.gan.discriminator_update.in_full)
    if measured is None:
        return
    distance = measured["distance/frechet"]
    if math.isfinite(distance) and (run.best is None or distance < run.best.distance):
        run.best = Best(run.step, distance)
    if not run.writes:
        return
    row = {
        "step": run.step,
        "epoch": run.schedule.epoch(run.step),
        "images_seen": run.schedule.images_seen(run.step),
        "seconds": run.timing.seconds(),
        **measured,
    }
    run.evaluations.append(row)
    run.disk.now(lambda: StepLines(run.folder.evaluations).append(row))
    run.floor = run.quality.floor
    run.disk.now(lambda: write_json(run.folder.floor, run.floor))
    run.wandb.log(run.step, {name: value for name, value in row.items() if name != "intervals"})
    low, high = row["intervals"]["distance/frechet"]
    run.console.announce(
        f"epoch {row['epoch']:.4g}: Fréchet distance {distance:.2f} ({low:.2f} to {high:.2f}; real images "
        f"{run.floor['distance/frechet']:.2f}), coverage {row['coverage']:.3f} (real images "
        f"{run.floor['coverage']:.3f}), precision {row['precision']:.3f}, recall {row['recall']:.3f}"
    )
    if so_far := diagnose(run.rows, run.evaluations, run.config, run.floor).so_far:
        run.console.announce(f"doctor, step {run.step:,}: {Verdict.TOO_EARLY.value}, but {so_far}")


def consult(run: Run) -> int | None:
    """Ask the doctor how the run does, and say what is new. Rank 0 only.

    Returns:
        How many things are wrong; None as long as it is too early to tell.
    """
    diagnosis = diagnose(run.rows, run.evaluations, run.config, run.floor)
    findings = {found.name: found for found in diagnosis.findings}
    for name, finding in findings.items():
        if name not in run.complaints:
            run.console.announce(f"doctor, step {finding.step:,}: {name}: {finding.evidence}; {finding.advice}")
            run.wandb.alert(name, f"step {finding.step:,}: {finding.evidence}; {finding.advice}")
    for name in run.complaints - findings.keys():
        run.console.announce(f"doctor, step {run.step:,}: no more {name}")
    run.complaints = set(findings)
    return None if diagnosis.verdict is Verdict.TOO_EARLY else len(findings)
