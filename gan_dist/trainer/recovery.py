"""Restoring a checkpoint: when a run is resumed, and after a non-finite step."""

from __future__ import annotations

from gan_dist.distributed.main_process import on_main_process
from gan_dist.gan.guard import NonfiniteUpdate
from gan_dist.models import build_pair, count_classes
from gan_dist.models.average import Average
from gan_dist.outputs.checkpoint_format import Checkpoint
from gan_dist.outputs.optimizer_state import load_optimizer_tensors
from gan_dist.trainer.session import truncate_records
from gan_dist.trainer.start import latest_checkpoint
from gan_dist.trainer.state import Best, Trainer


class NonfiniteStep(Exception):
    """A step since the last check was not finite: discard all steps since then. The same on every rank."""

    def __init__(self, finding: NonfiniteUpdate) -> None:
        super().__init__(finding.describe())
        self.finding = finding


def check_nonfinite(trainer: Trainer) -> None:
    """Check the updates since the last call for NaN and infinity. Every rank gets the same result.

    Raises:
        NonfiniteStep: the run has to return to the state before it.
    """
    found = trainer.guard.collect(trainer.step)
    if not found:
        return
    if trainer.config.train.on_nonfinite != "skip":
        raise NonfiniteStep(found[0])
    trainer.updates_skipped += len(found)
    trainer.console.announce(f"{found[0].describe()}; updates skipped since the last check: {len(found)}")


def recover(trainer: Trainer, nonfinite: NonfiniteUpdate) -> None:
    """Return to the latest checkpoint: to retry, or to save the state before the non-finite step and fail.

    A collective: every rank must reach it.

    Raises:
        InputError: no checkpoint is intact.
    """
    config, earlier_failure = trainer.config.train, trainer.failure
    again = nonfinite.step in trainer.rollbacks
    if config.on_nonfinite == "rollback" and not again and len(trainer.rollbacks) < config.max_rollbacks:
        trainer.rollbacks.append(nonfinite.step)
    else:
        trainer.failure = earlier_failure or nonfinite
    trainer.console.end()
    restore(trainer, on_main_process(trainer.accelerator, lambda: _latest_checkpoint(trainer)))
    on_main_process(trainer.accelerator, lambda: truncate_records(trainer, trainer.step))
    if trainer.failure is None:
        trainer.console.announce(f"{nonfinite.describe()}; rolled back to step {trainer.step:,}")
    else:
        # Steps before the non-finite one repeat exactly. If another of them fails, the checkpoint is all there is.
        trainer.last_step = nonfinite.step - 1 if earlier_failure is None else trainer.step


def restore(trainer: Trainer, found: Checkpoint | None) -> None:
    """Restore the state of a checkpoint.

    Args:
        trainer: has the configuration of the checkpoint.
        found: the checkpoint; None: the initial state.
    """
    gan, config = trainer.gan, trainer.config
    updates = {"generator": gan.generator_update, "discriminator": gan.discriminator_update}
    if found is None:
        spec = trainer.images.spec
        first = build_pair(config.model, spec.shape, config.train.seed, count_classes(config.model, spec.classes))
        tensors = {name: network.state_dict() for name, network in zip(updates, first, strict=True)}
        tensors["average"] = tensors["generator"]
    else:
        tensors = found.tensors
    for name, update in updates.items():
        update.network.load_state_dict(tensors[name])
        update.refresh()
        load_optimizer_tensors(update.optimizer, tensors.get(f"{name}_optimizer", {}))
    if isinstance(trainer.ema, Average):
        trainer.ema.network.load_state_dict(tensors["average"])
    if found is not None and trainer.accelerator.scaler is not None:
        trainer.accelerator.scaler.load_state_dict(found.state["scaler"])
    trainer.step = found.step if found else 0
    trainer.updates_skipped = found.state["updates_skipped"] if found else 0
    trainer.best = Best(*found.state["best"]) if found and found.state.get("best") else None
    trainer.meter.load_state(found.state["metrics_window"] if found else [])
    trainer.augment_probability.load_state(found.state.get("augmentation") if found else None)
    trainer.batches.steps = range(trainer.step, trainer.schedule.total_steps)


def _latest_checkpoint(trainer: Trainer) -> Checkpoint | None:
    trainer.writer.wait()
    trainer.tracker.skip_through(max([0, *(row["step"] for row in trainer.rows)]))
    return latest_checkpoint(trainer.checkpoints, trainer.config, trainer.images.spec, trainer.console.announce)
