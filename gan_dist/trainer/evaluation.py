"""Evaluations during training, and the diagnosis of the figures so far."""

from __future__ import annotations

import math
from typing import Any

from gan_dist.evaluation.doctor import DoctorReport, Verdict, diagnose
from gan_dist.files import write_json
from gan_dist.outputs.records import StepLines
from gan_dist.trainer.state import Best, FindingEvent, Trainer
from gan_dist.trainer.tracking import log_evaluation, log_finding


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
    log_evaluation(trainer, row)
    line = (
        f"epoch {row['epoch']:.4g}: Fréchet distance {_with_interval(trainer, row, 'distance/frechet', 2)}, coverage "
        f"{row['coverage']:.3f} (real images {trainer.floor['coverage']:.3f}), precision {row['precision']:.3f}, "
        f"recall {row['recall']:.3f}"
    )
    if "inception/fid" in row:
        line += f", FID {_with_interval(trainer, row, 'inception/fid', 1)}"
    trainer.console.announce(line)
    if preliminary := _diagnose(trainer).preliminary:
        trainer.console.announce(f"doctor, step {trainer.step:,}: {Verdict.TOO_EARLY.value}, but {preliminary}")


def _with_interval(trainer: Trainer, row: dict[str, Any], figure: str, digits: int) -> str:
    """A figure with its interval and that of real images, for the console."""
    low, high = row["intervals"][figure]
    real = trainer.floor[figure]
    return f"{row[figure]:.{digits}f} ({low:.{digits}f} to {high:.{digits}f}; real images {real:.{digits}f})"


def report_diagnosis(trainer: Trainer) -> int | None:
    """Diagnose the run and announce what has changed. Rank 0 only.

    Returns:
        Number of findings; None while it is too early to tell.
    """
    report = _diagnose(trainer)
    findings = {found.name: found for found in report.findings}
    for name, finding in findings.items():
        if name not in trainer.active_findings:
            trainer.console.announce(f"doctor, step {finding.step:,}: {name}: {finding.evidence}; {finding.advice}")
            log_finding(trainer, FindingEvent(finding.step, "found", name, finding.evidence, finding.advice))
    for name in sorted(trainer.active_findings - findings.keys()):
        trainer.console.announce(f"doctor, step {trainer.step:,}: resolved: {name}")
        log_finding(trainer, FindingEvent(trainer.step, "resolved", name, "", ""))
    trainer.active_findings = set(findings)
    return None if report.verdict is Verdict.TOO_EARLY else len(findings)


def _diagnose(trainer: Trainer) -> DoctorReport:
    classes = trainer.images.spec.classes or ()
    return diagnose(trainer.rows, trainer.evaluations, trainer.config, trainer.floor, classes)
