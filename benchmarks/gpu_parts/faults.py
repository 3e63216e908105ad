"""The part `faults`: a rank is killed or suspended while it trains with graphs."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import launching
import psutil

from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json_lines, read_optional_json
from gpu_parts.configs import GREY, SMALL, capture_words, random_images
from gpu_parts.context import Context
from gpu_parts.processes import MARK, last_error, marked, started, wait_in_time

RANKS = 2
TIMEOUT = 8.0  # distributed.timeout
MARGIN = 10.0  # seconds after it within which the other rank must have recorded its failure
LAUNCHER = 45.0  # seconds that the launcher may take then: it waits 30 s for a suspended process before it kills it
START = 90.0  # seconds within which a run must have trained
SIGNALS = (signal.SIGKILL, signal.SIGSTOP)


def run(context: Context) -> None:
    for number in SIGNALS[:1] if context.short else SIGNALS:
        name = f"{number.name} of rank 1 of {RANKS}"
        if context.gpus < RANKS:
            context.not_run(name, f"needs {RANKS} GPUs")
        else:
            with context.checking(name):
                inject(context, number, name)


def command(context: Context, folder: RunFolder, *more: str) -> list[str]:
    """A run of the preset seed with graphs; always the same but for its length."""
    images = random_images(context.scratch / "data", GREY, 2_000)
    words = [*launching.launcher(RANKS), launching.TRAIN, "--data.name", "arrays", "--data.root", str(images)]
    words += ["--train.batch-size", "32", "--log.every-steps", str(window(context))]
    words += ["--checkpoint.every-steps", str(2 * window(context))]
    words += ["--evaluate.every-epochs", "None", "--wandb.mode", "disabled", "--samples.every-epochs", "1000"]
    words += ["--distributed.timeout", f"{TIMEOUT:g}", "--train.epochs", "1000000", "--run.dir", str(folder.path)]
    if context.short:
        words += ["--train.threads", "1", "--model.hidden-dim", str(SMALL["model"]["hidden_dim"])]
    return [*words, *capture_words(on=True), *more]


def window(context: Context) -> int:
    """Steps between two log points: a GPU takes some 3,000 a second."""
    return 10 if context.short else 200


def inject(context: Context, number: signal.Signals, name: str) -> None:
    """Send a signal to rank 1, and check that the others name it and end, and that the run resumes."""
    folder = RunFolder(context.scratch / "faults" / number.name)
    log = context.scratch / "faults" / f"{number.name}.log"
    with started(context, command(context, folder), log) as launched:
        wait_for_step(context, folder, 4 * window(context), launched.pid, log)  # a checkpoint exists
        os.kill(rank_of(launched.pid, 1), number)
        seconds = seconds_to_failure(context, folder)
        code = wait_in_time(context, launched, LAUNCHER)
        time.sleep(1.0)  # workers end just after their launcher
        left = [process for process in marked(os.environ[MARK]) if process.pid not in (os.getpid(), launched.pid)]
    status, _ = read_optional_json(folder.status)
    named = "lost rank 1" in log.read_text(errors="replace") + str(status)
    problems = []
    if seconds is None:
        problems.append(f"no failure was recorded within {TIMEOUT + MARGIN:.0f} s")
    if code is None:
        problems.append(f"the launcher did not end within {LAUNCHER:.0f} s")
    elif code == 0:
        problems.append("the launcher ended with exit code 0")
    if not named and number == signal.SIGSTOP:
        problems.append("rank 1 was not named")
    if left and code is not None:
        problems.append(f"{len(left)} processes did not end")
    note = f"{'named' if named else 'reported by the launcher'}; distributed.timeout {TIMEOUT:g} s"
    if not context.short:
        why = resume(context, folder, log)
        problems += [why] if why else []
        note += "; resumed"
    context.check(name, "; ".join(problems), {"failure recorded after s": seconds}, note)


def seconds_to_failure(context: Context, folder: RunFolder) -> float | None:
    """Seconds until a run is no longer recorded as running; None if it takes too long."""
    began = time.monotonic()
    while (passed := time.monotonic() - began) < TIMEOUT + MARGIN:
        status, _ = read_optional_json(folder.status)
        if status.get("state", "running") != "running":
            return passed
        time.sleep(context.wait_limit(0.05))
    return None


def resume(context: Context, folder: RunFolder, log: Path) -> str:
    """Resume a run for some steps. Returns what is wrong with that."""
    target = steps(folder)[-1] + 2 * window(context)
    with started(context, command(context, folder, "--train.steps", str(target)), log) as process:
        code = wait_in_time(context, process, START)
    reached = steps(folder)
    if code != 0:
        return f"the resumed run ended with exit code {code}: {last_error(log)}"
    return "" if reached[-1] == target and reached == sorted(set(reached)) else f"resumed to step {reached[-1]}"


def steps(folder: RunFolder) -> list[int]:
    return [row["step"] for row in read_json_lines(folder.metrics)]


def wait_for_step(context: Context, folder: RunFolder, step: int, pid: int, log: Path) -> None:
    """Return when a run has logged a step."""
    give_up = time.monotonic() + START
    while not any(logged >= step for logged in steps(folder)):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            raise RuntimeError(f"the run ended before step {step}: {log.read_text(errors='replace')[-200:]}")
        if time.monotonic() > give_up:
            raise RuntimeError(f"the run has not logged step {step} after {START:.0f} s")
        time.sleep(context.wait_limit(0.05))


def rank_of(launcher: int, rank: int) -> int:
    """The process id of a rank: the launcher's child with this RANK."""
    for process in psutil.Process(launcher).children(recursive=True):
        if process.environ().get("RANK") == str(rank) and "train.py" in " ".join(process.cmdline()):
            return process.pid
    raise RuntimeError(f"the launcher has no process of rank {rank}")
