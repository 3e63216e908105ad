"""The part `tests`: those that need a GPU, pytest -m gpu."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import launching

from gpu_parts.context import Context
from gpu_parts.processes import started, wait

NONE = 5  # pytest's exit code: no test was selected


def run(context: Context) -> None:
    if find_spec("pytest") is None:
        context.not_run("pytest -m gpu", "needs pytest: pip install 'gan_dist[test]'")
        return
    tests = launching.REPOSITORY / "tests"
    words = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider"]
    words += ["--rootdir", str(launching.REPOSITORY), "--basetemp", str(context.scratch / "pytest")]
    words.append(str(tests / "test_gpu.py" if context.short else tests))
    log = context.scratch / "pytest.log"
    with started(context, words, log) as process:
        code = wait(process, context.seconds_left - 2)
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    summary = lines[-1].strip("= ") if lines else "no output"
    if code is None:
        context.not_run("pytest -m gpu", f"no time left: {summary}")
    elif code == NONE:
        context.not_run("pytest -m gpu", "no test is marked gpu")
    else:
        context.check("pytest -m gpu", "" if code == 0 else summary, {}, summary)
