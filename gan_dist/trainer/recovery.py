"""Going back: to the newest checkpoint when a run is started again, and when a step went wrong."""

from __future__ import annotations

from gan_dist.distributed.launcher import on_main_process
from gan_dist.gan.guard import NotFinite
from gan_dist.models import build_pair
from gan_dist.models.average import Average
from gan_dist.outputs.checkpoint import Checkpoint, load_optimizer_tensors
from gan_dist.trainer.session import go_back_to
from gan_dist.trainer.start import newest_checkpoint
from gan_dist.trainer.state import Best, Trainer


class NonfiniteStep(Exception):
    """The steps since the last look are worth nothing: one of them was not finite. The same on every rank."""

    def __init__(self, finding: NotFinite) -> None:
        super().__init__(finding.describe())
        self.finding = finding


def check_nonfinite(trainer: Trainer) -> None:
    """Look at what the guard saw since the last look. Every rank sees the same.

    Raises:
        BadStep: the run has to go back to before it.
    """
    found = trainer.guard.collect(trainer.step)
    if not found:
        return
    if trainer.config.train.on_nonfinite != "skip":
        raise NonfiniteStep(found[0])
    trainer.updates_skipped += len(found)
    trainer.console.announce(f"{found[0].describe()}; updates skipped since the last look: {len(found)}")


def recover(trainer: Trainer, bad: NotFinite) -> None:
    """Go back to the newest checkpoint: to try again, or to save the state before the bad step and end.

    A collective: every rank must reach it.

    Raises:
        InputError: no checkpoint is whole any more.
    """
    config, earlier_failure = trainer.config.train, trainer.failure
    again = bad.step in trainer.rollbacks
    if config.on_nonfinite == "rollback" and not again and len(trainer.rollbacks) < config.max_rollbacks:
        trainer.rollbacks.append(bad.step)
    else:
        trainer.failure = earlier_failure or bad
    trainer.console.end()
    restore(trainer, on_main_process(trainer.accelerator, lambda: _newest_checkpoint(trainer)))
    on_main_process(trainer.accelerator, lambda: go_back_to(trainer, trainer.step))
    if trainer.failure is None:
        trainer.console.announce(f"{bad.describe()}; back to step {trainer.step:,}")
    else:
        # The steps up to the bad one are the same again. Should another of them fail, what is on disk is all there is.
        trainer.last_step = bad.step - 1 if earlier_failure is None else trainer.step


def restore(trainer: Trainer, found: Checkpoint | None) -> None:
    """Put a run where a checkpoint left it.

    Args:
        trainer: any run of the checkpoint's configuration.
        found: the checkpoint; None: the run's beginning.
    """
    gan, config = trainer.gan, trainer.config
    updates = {"generator": gan.generator_update, "discriminator": gan.discriminator_update}
    if found is None:
        first = build_pair(config.model, trainer.images.shape, config.train.seed)
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
    trainer.batches.steps = range(trainer.step, trainer.schedule.total_steps)


def _newest_checkpoint(trainer: Trainer) -> Checkpoint | None:
    trainer.writer.wait()
    trainer.tracker.logged_through = max([trainer.tracker.logged_through, *(row["step"] for row in trainer.rows)])
    return newest_checkpoint(trainer.checkpoints, trainer.config, trainer.images.shape, trainer.console.announce)
