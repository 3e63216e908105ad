"""Going back: to the newest checkpoint when a run is started again, and when a step went wrong."""

from __future__ import annotations

from gan_dist.models import build_pair
from gan_dist.models.ema import Average
from gan_dist.run.checkpoint import Checkpoint, load_optimizer_tensors
from gan_dist.run.launcher import on_main
from gan_dist.training.guard import NotFinite
from gan_dist.training.outputs import go_back_to
from gan_dist.training.start import newest_checkpoint
from gan_dist.training.state import Best, Run


class BadStep(Exception):
    """The steps since the last look are worth nothing: one of them was not finite. The same on every rank."""

    def __init__(self, finding: NotFinite) -> None:
        super().__init__(finding.describe())
        self.finding = finding


def heed(run: Run) -> None:
    """Look at what the guard saw since the last look. Every rank sees the same.

    Raises:
        BadStep: the run has to go back to before it.
    """
    found = run.guard.look(run.step)
    if not found:
        return
    if run.config.train.on_nonfinite != "skip":
        raise BadStep(found[0])
    run.updates_skipped += len(found)
    run.console.announce(f"{found[0].describe()}; updates skipped since the last look: {len(found)}")


def recover(run: Run, bad: NotFinite) -> None:
    """Go back to the newest checkpoint: to try again, or to save the state before the bad step and end.

    A collective: every rank must reach it.

    Raises:
        InputError: no checkpoint is whole any more.
    """
    config, earlier_failure = run.config.train, run.failure
    again = bad.step in run.rollbacks
    if config.on_nonfinite == "rollback" and not again and len(run.rollbacks) < config.max_rollbacks:
        run.rollbacks.append(bad.step)
    else:
        run.failure = earlier_failure or bad
    run.console.end()
    restore(run, on_main(run.accelerator, lambda: _newest_checkpoint(run)))
    on_main(run.accelerator, lambda: go_back_to(run, run.step))
    if run.failure is None:
        run.console.announce(f"{bad.describe()}; back to step {run.step:,}")
    else:
        # The steps up to the bad one are the same again. Should another of them fail, what is on disk is all there is.
        run.last_step = bad.step - 1 if earlier_failure is None else run.step


def restore(run: Run, found: Checkpoint | None) -> None:
    """Put a run where a checkpoint left it.

    Args:
        run: any run of the checkpoint's configuration.
        found: the checkpoint; None: the run's beginning.
    """
    gan, config = run.gan, run.config
    updates = {"generator": gan.generator_update, "discriminator": gan.discriminator_update}
    if found is None:
        first = build_pair(config.model, run.images.shape, config.train.seed)
        tensors = {name: network.state_dict() for name, network in zip(updates, first, strict=True)}
        tensors["average"] = tensors["generator"]
    else:
        tensors = found.tensors
    for name, update in updates.items():
        update.network.load_state_dict(tensors[name])
        update.refresh()
        load_optimizer_tensors(update.optimizer, tensors.get(f"{name}_optimizer", {}))
    if isinstance(run.ema, Average):
        run.ema.network.load_state_dict(tensors["average"])
    if found is not None and run.accelerator.scaler is not None:
        run.accelerator.scaler.load_state_dict(found.state["scaler"])
    run.step = found.step if found else 0
    run.updates_skipped = found.state["updates_skipped"] if found else 0
    run.best = Best(*found.state["best"]) if found and found.state.get("best") else None
    run.meter.load_state(found.state["metrics_window"] if found else [])
    run.batches.steps = range(run.step, run.schedule.total_steps)


def _newest_checkpoint(run: Run) -> Checkpoint | None:
    run.disk.wait()
    run.wandb.logged_through = max([run.wandb.logged_through, *(row["step"] for row in run.rows)])
    return newest_checkpoint(run.checkpoints, run.config, run.images.shape, run.console.announce)
