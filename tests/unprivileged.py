"""Runs Python code to which permissions apply, also if the tests run as root."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from conftest import REPOSITORY, Ended, environment

# Root ignores permissions by two capabilities, which a program does not get if they are not in the bounding set.
_DROP = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
    assert ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def run_unprivileged(script: str, *arguments: str | Path) -> Ended:
    """Run a script in a new process."""
    words = ["-c", script, *map(str, arguments)]
    if os.getuid() == 0:
        words = ["-c", _DROP, *words]
    env = environment() | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=env, timeout=60)
    return Ended(done.returncode, done.stdout, done.stderr)
