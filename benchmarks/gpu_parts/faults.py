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
from gpu_parts.configs import GREY, SMALL, flag_words, random_images
from gpu_parts.context import Context
from gpu_parts.processes import MARK, marked, started, wait

RANKS = 2
TIMEOUT = 8.0  # distributed.timeout
MARGIN = 20.0  # seconds after it within which all processes must have ended
START = 90.0  # seconds within which a run must have logged STEP
STEP, MORE = 40, 60  # of the fault; of the resumed run after the last logged step
SIGNALS = (signal.SIGKILL, signal.SIGSTOP)


def run(context: Context) -> None:
    for number in SIGNALS[:1] if context.short else SIGNALS:
        name = f"{number.name} of rank 1 of {RANKS}"
        if context.gpus < RANKS:
            context.not_run(name, f"needs {RANKS} GPUs")
        elif context.seconds_left < TIMEOUT + MARGIN:
            context.not_run(name, "no time left")
        else:
            with context.checking(name):
                inject(context, number, name)


def command(context: Context, folder: RunFolder, *more: str, ranks: int = RANKS) -> list[str]:
    """A run of the preset seed with graphs; always the same but for its length."""
    images = random_images(context.scratch / "data", GREY, 2_000)
    words = [*launching.launcher(ranks), launching.TRAIN, "--data.name", "arrays", "--data.root", str(images)]
    words += ["--train.batch-size", "32", "--log.every-steps", "10", "--checkpoint.every-steps", "20"]
    words += ["--evaluate.every-epochs", "None", "--wandb.mode", "disabled", "--samples.every-epochs", "1000"]
    words += ["--distributed.timeout", f"{TIMEOUT:g}", "--train.epochs", "1000000", "--run.dir", str(folder.path)]
    if context.short:
        words += ["--train.threads", "1", "--model.hidden-dim", str(SMALL["model"]["hidden_dim"])]
    return [*words, *flag_words("capture", on=True), *more]


def inject(context: Context, number: signal.Signals, name: str) -> None:
    """Send a signal to rank 1, and check that the others name it and end, and that the run resumes."""
    folder = RunFolder(context.scratch / "faults" / number.name)
    log = context.scratch / "faults" / f"{number.name}.log"
    problems: list[str] = []
    with started(context, command(context, folder), log) as launched:
        wait_for_step(folder, STEP, launched.pid, log)
        os.kill(rank_of(launched.pid, 1), number)
        began = time.monotonic()
        code = wait(launched, TIMEOUT + MARGIN)
        seconds = time.monotonic() - began
        mark = psutil.Process(os.getpid()).environ().get(MARK, context.mark)
        time.sleep(1.0)  # workers end just after their launcher
        left = [process for process in marked(mark) if process.pid not in (os.getpid(), launched.pid)]
        status, _ = read_optional_json(folder.status)
        told = log.read_text(errors="replace")
        if code is None:
            problems.append(f"did not end within {TIMEOUT + MARGIN:.0f} s")
        elif code == 0:
            problems.append("ended with exit code 0")
        if number == signal.SIGSTOP:
            if code is not None and seconds > TIMEOUT + 5:
                problems.append(f"ended after {seconds:.0f} s; distributed.timeout is {TIMEOUT:g} s")
            if "lost rank 1" not in told + str(status):
                problems.append("rank 1 was not named")
            left = [process for process in left if process.status() != psutil.STATUS_STOPPED]  # nobody can end itself
        if left and code is not None:
            problems.append(f"{len(left)} processes did not end")
    before = len(steps(folder))
    resumed = ""
    if not context.short:
        resumed = resume(context, folder, log)
        problems += [resumed] if resumed else []
    note = f"rank 1 {'was named' if 'lost rank 1' in told + str(status) else 'was reported by the launcher'}"
    note += "" if context.short else f"; resumed after {before} log points"
    context.check(name, "; ".join(problems), {"ended after s": seconds}, note)


def resume(context: Context, folder: RunFolder, log: Path) -> str:
    """Resume a run for some steps. Returns what is wrong with that."""
    target = steps(folder)[-1] + MORE
    with started(context, command(context, folder, "--train.steps", str(target)), log) as process:
        code = wait(process, min(START, max(10.0, context.seconds_left)))
    reached = steps(folder)
    if code != 0:
        return f"the resumed run ended with exit code {code}"
    return "" if reached[-1] == target and reached == sorted(set(reached)) else f"resumed to step {reached[-1]}"


def steps(folder: RunFolder) -> list[int]:
    return [row["step"] for row in read_json_lines(folder.metrics)]


def wait_for_step(folder: RunFolder, step: int, pid: int, log: Path) -> None:
    """Return when a run has logged a step."""
    give_up = time.monotonic() + START
    while not any(logged >= step for logged in steps(folder)):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            raise RuntimeError(f"the run ended before step {step}: {log.read_text(errors='replace')[-200:]}")
        if time.monotonic() > give_up:
            raise RuntimeError(f"the run has not logged step {step} after {START:.0f} s")
        time.sleep(0.05)


def rank_of(launcher: int, rank: int) -> int:
    """The process id of a rank: the launcher's child with this RANK."""
    for process in psutil.Process(launcher).children(recursive=True):
        if process.environ().get("RANK") == str(rank) and "train.py" in " ".join(process.cmdline()):
            return process.pid
    raise RuntimeError(f"the launcher has no process of rank {rank}")
