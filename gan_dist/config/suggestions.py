"""Suggestions for unknown flags, presets and commands."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence

# Flags of other tools -> the flags here, with a value if it is obvious. The first that the command has is suggested.
ELSEWHERE: dict[str, tuple[str, ...]] = {
    "lr": ("--optimizer.learning-rate",),
    "bs": ("--train.batch-size",),
    "per-device-train-batch-size": ("--train.batch-size",),
    "train-batch-size": ("--train.batch-size",),
    "num-epochs": ("--train.epochs",),
    "n-epochs": ("--train.epochs",),
    "num-train-epochs": ("--train.epochs",),
    "max-epochs": ("--train.epochs",),
    "iterations": ("--train.steps",),
    "iters": ("--train.steps",),
    "max-steps": ("--train.steps",),
    "max-train-steps": ("--train.steps",),
    "gradient-accumulation-steps": ("--train.accumulation",),
    "random-seed": ("--train.seed", "--seed"),
    "output": ("--run.dir", "--output"),
    "output-dir": ("--run.dir", "--output"),
    "outdir": ("--run.dir", "--output"),
    "out": ("--run.dir", "--output"),
    "o": ("--run.dir", "--output"),
    "logdir": ("--run.dir",),
    "log-dir": ("--run.dir",),
    "logging-dir": ("--run.dir",),
    "log-interval": ("--log.every-steps",),
    "logging-steps": ("--log.every-steps",),
    "save-every": ("--checkpoint.every-steps",),
    "save-steps": ("--checkpoint.every-steps",),
    "save-interval": ("--checkpoint.every-steps",),
    "checkpointing-steps": ("--checkpoint.every-steps",),
    "checkpoints-total-limit": ("--checkpoint.keep",),
    "sample-interval": ("--samples.every-epochs",),
    "resume-from-checkpoint": ("--run.resume",),
    "data": ("--data.root",),
    "dataset": ("--data.name",),
    "dataset-name": ("--data.name",),
    "dataroot": ("--data.root",),
    "data-dir": ("--data.root",),
    "data-path": ("--data.root",),
    "model": ("--model.architecture",),
    "arch": ("--model.architecture",),
    "nz": ("--model.latent-dim",),
    "z-dim": ("--model.latent-dim",),
    "latent-size": ("--model.latent-dim",),
    "ngf": ("--model.channels",),
    "ndf": ("--model.channels",),
    "gamma": ("--penalty.r1",),
    "gradient-penalty": ("--penalty.gradient",),
    "lambda-gp": ("--penalty.gradient",),
    "aug": ("--augment.probability",),
    "augment": ("--augment.probability",),
    "augpipe": ("--augment.transforms",),
    "diffaugment": ("--augment.probability",),
    "ema-decay": ("--ema.half-life",),
    "use-ema": ("--ema.half-life",),
    "b1": ("--optimizer.beta1",),
    "b2": ("--optimizer.beta2",),
    "adam-beta1": ("--optimizer.beta1",),
    "adam-beta2": ("--optimizer.beta2",),
    "bf16": ("--train.mixed-precision bf16",),
    "fp16": ("--train.mixed-precision fp16",),
    "amp": ("--train.mixed-precision bf16",),
    "deterministic": ("--train.exact-shards",),
    "workers": ("--train.threads",),
    "num-workers": ("--train.threads",),
    "n-cpu": ("--train.threads",),
    "wandb": ("--wandb.mode online",),
    "no-wandb": ("--wandb.mode disabled",),
    "report-to": ("--tracking.with",),
    "offline": ("--wandb.mode offline",),
    "run-name": ("--wandb.name",),
    "project-name": ("--wandb.project",),
    "n": ("--count", "--processes"),
    "num": ("--count",),
    "num-images": ("--count",),
    "num-samples": ("--count", "--evaluate.count"),
    "np": ("--processes",),
}
LAUNCHERS = "for the launcher: accelerate launch --config_file accelerate_config.yaml --num_processes N"
# Flags for the number of processes, which only the launcher sets.
PROCESSES = {"gpus", "num-gpus", "n-gpu", "gpu", "devices", "num-devices", "num-processes", "nproc-per-node", "nproc"}
CLOSE = 0.7  # of difflib: "--train.sede" is close to "--train.seed", "--zzz" to nothing


def meant_flags(word: str, flags: Sequence[str]) -> list[str]:
    """Flags that an unknown word may stand for, the best first; empty if none is similar.

    Args:
        word: with or without dashes.
        flags: the existing flags; both of a switch.
    """
    name = _bare(word)
    names = {_bare(flag): flag for flag in flags}
    if ends := [flag for bare, flag in names.items() if bare == name or bare.endswith(f".{name}")]:
        return ends
    known = [ours for ours in ELSEWHERE.get(name.rpartition(".")[2], ()) if ours.split()[0] in flags]
    if known:
        return known[:1]
    # --wandb-name, --no-train.tf32: the right parts in another order.
    parts = sorted(name.replace(".", "-").split("-"))
    if same := [flag for bare, flag in names.items() if sorted(bare.replace(".", "-").split("-")) == parts]:
        return same
    if near := difflib.get_close_matches(name, names, n=1, cutoff=CLOSE):
        return [names[near[0]]]
    last_parts = {bare.rpartition(".")[2]: flag for bare, flag in names.items()}
    return [last_parts[near] for near in difflib.get_close_matches(name, last_parts, n=1, cutoff=CLOSE)]


def did_you_mean(word: str, flags: Sequence[str]) -> str | None:
    """The way out for an unknown flag; None if none is similar."""
    if meant := meant_flags(word, flags):
        return f"did you mean {' or '.join(meant)}?"
    return f"it is {LAUNCHERS}" if _bare(word) in PROCESSES else None


def nearest(word: str, names: Collection[str]) -> str:
    """The way out for a word that is not among `names`."""
    near = difflib.get_close_matches(word.lower(), names, n=1, cutoff=CLOSE)
    return (f"did you mean {near[0]}? " if near else "") + f"choose from {', '.join(names)}"


def _bare(word: str) -> str:
    return word.partition("=")[0].lstrip("-").replace("_", "-").lower()
