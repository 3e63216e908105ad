"""Runs jobs in other processes, one after the other on one rank or several; each job fails alone.

A worker process keeps torch and the process group for all its jobs. If a job raises an error, ends the process, or
takes too long, the next job gets a new worker.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import launching

from gpu_parts.context import Context
from gpu_parts.processes import last_error, started, wait

SCRIPT = launching.REPOSITORY / "benchmarks" / "gpu.py"
START = 90.0  # seconds within which a worker must have begun its first job
END = 30.0  # seconds in which a worker must have left the process group and ended
SHORTEST = 5.0  # seconds; with less time left, no worker is started


@dataclass(frozen=True)
class Job:
    """A call of a function of jobs.py, on every rank."""

    kind: str
    """Key of JOBS."""
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    job: Job
    result: dict[str, Any] | None
    """None if it has none."""
    problem: str = ""
    """Why."""
    expected: bool = False
    """The reason is no fault: no time left, too little memory, or a combination that is refused."""


def run_jobs(
    context: Context, jobs: Sequence[Job], ranks: int = 1, limit: float = 60.0, cpu: bool = False, **variables: str
) -> Iterator[Outcome]:
    """Run jobs and yield their outcomes, in order.

    Args:
        context: of the part; jobs that have not ended at its deadline have the outcome "no time left".
        jobs: on every rank.
        ranks: number of processes.
        limit: seconds of a job.
        cpu: hide the GPUs.
        variables: more of the workers' environment.
    """
    done = 0
    while done < len(jobs) and context.seconds_left > SHORTEST:
        for outcome in _run_until_failure(context, jobs[done:], ranks, limit, cpu, variables):
            done += 1
            yield outcome
    for job in jobs[done:]:
        yield Outcome(job, None, "no time left", expected=True)


def _run_until_failure(
    context: Context, jobs: Sequence[Job], ranks: int, limit: float, cpu: bool, variables: dict[str, str]
) -> Iterator[Outcome]:
    """The outcomes of the first jobs, with that of the first failed one."""
    folder = context.scratch / "workers" / f"{context.part}-{time.time_ns()}"
    folder.mkdir(parents=True)
    file, results, log = folder / "jobs.json", folder / "results", folder / "log"
    file.write_text(json.dumps([asdict(job) for job in jobs]))
    words = [*launching.launcher(ranks), str(SCRIPT), "--jobs", str(file), "--results", str(results)]
    with started(context, words, log, cpu, **variables) as process:
        seen, done, progress = 0, 0, time.time()
        while done < len(jobs):
            ended = wait(process, 0.1)
            lines = _lines(results)
            for line in lines[seen:]:
                progress = time.time()
                if "begin" not in line:
                    yield Outcome(jobs[done], line["result"], line["problem"], line["expected"])
                    done += 1
                    if line["last"]:
                        return
            seen = len(lines)
            if done == len(jobs):
                _check_end(context, ranks, wait(process, min(END, context.seconds_left)), log)
            elif ended is not None:
                yield Outcome(jobs[done], None, f"the process ended with exit code {ended}: {last_error(log)}")
                return
            elif context.seconds_left <= 0:
                yield Outcome(jobs[done], None, "no time left", expected=True)
                return
            elif time.time() - progress > (limit if seen else max(limit, START)):
                yield Outcome(jobs[done], None, f"took longer than {limit:.0f} s: {last_error(log)}")
                return


def _check_end(context: Context, ranks: int, code: int | None, log: Path) -> None:
    """Add a row if workers did not end well after their last job; None: they still run, unless the time is over."""
    name = f"the end of {ranks} rank{'s' * (ranks > 1)}"
    if code is None and context.seconds_left > 0:
        context.check(name, f"did not end within {END:.0f} s after the last job")
    elif code:
        context.check(name, f"ended with exit code {code}: {last_error(log)}")


def _lines(results: Path) -> list[dict[str, Any]]:
    text = results.read_text() if results.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def work(file: Path, results: Path) -> int:
    """Run the jobs of a file in this process, which is one of the ranks; rank 0 writes the results.

    Returns:
        The exit code.
    """
    from gan_dist.distributed.openmp import limit_spinning

    limit_spinning()  # before torch is imported
    from gpu_parts import jobs as functions

    functions.prepare()
    for job in json.loads(file.read_text()):
        _write(results, {"begin": job["kind"]})
        result, problem, expected, last = functions.run_job(job["kind"], job["arguments"])
        _write(results, {"result": result, "problem": problem, "expected": expected, "last": last})
        if last:
            sys.stdout.flush()
            return 3
    functions.leave()
    return 0


def _write(results: Path, line: dict[str, Any]) -> None:
    from gan_dist.distributed.environment import read_environment

    if read_environment().rank == 0:
        with open(results, "a") as stream:
            stream.write(json.dumps(line) + "\n")
