"""Trains as gan_dist/train.py does, with one function of one rank hurt; for the tests.

    hurt_call.py RANK MODULE FUNCTION FAULT [flags of train.py]

FAULT, of each call: sleep:SECONDS before it; the name of an exception, which it raises; or of a signal, which the
process sends itself.
"""

from __future__ import annotations

import builtins
import importlib
import os
import signal
import sys
import time
from typing import Any

from gan_dist import train

rank, module, function, fault = sys.argv[1:5]
if os.environ.get("RANK", "0") == rank:
    place = importlib.import_module(module)
    original = getattr(place, function)

    def hurt(*arguments: Any, **options: Any) -> Any:
        print(f"hurt: {fault}", file=sys.stderr, flush=True)
        if fault.startswith("sleep:"):
            time.sleep(float(fault.removeprefix("sleep:")))
        elif fault.startswith("SIG"):
            os.kill(os.getpid(), signal.Signals[fault])
        else:
            raise getattr(builtins, fault)("hurt")
        return original(*arguments, **options)

    setattr(place, function, hurt)
sys.exit(train.main(sys.argv[5:]))
