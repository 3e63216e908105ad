"""How a run does: the evaluation of its images, and what the doctor says of its figures."""

from __future__ import annotations

import math

from gan_dist.evaluation.doctor import Verdict, diagnose
from gan_dist.files import write_json
from gan_dist.outputs.records import StepLines
from gan_dist.trainer.state import Best, Trainer


def evaluate(trainer: Trainer) -> None:
    """Measure how good the generator is, and note if it is better than ever. A collective: all ranks work on it."""
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
    if so_far := diagnose(trainer.rows, trainer.evaluations, trainer.config, trainer.floor).so_far:
        trainer.console.announce(f"doctor, step {trainer.step:,}: {Verdict.TOO_EARLY.value}, but {so_far}")


def report_diagnosis(trainer: Trainer) -> int | None:
    """Ask the doctor how the run does, and say what is new. Rank 0 only.

    Returns:
        How many things are wrong; None as long as it is too early to tell.
    """
    diagnosis = diagnose(trainer.rows, trainer.evaluations, trainer.config, trainer.floor)
    findings = {found.name: found for found in diagnosis.findings}
    for name, finding in findings.items():
        if name not in trainer.active_findings:
            trainer.console.announce(f"doctor, step {finding.step:,}: {name}: {finding.evidence}; {finding.advice}")
            trainer.tracker.alert(name, f"step {finding.step:,}: {finding.evidence}; {finding.advice}")
    for name in trainer.active_findings - findings.keys():
        trainer.console.announce(f"doctor, step {trainer.step:,}: no more {name}")
    trainer.active_findings = set(findings)
    return None if diagnosis.verdict is Verdict.TOO_EARLY else len(findings)
