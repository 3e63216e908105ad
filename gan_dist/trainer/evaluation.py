"""Evaluations during training, and the diagnosis of the figures so far."""

from __future__ import annotations

import math

from gan_dist.evaluation.doctor import Verdict, diagnose
from gan_dist.files import write_json
from gan_dist.outputs.records import StepLines
from gan_dist.trainer.state import Best, Trainer


def evaluate(trainer: Trainer) -> None:
    """Evaluate the generator and record whether it is the best so far. A collective: the ranks share the work."""
    with trainer.timing.evaluation():
        measured = trainer.evaluator.measure(trainer.ema.network, trainer.gan.discriminator_update.full_precision)
    if measured is None:
        return
    distance = measured["distance/frechet"]
    if math.isfinite(distance) and (trainer.best is None or distance < trainer.best.distance):
        trainer.best = Best(trainer.step, distance)
    if not trainer.is_main:
        return
    row = {
        "step": trainer.step,
        "epoch": trainer.schedule.epoch(trainer.step),
        "images_seen": trainer.schedule.images_seen(trainer.step),
        "seconds": trainer.timing.seconds(),
        **measured,
    }
    trainer.evaluations.append(row)
    trainer.writer.save(lambda: StepLines(trainer.folder.evaluations).append(row))
    trainer.floor = trainer.evaluator.floor
    trainer.writer.save(lambda: write_json(trainer.folder.floor, trainer.floor))
    trainer.tracker.log(trainer.step, {name: value for name, value in row.items() if name != "intervals"})
    low, high = row["intervals"]["distance/frechet"]
    trainer.console.announce(
        f"epoch {row['epoch']:.4g}: Fréchet distance {distance:.2f} ({low:.2f} to {high:.2f}; real images "
        f"{trainer.floor['distance/frechet']:.2f}), coverage {row['coverage']:.3f} (real images "
        f"{trainer.floor['coverage']:.3f}), precision {row['precision']:.3f}, recall {row['recall']:.3f}"
    )
    if preliminary := diagnose(trainer.rows, trainer.evaluations, trainer.config, trainer.floor).preliminary:
        trainer.console.announce(f"doctor, step {trainer.step:,}: {Verdict.TOO_EARLY.value}, but {preliminary}")


def report_diagnosis(trainer: Trainer) -> int | None:
    """Diagnose the run and announce what has changed. Rank 0 only.

    Returns:
        Number of findings; None while it is too early to tell.
    """
    report = diagnose(trainer.rows, trainer.evaluations, trainer.config, trainer.floor)
    findings = {found.name: found for found in report.findings}
    for name, finding in findings.items():
        if name not in trainer.active_findings:
            trainer.console.announce(f"doctor, step {finding.step:,}: {name}: {finding.evidence}; {finding.advice}")
            trainer.tracker.alert(name, f"step {finding.step:,}: {finding.evidence}; {finding.advice}")
    for name in trainer.active_findings - findings.keys():
        trainer.console.announce(f"doctor, step {trainer.step:,}: resolved: {name}")
    trainer.active_findings = set(findings)
    return None if report.verdict is Verdict.TOO_EARLY else len(findings)
